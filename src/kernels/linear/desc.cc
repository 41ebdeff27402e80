#include "kernels/linear/desc.h"

#include <fmt/format.h>

#include "core/error.h"

namespace qg {
namespace {

std::string_view word(WeightScaling scaling) {
  switch (scaling) {
    case WeightScaling::none:
      return "none";
    case WeightScaling::tensor:
      return "tensor";
    case WeightScaling::channel:
      return "channel";
    case WeightScaling::group:
      return "group";
  }
  return "?";
}

std::string_view word(ActivationScaling scaling) {
  switch (scaling) {
    case ActivationScaling::none:
      return "none";
    case ActivationScaling::static_tensor:
      return "static";
    case ActivationScaling::dynamic_token:
      return "dynamic";
  }
  return "?";
}

std::string place(const LinearWeights& w) {
  return fmt::format("linear layer of {} weights [{}, {}]", to_string(w.format), w.n, w.k);
}

void expect(const LinearWeights& w, const Tensor& tensor, const char* name, DType dtype, const Shape& shape) {
  if (tensor.empty()) throw Error(fmt::format("{} is missing", name), place(w), "make the checkpoint again");
  if (tensor.dtype != dtype || tensor.shape != shape)
    throw Error(fmt::format("{} is {} {}, expected {} {}", name, to_string(tensor.dtype), to_string(tensor.shape),
                            to_string(dtype), to_string(shape)),
                place(w), "make the checkpoint again");
}

void check_fp16(const LinearWeights& w) {
  const DType t = w.weight.dtype;
  expect(w, w.weight, "weight", t == DType::bf16 || t == DType::f32 ? t : DType::f16, {w.n, w.k});
}

void check_int4(const LinearWeights& w) {
  if (w.group_size <= 0 || w.group_size % 2 != 0 || w.k % w.group_size != 0)
    throw Error(fmt::format("group size {} does not divide {} inputs into even groups", w.group_size, w.k), place(w),
                "make the checkpoint again with a group size of 128, 64 or 32 that divides the inputs");
  const Shape groups{w.n, w.k / w.group_size};
  expect(w, w.weight, "weight", DType::u8, {w.n, w.k / 2});
  expect(w, w.weight_scale, "weight_scale", DType::f32, groups);
  if (!w.zero_point.empty()) expect(w, w.zero_point, "zero_point", DType::u8, groups);
}

WeightScaling check_scaled(const LinearWeights& w, DType dtype) {
  expect(w, w.weight, "weight", dtype, {w.n, w.k});
  const bool per_tensor = w.weight_scale.shape == Shape{1};
  expect(w, w.weight_scale, "weight_scale", DType::f32, per_tensor ? Shape{1} : Shape{w.n});
  return per_tensor ? WeightScaling::tensor : WeightScaling::channel;
}

}  // namespace

std::string to_string(const LinearDesc& desc) {
  std::string text = fmt::format("linear m={} n={} k={} {} {}", desc.m, desc.n, desc.k, to_string(desc.weights),
                                 word(desc.weight_scaling));
  if (desc.weights == WeightFormat::fp16) text += fmt::format(" {}", to_string(desc.weight_dtype));
  if (desc.group_size > 0) text += fmt::format(" group={}", desc.group_size);
  if (desc.activations != ActivationScaling::none) text += fmt::format(" {}", word(desc.activations));
  if (desc.zero_points) text += " zero_points";
  if (desc.prequant) text += " prequant";
  return text;
}

LinearDesc describe_linear(const LinearWeights& w, ActivationScaling activations, int64_t m) {
  LinearDesc d;
  d.m = m;
  d.n = w.n;
  d.k = w.k;
  d.weights = w.format;
  d.weight_dtype = w.weight.dtype;
  d.prequant = !w.prequant_scale.empty();
  if (d.prequant) expect(w, w.prequant_scale, "prequant_scale", DType::f32, {w.k});
  switch (w.format) {
    case WeightFormat::fp16:
      check_fp16(w);
      return d;
    case WeightFormat::int4_awq:
      check_int4(w);
      d.weight_scaling = WeightScaling::group;
      d.group_size = w.group_size;
      d.zero_points = !w.zero_point.empty();
      return d;
    case WeightFormat::fp8:
      d.weight_scaling = check_scaled(w, DType::f8_e4m3);
      break;
    case WeightFormat::int8_sq:
      d.weight_scaling = check_scaled(w, DType::i8);
      break;
  }
  d.activations = w.input_scale.empty() ? activations : ActivationScaling::static_tensor;
  if (d.activations == ActivationScaling::static_tensor) expect(w, w.input_scale, "input_scale", DType::f32, {1});
  return d;
}

}  // namespace qg
