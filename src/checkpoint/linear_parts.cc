#include "checkpoint/linear_parts.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace qg {
namespace {

// Rows of a tensor whose first dimension counts out features.
Tensor rows_of(const Tensor& tensor, int64_t first, int64_t rows) {
  if (tensor.empty() || tensor.shape.empty()) return tensor;
  const size_t row_bytes = tensor.bytes() / static_cast<size_t>(tensor.shape[0]);
  Shape shape = tensor.shape;
  shape[0] = rows;
  return {tensor.dtype, std::move(shape), tensor.data + static_cast<size_t>(first) * row_bytes, tensor.owner};
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  if (a.empty() || b.empty()) return a.empty() == b.empty();
  return a.dtype == b.dtype && a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

Tensor stacked(const std::vector<Tensor>& tensors, const std::string& what, const std::string& where) {
  Shape shape = tensors.front().shape;
  shape.at(0) = 0;
  for (const Tensor& t : tensors) {
    Shape like = t.shape;
    if (t.empty() || like.size() != shape.size() || t.dtype != tensors.front().dtype)
      throw Error(what + " of the parts differ in kind", where, "they are run as one matrix: fetch or make it again");
    shape[0] += like[0];
    like[0] = shape[0];
    if (like != shape) throw Error(what + " of the parts differ in width", where);
  }
  const NewTensor made = new_tensor(tensors.front().dtype, shape);
  std::byte* to = made.data;
  for (const Tensor& t : tensors) {
    std::memcpy(to, t.data, t.bytes());
    to += t.bytes();
  }
  return made.tensor;
}

std::vector<Tensor> each(const std::vector<LinearWeights>& parts, Tensor LinearWeights::*member) {
  std::vector<Tensor> tensors;
  for (const LinearWeights& part : parts) tensors.push_back(part.*member);
  return tensors;
}

bool all_same(const std::vector<Tensor>& tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& t) { return same_bytes(t, tensors.front()); });
}

Tensor stacked_scales(const std::vector<LinearWeights>& parts, const std::string& where) {
  std::vector<Tensor> scales = each(parts, &LinearWeights::weight_scale);
  if (scales.front().empty() && all_same(scales)) return {};
  const bool one_each = std::all_of(scales.begin(), scales.end(), [](const Tensor& t) { return t.shape == Shape{1}; });
  if (one_each && all_same(scales)) return scales.front();
  for (size_t i = 0; i < parts.size(); ++i) scales[i] = scale_per_row(scales[i], parts[i].n);
  return stacked(scales, "weight scales", where);
}

Tensor joint_input_scale(const std::vector<Tensor>& scales, const std::string& where, std::vector<std::string>* notes) {
  if (all_same(scales)) return scales.front();
  float greatest = 0;
  for (const Tensor& scale : scales) {
    if (scale.empty()) throw Error("only some of the parts have a static input scale", where);
    greatest = std::max(greatest, to_f32(scale).at(0));
  }
  if (notes) notes->push_back(where + ": static input scales of the parts differ; the greatest is used for all");
  return tensor_from_f32(std::vector<float>{greatest}, {1});
}

// What stack_parts made of one scale a part, undone.
Tensor one_if_same(const Tensor& scale) {
  const std::vector<float> values = to_f32(scale);
  const bool same = std::all_of(values.begin(), values.end(), [&](float v) { return v == values.front(); });
  return same ? tensor_from_f32(std::vector<float>{values.front()}, {1}) : scale;
}

}  // namespace

Tensor scale_per_row(const Tensor& scale, int64_t n) {
  if (scale.empty() || scale.elements() != 1 || (n == 1 && scale.shape == Shape{1})) return scale;
  return tensor_from_f32(std::vector<float>(static_cast<size_t>(n), to_f32(scale)[0]), {n});
}

LinearWeights part_rows(const LinearWeights& weights, int64_t first, int64_t rows) {
  if (first == 0 && rows == weights.n) return weights;
  LinearWeights part = weights;
  part.n = rows;
  part.weight = rows_of(weights.weight, first, rows);
  if (weights.weight_scale.shape != Shape{1}) part.weight_scale = rows_of(weights.weight_scale, first, rows);
  if (part.format == WeightFormat::fp8) part.weight_scale = one_if_same(part.weight_scale);
  part.zero_point = rows_of(weights.zero_point, first, rows);
  return part;
}

LinearWeights stack_parts(const std::vector<LinearWeights>& parts, const std::string& where,
                          std::vector<std::string>* notes) {
  if (parts.size() == 1) return parts.front();
  LinearWeights whole = parts.front();
  whole.n = 0;
  for (const LinearWeights& part : parts) {
    if (part.format != whole.format || part.k != whole.k || part.group_size != whole.group_size)
      throw Error("parts that are run as one matrix are quantized differently", where);
    whole.n += part.n;
  }
  whole.weight = stacked(each(parts, &LinearWeights::weight), "weights", where);
  whole.weight_scale = stacked_scales(parts, where);
  const std::vector<Tensor> zeros = each(parts, &LinearWeights::zero_point);
  if (!zeros.front().empty() || !all_same(zeros)) whole.zero_point = stacked(zeros, "zero points", where);
  whole.input_scale = joint_input_scale(each(parts, &LinearWeights::input_scale), where, notes);
  if (!all_same(each(parts, &LinearWeights::prequant_scale)))
    throw Error("parts that read one input scale it differently (pre_quant_scale)", where,
                "export the model with one scale for q, k and v, as modelopt's own exporter does");
  return whole;
}

}  // namespace qg
