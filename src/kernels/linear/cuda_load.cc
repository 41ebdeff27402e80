// A layer's stored tensors to device memory, in the form that its kernels read.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "kernels/linear/cuda_state.h"
#include "kernels/linear/desc.h"

namespace qg {
namespace {

int64_t round_up(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

std::string place(const LinearWeights& w) {
  return fmt::format("linear layer of {} weights [{}, {}]", to_string(w.format), w.n, w.k);
}

DeviceBuffer upload(const void* from, size_t bytes) {
  DeviceBuffer buffer(bytes);
  QG_CUDA(cudaMemcpy(buffer.data(), from, bytes, cudaMemcpyHostToDevice));
  return buffer;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && (a.empty() || std::equal(a.data, a.data + a.bytes(), b.data));
}

// Throws unless the parts can be one layer.
void check_parts(std::span<const LinearWeights* const> parts, ActivationScaling activations) {
  if (parts.empty()) throw Error("a linear layer without parts");
  const LinearWeights& first = *parts.front();
  for (const LinearWeights* part : parts) {
    describe_linear(*part, activations, 1);
    const bool same = part->format == first.format && part->k == first.k && part->group_size == first.group_size &&
                      part->zero_point.empty() == first.zero_point.empty() &&
                      part->weight.dtype == first.weight.dtype && same_bytes(part->input_scale, first.input_scale) &&
                      same_bytes(part->prequant_scale, first.prequant_scale);
    if (!same)
      throw Error("layers that are to be read as one differ in format, inputs, group size or input scaling",
                  place(*part), "make them layers of their own");
  }
  if (first.k % 16 != 0)
    throw Error(fmt::format("{} inputs: the kernels need a multiple of 16", first.k), place(first), "run it on the CPU",
                ExitCode::cannot_here);
}

ComputePath choose_path(const LinearWeights& w, ActivationScaling activations, const LinearContextState& context) {
  const KernelFamily family = context.device.family;
  if (context.type == DType::bf16 && w.format != WeightFormat::fp16)
    throw Error("quantized weights cannot be computed in BF16: their kernels take FP16", place(w),
                "compute in FP16 (--dtype fp16)", ExitCode::cannot_here);
  switch (w.format) {
    case WeightFormat::fp16:
      return context.type == DType::bf16 ? ComputePath::w16a16_bf16 : ComputePath::w16a16;
    case WeightFormat::int4_awq:
      return ComputePath::w4a16;
    case WeightFormat::int8_sq:
      if (activations == ActivationScaling::none)
        throw Error("int8 weights with 16-bit activations: no kernel computes this", place(w),
                    "quantize the activations too", ExitCode::cannot_here);
      return ComputePath::w8a8_int8;
    case WeightFormat::fp8:
      return activations == ActivationScaling::none || family == KernelFamily::sm80 ? ComputePath::w8a16_fp8
                                                                                    : ComputePath::w8a8_fp8;
  }
  return ComputePath::w16a16;
}

SkinnyFormat skinny_format(const LinearState& layer) {
  switch (layer.path) {
    case ComputePath::w16a16:
      return SkinnyFormat::f16;
    case ComputePath::w16a16_bf16:
      return SkinnyFormat::bf16;
    case ComputePath::w8a8_fp8:
      return SkinnyFormat::e4m3;
    case ComputePath::w8a8_int8:
      return SkinnyFormat::int8;
    case ComputePath::w8a16_fp8:
      return SkinnyFormat::e4m3_f16;
    case ComputePath::w4a16:
      return layer.int4.halves == 2 ? SkinnyFormat::w4_zeros_32
             : layer.int4.zeros     ? SkinnyFormat::w4_zeros
                                    : SkinnyFormat::w4;
  }
  return SkinnyFormat::f16;
}

// Hopper's kernel stores 16 bytes at a time, and knows one scale for each 64 of k.
std::optional<WideFormat> wide_format(const LinearState& layer) {
  if (!layer.hopper || layer.n % 8 != 0) return {};
  switch (layer.skinny) {
    case SkinnyFormat::w4:
      return WideFormat::w4;
    case SkinnyFormat::w4_zeros:
      return WideFormat::w4_zeros;
    case SkinnyFormat::int8:
      return WideFormat::int8;
    case SkinnyFormat::e4m3:
      return WideFormat::e4m3;
    case SkinnyFormat::f16:
      return WideFormat::f16;
    default:
      return {};
  }
}

// Where a part's rows go: the first of them, and from a run of rows that stay together to the next.
struct RowPlaces {
  int64_t first = 0, run = 0, apart = 0;
  int64_t at(int64_t row) const { return first + row / run * apart + row % run; }
};
constexpr int64_t kAlternatingRows = 8;
RowPlaces places_of(const LinearState& layer, size_t part) {
  const LinearPart& p = layer.parts[part];
  if (!layer.alternating) return {p.begin, p.n, p.n};
  return {static_cast<int64_t>(part) * kAlternatingRows, kAlternatingRows, 2 * kAlternatingRows};
}

// The inverse: which part's row lies at a place.
struct PartRow {
  size_t part = 0;
  int64_t row = 0;
};
PartRow row_at(const LinearState& layer, int64_t place) {
  if (layer.alternating) {
    const int64_t pair = place / (2 * kAlternatingRows), within = place % (2 * kAlternatingRows);
    return {static_cast<size_t>(within / kAlternatingRows), pair * kAlternatingRows + within % kAlternatingRows};
  }
  size_t part = 0;
  while (place >= layer.parts[part].begin + layer.parts[part].n) ++part;
  return {part, place - layer.parts[part].begin};
}

// One tensor of every part to the device, rows at their places, `width` bytes of each and zeros up to `pitch`; rows
// from n to `rows` are zeros.
void upload_rows(const LinearState& layer, std::span<const LinearWeights* const> parts, Tensor LinearWeights::*member,
                 std::byte* to, size_t width, size_t pitch, int64_t rows) {
  layer.context->upload.rows(to, rows, pitch, [&](int64_t place, std::byte* out) {
    const bool inside = place < layer.n;
    if (inside) {
      const PartRow from = row_at(layer, place);
      std::memcpy(out, (parts[from.part]->*member).data + static_cast<size_t>(from.row) * width, width);
    }
    const size_t filled = inside ? width : 0;
    std::memset(out + filled, 0, pitch - filled);
  });
}

void convert_rows(const LinearState& layer, const LinearWeights& part, const RowPlaces& places) {
  const DeviceBuffer raw(part.weight.bytes());
  layer.context->upload.bytes(raw.data(), part.weight.data, part.weight.bytes());
  const int none = 0;
  const DeviceBuffer overflows = upload(&none, sizeof none);
  convert_to_16(part.weight.dtype, raw.data(), type_16(layer), layer.weight.data() + places.first * layer.pitch * 2,
                part.n, part.k, layer.pitch, places.run, places.apart, overflows.as<int>(), nullptr);
  int overflow = 0;
  QG_CUDA(cudaMemcpy(&overflow, overflows.data(), sizeof overflow, cudaMemcpyDeviceToHost));
  if (overflow && type_16(layer) == DType::bf16)
    throw Error("a weight is larger than BF16 can hold (3.39e38)", place(part), "look for what is wrong with the model",
                ExitCode::cannot_here);
  if (overflow)
    throw Error("a weight is larger than FP16 can hold (65504)", place(part),
                "compute in BF16 (--dtype bf16), or quantize the model to fp8 or int8", ExitCode::cannot_here);
}

void load_rows(LinearState& layer, std::span<const LinearWeights* const> parts) {
  const DType type = parts.front()->weight.dtype;
  const bool other = is_w16(layer.path) && type != type_16(layer);  // than the kernels read
  layer.pitch = round_up(layer.k, 64);
  const size_t element = other ? 2 : size_bytes(type), pitch = static_cast<size_t>(layer.pitch) * element;
  const int64_t rows = round_up(layer.n, 16);
  layer.weight = DeviceBuffer(static_cast<size_t>(rows) * pitch);
  if (!other) {
    upload_rows(layer, parts, &LinearWeights::weight, layer.weight.data(), static_cast<size_t>(layer.k) * element,
                pitch, rows);
    return;
  }
  QG_CUDA(cudaMemset(layer.weight.data(), 0, layer.weight.bytes()));
  for (size_t i = 0; i < parts.size(); ++i) convert_rows(layer, *parts[i], places_of(layer, i));
}

void load_channel_scales(LinearState& layer, std::span<const LinearWeights* const> parts) {
  std::vector<float> scales(static_cast<size_t>(round_up(layer.n, 16)), 0.0f);
  layer.tensor_scales = true;
  for (size_t i = 0; i < parts.size(); ++i) {
    const float* from = parts[i]->weight_scale.as<float>();
    const bool tensor = parts[i]->weight_scale.elements() == 1;
    layer.tensor_scales = layer.tensor_scales && tensor;
    layer.parts[i].scale = from[0];
    const RowPlaces places = places_of(layer, i);
    for (int64_t r = 0; r < parts[i]->n; ++r) scales[static_cast<size_t>(places.at(r))] = from[tensor ? 0 : r];
  }
  layer.uniform = layer.tensor_scales && std::all_of(layer.parts.begin(), layer.parts.end(), [&](const LinearPart& p) {
                    return p.scale == layer.parts.front().scale;
                  });
  layer.weight_scale = layer.uniform ? layer.parts.front().scale : 1.0f;
  layer.channel_scales = upload(scales.data(), scales.size() * sizeof(float));
}

Int4Layout int4_layout(const LinearState& layer, const LinearWeights& first) {
  Int4Layout layout;
  layout.n = layer.n;
  layout.k = layer.k;
  layout.group_size = first.group_size;
  if (first.group_size % 32 != 0)
    throw Error(fmt::format("int4 groups of {}: the kernels need a multiple of 32", first.group_size), place(first),
                "run it on the CPU, or make the checkpoint with groups of 128", ExitCode::cannot_here);
  layout.halves = first.group_size % 64 == 0 ? 1 : 2;
  layout.zeros = layout.halves == 2 || !first.zero_point.empty();
  // Groups of 64 times a power of two are stored as they are; others once for every chunk.
  const auto chunks_a_group = static_cast<uint64_t>(first.group_size / 64);
  layout.group_shift = layout.halves == 1 && std::has_single_bit(chunks_a_group) ? std::countr_zero(chunks_a_group) : 0;
  layout.groups = static_cast<int>((layout.chunks() + (int64_t{1} << layout.group_shift) - 1) >> layout.group_shift);
  return layout;
}

// The power of two that brings the largest scale to 1..2, so that small ones are not subnormal halves.
float scale_multiplier(std::span<const LinearWeights* const> parts) {
  float largest = 0;
  for (const LinearWeights* part : parts) {
    const float* scales = part->weight_scale.as<float>();
    for (int64_t i = 0; i < part->weight_scale.elements(); ++i) largest = std::max(largest, std::fabs(scales[i]));
  }
  return largest > 0 && std::isfinite(largest) ? std::ldexp(1.0f, -std::ilogb(largest)) : 1.0f;
}

// One tensor of every part on the device, rows at their places.
DeviceBuffer upload_joined(const LinearState& layer, std::span<const LinearWeights* const> parts,
                           Tensor LinearWeights::*member) {
  size_t bytes = 0;
  for (const LinearWeights* part : parts) bytes += (part->*member).bytes();
  DeviceBuffer joined(bytes);
  const size_t width = bytes / static_cast<size_t>(layer.n);
  upload_rows(layer, parts, member, joined.data(), width, width, layer.n);
  return joined;
}

void load_int4(LinearState& layer, std::span<const LinearWeights* const> parts) {
  layer.int4 = int4_layout(layer, *parts.front());
  layer.weight = DeviceBuffer(static_cast<size_t>(layer.int4.weight_bytes()));
  layer.group_scales = DeviceBuffer(static_cast<size_t>(layer.int4.scale_bytes()));
  const DeviceBuffer codes = upload_joined(layer, parts, &LinearWeights::weight);
  const DeviceBuffer scales = upload_joined(layer, parts, &LinearWeights::weight_scale);
  DeviceBuffer zeros;
  if (!parts.front()->zero_point.empty()) zeros = upload_joined(layer, parts, &LinearWeights::zero_point);
  const float multiplier = scale_multiplier(parts);
  layer.weight_scale = 1 / multiplier;
  pack_int4(layer.int4, codes.data(), layer.weight.data(), nullptr);
  pack_int4_scales(layer.int4, scales.as<float>(), zeros.as<uint8_t>(), multiplier, layer.group_scales.data(), nullptr);
  QG_CUDA(cudaStreamSynchronize(nullptr));  // before the codes as they came go
}

void set_activations(LinearState& layer, const LinearWeights& first, ActivationScaling activations) {
  if (layer.path != ComputePath::w8a8_fp8 && layer.path != ComputePath::w8a8_int8) return;
  layer.per_token = activations == ActivationScaling::dynamic_token;
  if (layer.per_token) return;
  layer.static_scale = *first.input_scale.as<float>();
  // Rows that alternate cannot be a call of the library for each part: it gets a scale for each row of x and of W.
  if (!layer.alternating || layer.uniform || layer.path != ComputePath::w8a8_fp8 || !layer.hopper) return;
  const std::vector<float> scales(static_cast<size_t>(layer.context->max_rows), layer.static_scale);
  layer.static_scales = upload(scales.data(), scales.size() * sizeof(float));
}

}  // namespace

std::unique_ptr<LinearState> load_linear(std::span<const LinearWeights* const> parts, ActivationScaling activations,
                                         LinearContextState& context, PartOrder order) {
  check_parts(parts, activations);
  if (order == PartOrder::alternating &&
      (parts.size() != 2 || parts[0]->n != parts[1]->n || parts[0]->n % kAlternatingRows != 0))
    throw Error(fmt::format("rows of {} parts of {} rows cannot alternate {} by {}", parts.size(), parts[0]->n,
                            kAlternatingRows, kAlternatingRows),
                place(*parts.front()), "run it on the CPU", ExitCode::cannot_here);
  const LinearWeights& first = *parts.front();
  const ActivationScaling scaling = describe_linear(first, activations, 1).activations;
  auto layer = std::make_unique<LinearState>(context);
  layer->alternating = order == PartOrder::alternating;
  layer->hopper = context.device.family == KernelFamily::sm90a && context.device.compute_capability == 90;
  layer->k = first.k;
  for (const LinearWeights* part : parts) {
    layer->parts.push_back({layer->n, part->n, 1.0f});
    layer->n += part->n;
  }
  layer->path = choose_path(first, scaling, context);
  if (layer->path == ComputePath::w4a16) {
    load_int4(*layer, parts);
  } else {
    load_rows(*layer, parts);
    if (!is_w16(layer->path)) load_channel_scales(*layer, parts);
  }
  layer->skinny = skinny_format(*layer);
  layer->wide = wide_format(*layer);
  if (layer->hopper && layer->path != ComputePath::w4a16) {
    const int64_t rows = round_up(layer->n, kSkinnyRows);
    layer->weight_map = tensor_map(layer->weight.data(), rows, static_cast<int64_t>(layer->weight.bytes()) / rows,
                                   static_cast<int64_t>(layer->weight.bytes()) / rows, 1, kSkinnyRows, 128);
  }
  set_activations(*layer, first, scaling);
  if (!first.prequant_scale.empty()) layer->prequant = upload(first.prequant_scale.data, first.prequant_scale.bytes());
  context.upload.wait();  // other streams read the weights
  QG_CUDA(cudaStreamSynchronize(nullptr));
  context.reserve(scratch_bytes(*layer), std::max(kWideTickets, round_up(layer->n, kSkinnyRows) / kSkinnyRows));
  return layer;
}

}  // namespace qg
