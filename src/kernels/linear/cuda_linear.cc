// The calls of the kernels that a layer runs through.
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/linear/cuda_state.h"
#include "kernels/pointwise/cuda.h"

namespace qg {
namespace {

int64_t round_up(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

const char* skinny_family(ComputePath path) {
  return path == ComputePath::w8a8_fp8 ? "sm89" : "sm80";
}

// All but what the plan says.
SkinnyArguments skinny_arguments(const LinearState& layer, int64_t m, const ActivationBuffer& x, void* y,
                                 DType y_type) {
  const LinearContextState& context = *layer.context;
  const SkinnyChunk chunk = skinny_chunk(layer.skinny);
  SkinnyArguments a;
  a.weight = layer.weight.data();
  a.group_scales = layer.group_scales.data();
  a.channel_scales = layer.channel_scales.as<float>();
  a.x = x.values;
  a.row_scales = layer.per_token ? x.row_scales : nullptr;
  a.y = y;
  a.partials = context.scratch.data();
  a.tickets = context.tickets.as<int>();
  a.scale = layer.static_scale;
  if (layer.path == ComputePath::w4a16) a.scale = layer.weight_scale;
  if (layer.path == ComputePath::w8a16_fp8) a.scale = 256;  // undoes the expansion's 1/256
  const int64_t element = is_w16(layer.path) ? 2 : 1;
  a.half_bytes = 8 * layer.pitch * element;
  a.tile_bytes = layer.path == ComputePath::w4a16 ? layer.int4.chunks() * 512 : 16 * layer.pitch * element;
  a.m = static_cast<int>(m);
  a.n = static_cast<int>(layer.n);
  a.tiles = static_cast<int>(round_up(layer.n, kSkinnyRows) / kSkinnyRows);
  a.x_row_bytes = static_cast<int>(layer.k * chunk.x_bytes / chunk.k);
  a.group_shift = layer.int4.group_shift;
  a.groups = layer.int4.groups;
  a.y_f32 = y_type == DType::f32;
  a.y_f16 = y_type == DType::f16;
  return a;
}

void run_skinny(const LinearState& layer, const CudaQueue& queue, int64_t m, const ActivationBuffer& x, void* y,
                DType y_type) {
  const SkinnyPlan plan = plan_skinny(layer.skinny, m, layer.n, layer.k, layer.context->device);
  SkinnyArguments a = skinny_arguments(layer, m, x, y, y_type);
  const int64_t chunk_k = skinny_chunk(layer.skinny).k;
  a.chunks = static_cast<int>((layer.k + chunk_k - 1) / chunk_k);
  a.slices = plan.slices;
  a.chunks_per_slice = plan.chunks_per_slice;
  a.x_pitch = plan.x_pitch;
  a.ahead = weights_ahead(layer, int64_t{plan.grid} * kSkinnyWarps);
  launch_skinny(layer.skinny, plan, a, queue);
}

// How a product ends whose output `wanted` says.
template <class Arguments>
void set_gate(Arguments& a, const ActivationRequest& wanted) {
  a.gate = is_16_bit(wanted.form) ? GateForm::f16 : wanted.form == ActivationForm::fp8 ? GateForm::fp8 : GateForm::int8;
  a.gate_prequant = wanted.prequant;
  a.gate_inverse = 1.0f / wanted.static_scale;
}

// gated: what the next layer wants of silu(gate) * up; null: y as it is.
void run_bulk(const LinearState& layer, const CudaQueue& queue, int64_t m, const ActivationBuffer& x, void* y,
              DType y_type, const ActivationRequest* gated = nullptr) {
  const BulkPlan plan = bulk_plan(layer, m);
  BulkArguments a;
  a.weight = layer.weight_map;
  a.layer = skinny_arguments(layer, m, x, y, y_type);
  const int64_t chunk_k = bulk_chunk_k(layer.skinny);
  a.layer.chunks = static_cast<int>((layer.k + chunk_k - 1) / chunk_k);
  a.layer.slices = plan.slices;
  a.layer.chunks_per_slice = plan.chunks_per_slice;
  a.layer.ahead = weights_ahead(layer, int64_t{plan.grid} * kBulkWarps);
  if (gated) set_gate(a, *gated);
  launch_bulk(layer.skinny, plan, a, queue);
}

const WidePlan& wide_plan(const LinearState& layer, int64_t m) {
  const auto [at, added] = layer.plans.try_emplace(m);
  const int wanted = layer.context->wanted_wide;
  if (added || wanted >= 0) at->second = plan_wide(*layer.wide, m, layer.n, layer.k, layer.context->device, wanted);
  return at->second;
}

void run_wide(const LinearState& layer, const CudaQueue& queue, int64_t m, const ActivationBuffer& x, void* y,
              bool y_f32, const ActivationRequest* gated = nullptr) {
  const LinearContextState& context = *layer.context;
  const WidePlan& plan = wide_plan(layer, m);
  const bool int4 = layer.path == ComputePath::w4a16;
  const int64_t rows = read_rows(layer, m, plan.tile.tokens);
  const int box_rows = plan.tile.tokens / plan.tile.cluster;  // a block copies
  WideArguments a;
  if (int4) {
    const Int4Layout& layout = layer.int4;
    const int64_t scale_bytes = layout.scale_words() * 32;
    a.x = tensor_map(x.values, rows, layer.k, layer.k * 2, 2, box_rows, 64);
    a.weight = tensor_map(layer.weight.data(), layout.tiles(), layout.chunks() * 64, layout.chunks() * 512, 8,
                          plan.tile.features() / 16, kInt4Box);
    a.scales = tensor_map(layer.group_scales.data(), layout.tiles(), layout.groups * scale_bytes / 8,
                          layout.groups * scale_bytes, 8, plan.tile.features() / 16, int4_scale_box(*layer.wide));
  } else {
    const int bytes = *layer.wide == WideFormat::f16 ? 2 : 1, step = wide_step(*layer.wide);
    a.x = tensor_map(x.values, rows, layer.k, layer.k * bytes, bytes, box_rows, step);
    a.weight =
        tensor_map(layer.weight.data(), layer.n, layer.k, layer.pitch * bytes, bytes, plan.tile.features(), step);
  }
  a.channel_scales = layer.channel_scales.as<float>();
  a.row_scales = layer.per_token ? x.row_scales : nullptr;
  a.y = y;
  a.partials = context.scratch.as<float>();
  a.tickets = context.tickets.as<int>();
  a.scale = int4 ? layer.weight_scale : layer.static_scale;
  a.m = static_cast<int>(m);
  a.n = static_cast<int>(layer.n);
  a.steps = plan.steps;
  a.token_tiles = plan.token_tiles;
  a.whole_tiles = plan.whole_tiles;
  a.split_tiles = plan.split_tiles;
  a.split_teams = plan.split_teams;
  a.group_shift = layer.int4.group_shift;
  a.y_f32 = y_f32;
  a.keep_weights = plan.token_tiles > 1;
  if (!a.keep_weights) a.ahead = weights_ahead(layer, plan.grid);
  if (gated) set_gate(a, *gated);
  launch_wide(*layer.wide, plan, a, queue);
}

// One piece of at most rows_a_piece rows, which begins at row `first`.
void run_piece(const LinearState& layer, LinearRoute route, const CudaQueue& queue, int64_t first, int64_t m,
               const ActivationBuffer& x, void* y, DType y_type) {
  LinearContextState& context = *layer.context;
  const GemmShape shape = library_shape(layer, route, library_rows(layer, first, m), y_type);
  GemmPointers p;
  p.weight = layer.weight.data();
  p.x = x.values;
  p.y = y;
  switch (route) {
    case LinearRoute::skinny:
      return run_skinny(layer, queue, m, x, y, y_type);
    case LinearRoute::bulk:
      return run_bulk(layer, queue, m, x, y, y_type);
    case LinearRoute::wide:
      return run_wide(layer, queue, m, x, y, y_type == DType::f32);
    case LinearRoute::library:
      p.alpha = layer.weight_scale * layer.static_scale;
      context.library.run(shape, p, queue.stream);
      if (shape.y_type != y_type) convert_in_place(queue, m * layer.n, y, y_type);
      return;
    case LinearRoute::library_parts:
      for (const LinearPart& part : layer.parts) {
        GemmShape one = shape;
        one.n = part.n;
        p.weight = layer.weight.data() + part.begin * layer.pitch;
        p.y = static_cast<std::byte*>(y) + part.begin * static_cast<int64_t>(size_bytes(y_type));
        p.alpha = part.scale * layer.static_scale;
        context.library.run(one, p, queue.stream);
      }
      return;
    case LinearRoute::library_scaled:
      p.weight_scales = layer.channel_scales.as<float>();
      p.x_scales = layer.per_token ? x.row_scales : layer.static_scales.as<float>();
      return context.library.run(shape, p, queue.stream);
    case LinearRoute::library_sums:
      p.y = context.scratch.data();
      context.library.run(shape, p, queue.stream);
      return scale_sums(shape.kind == GemmKind::int8, p.y, layer.per_token ? x.row_scales : nullptr, layer.static_scale,
                        layer.channel_scales.as<float>(), y, y_type == DType::f32, m, layer.n, queue);
    case LinearRoute::expand:
      p.weight = context.scratch.data();
      p.alpha = layer.weight_scale;
      if (layer.path == ComputePath::w4a16) {
        expand_int4(layer.int4, layer.weight.data(), layer.group_scales.data(), context.scratch.data(), queue);
      } else {
        expand_e4m3(layer.weight.data(), layer.uniform ? nullptr : layer.channel_scales.as<float>(),
                    context.scratch.data(), layer.n, layer.k, layer.pitch, queue);
      }
      return context.library.run(shape, p, queue.stream);
  }
}

}  // namespace

void LinearContextState::reserve(int64_t scratch_bytes, int64_t ticket_count) {
  const auto needed = static_cast<size_t>(scratch_bytes), counters = static_cast<size_t>(ticket_count) * sizeof(int);
  if (needed > scratch.bytes()) {
    scratch = DeviceBuffer();  // the old one goes first
    scratch = DeviceBuffer(needed);
  }
  if (counters > tickets.bytes()) {
    tickets = DeviceBuffer(counters);
    QG_CUDA(cudaMemset(tickets.data(), 0, counters));
    QG_CUDA(cudaStreamSynchronize(nullptr));
  }
}

CudaLinearContext::CudaLinearContext(const DeviceCapabilities& device, int64_t max_rows, DType type)
    : state_(std::make_unique<LinearContextState>(device, max_rows, type)) {
  if (type != DType::f16 && type != DType::bf16)
    throw Error(fmt::format("linear layers of {} are asked for", to_string(type)), "", "take F16 or BF16");
  configure_skinny(device);
  if (device.family == KernelFamily::sm90a && device.compute_capability == 90) {
    configure_wide();
    configure_bulk();
  }
}
CudaLinearContext::~CudaLinearContext() = default;

DType CudaLinearContext::type() const {
  return state_->type;
}

int64_t CudaLinearContext::bytes() const {
  return static_cast<int64_t>(state_->scratch.bytes() + state_->tickets.bytes()) + state_->library.bytes();
}

CudaUpload& CudaLinearContext::upload() {
  return state_->upload;
}

CudaLinear::CudaLinear(std::span<const LinearWeights* const> parts, ActivationScaling activations,
                       CudaLinearContext& context, PartOrder order)
    : state_(load_linear(parts, activations, context.state(), order)) {}
CudaLinear::~CudaLinear() = default;
CudaLinear::CudaLinear(CudaLinear&&) noexcept = default;
CudaLinear& CudaLinear::operator=(CudaLinear&&) noexcept = default;

int64_t CudaLinear::n() const {
  return state_->n;
}
int64_t CudaLinear::k() const {
  return state_->k;
}
ComputePath CudaLinear::path() const {
  return state_->path;
}

int64_t CudaLinear::bytes() const {
  const LinearState& s = *state_;
  return static_cast<int64_t>(s.weight.bytes() + s.group_scales.bytes() + s.channel_scales.bytes() +
                              s.prequant.bytes());
}

ActivationRequest CudaLinear::input() const {
  ActivationRequest request;
  if (state_->path == ComputePath::w8a8_fp8) request.form = ActivationForm::fp8;
  if (state_->path == ComputePath::w8a8_int8) request.form = ActivationForm::int8;
  if (state_->path == ComputePath::w16a16_bf16) request.form = ActivationForm::bf16;
  request.per_token = state_->per_token;
  request.static_scale = state_->static_scale;
  request.prequant = state_->prequant.as<float>();
  return request;
}

DType CudaLinear::output_type() const {
  return type_16(*state_);
}

std::string CudaLinear::kernel_name(int64_t m) const {
  const LinearState& s = *state_;
  const std::string path(to_string(s.path));
  switch (choose_route(s, m)) {
    case LinearRoute::skinny: {
      const int64_t rows = std::min<int64_t>(m, kSkinnyMaxTokens);
      return fmt::format("{}_skinny_{}_m{}", skinny_family(s.path), path,
                         8 * plan_skinny(s.skinny, rows, s.n, s.k, s.context->device).token_tiles);
    }
    case LinearRoute::bulk: {
      const int64_t rows = std::min<int64_t>(m, kSkinnyMaxTokens);
      return fmt::format("sm90a_skinny_{}_m{}", path, 8 * bulk_plan(s, rows).token_tiles);
    }
    case LinearRoute::wide: {
      const WidePlan& plan = wide_plan(s, m);
      return fmt::format("sm90a_wide_{}_{}x{}{}", path, plan.tile.features(), plan.tile.tokens,
                         plan.partial_bytes > 0 ? "_split" : "");
    }
    case LinearRoute::library:
      return fmt::format("cublaslt_{}", path);
    case LinearRoute::library_parts:
      return "cublaslt_w8a8_fp8_parts";
    case LinearRoute::library_scaled:
      return "cublaslt_w8a8_fp8_scaled";
    case LinearRoute::library_sums:
      return fmt::format("cublaslt_{}+sm80_scale_sums", path);
    case LinearRoute::expand:
      return fmt::format("sm80_expand_{}+cublaslt_f16", path);
  }
  return {};
}

void CudaLinear::run(const CudaQueue& queue, int64_t m, const ActivationBuffer& x, void* y, DType y_type) const {
  const LinearState& s = *state_;
  if (y_type == DType::bf16 && output_type() != DType::bf16)
    throw Error(fmt::format("BF16 results are asked of a layer of {}", to_string(s.path)), "", "ask for F16 or F32");
  const LinearRoute route = choose_route(s, m);
  const int64_t piece = rows_a_piece(s, route, m);
  const int64_t x_row = s.k * bytes_of(input().form);
  for (int64_t begin = 0; begin < m; begin += piece) {
    ActivationBuffer from = x;
    from.values = static_cast<std::byte*>(x.values) + begin * x_row;
    if (x.row_scales) from.row_scales = x.row_scales + begin;
    run_piece(s, route, queue, begin, std::min(piece, m - begin), from,
              static_cast<std::byte*>(y) + begin * s.n * static_cast<int64_t>(size_bytes(y_type)), y_type);
  }
}

void CudaLinear::set_room(int64_t rows) {
  state_->room = std::min(rows, state_->context->max_rows);
}

int CudaLinear::shared_percent(int64_t m) const {
  if (!state_->hopper) return -1;
  return choose_route(*state_, m) == LinearRoute::skinny ? kSkinnySharedPercent : 100;
}

bool CudaLinear::can_gate(int64_t m, const ActivationRequest& wanted) const {
  if (!state_->alternating || wanted.per_token) return false;
  if ((wanted.form == ActivationForm::bf16) != (output_type() == DType::bf16)) return false;
  const LinearRoute route = choose_route(*state_, m);
  return route == LinearRoute::bulk || route == LinearRoute::wide;
}

void CudaLinear::run_gated(const CudaQueue& queue, int64_t m, const ActivationBuffer& x,
                           const ActivationRequest& wanted, void* out) const {
  const LinearState& s = *state_;
  if (choose_route(s, m) == LinearRoute::wide) return run_wide(s, queue, m, x, out, false, &wanted);
  const int64_t x_row = s.k * bytes_of(input().form);
  const int64_t out_row = s.n / 2 * bytes_of(wanted.form);
  for (int64_t begin = 0; begin < m; begin += kSkinnyMaxTokens) {
    const ActivationBuffer from = {static_cast<std::byte*>(x.values) + begin * x_row,
                                   x.row_scales ? x.row_scales + begin : nullptr};
    run_bulk(s, queue, std::min<int64_t>(kSkinnyMaxTokens, m - begin), from,
             static_cast<std::byte*>(out) + begin * out_row, output_type(), &wanted);
  }
}

}  // namespace qg
