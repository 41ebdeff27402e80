#include "checkpoint/trtllm_ranks.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace qg {
namespace {

bool splits_inputs(const LinearSpec& spec) {
  return spec.role == LinearRole::attention_output || spec.role == LinearRole::down;
}

void require_divides(int64_t value, int64_t by, const std::string& what) {
  if (value % by != 0)
    throw Error(std::to_string(by) + " GPUs cannot share " + std::to_string(value) + " " + what, "--tp",
                "use a number of GPUs that divides it");
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

// Bytes before and after one element of the axis: [outer, extent, inner bytes].
struct AxisBytes {
  size_t outer = 1, inner = 1;
  AxisBytes(const Tensor& tensor, int axis) : inner(size_bytes(tensor.dtype)) {
    for (size_t i = 0; i < tensor.shape.size(); ++i)
      (static_cast<int>(i) < axis ? outer : inner) *=
          static_cast<int>(i) == axis ? 1 : static_cast<size_t>(tensor.shape[i]);
  }
};

int64_t total(const AxisRanges& ranges) {
  int64_t sum = 0;
  for (const auto& [begin, count] : ranges) sum += count;
  return sum;
}

// Copies between the whole and the part, in the direction that `copy(whole bytes, part bytes, count)` goes.
template <class Copy>
void for_each_piece(const AxisBytes& bytes, int64_t extent, const AxisRanges& ranges, Copy copy) {
  size_t at = 0;
  for (size_t o = 0; o < bytes.outer; ++o)
    for (const auto& [begin, count] : ranges) {
      const size_t piece = static_cast<size_t>(count) * bytes.inner;
      copy((o * static_cast<size_t>(extent) + static_cast<size_t>(begin)) * bytes.inner, at, piece);
      at += piece;
    }
}

}  // namespace

RankRule linear_rank_rule(const LinearSpec& spec, const std::string& suffix, const Shape& whole, WeightFormat weights) {
  RankRule rule;
  const bool inputs = splits_inputs(spec);
  if (suffix == ".weight") {
    rule.axis = inputs ? 1 : 0;
    if (!inputs && weights == WeightFormat::int4_awq) rule.rows_each = 2;
  } else if (suffix == ".weights_scaling_factor") {
    const bool per_group = whole.size() == 2;
    if (inputs)
      rule.axis = per_group ? 1 : -1;
    else
      rule.axis = num_elements(whole) > 1 ? 0 : -1;
  } else if (suffix == ".per_channel_scale") {
    rule.axis = inputs ? -1 : static_cast<int>(whole.size()) - 1;
  } else if (suffix == ".prequant_scaling_factor" || suffix == ".smoother") {
    rule.axis = inputs ? static_cast<int>(whole.size()) - 1 : -1;
  }
  rule.by_head = rule.axis >= 0 && spec.role == LinearRole::qkv;
  return rule;
}

void check_ranks(const ModelShape& shape, const QuantSpec& quant, int64_t ranks) {
  if (ranks == 1) return;
  require_divides(shape.heads, ranks, "query heads");
  if (shape.kv_heads % ranks != 0 && ranks % shape.kv_heads != 0)
    throw Error(std::to_string(ranks) + " GPUs cannot share " + std::to_string(shape.kv_heads) + " KV heads", "--tp",
                "use a number of GPUs that divides them, or a multiple of them");
  require_divides(shape.ffn, ranks, "MLP features");
  if (quant.weights != WeightFormat::int4_awq) return;
  for (const auto& [width, what] :
       {std::pair{shape.q_rows(), "inputs of the attention output"}, {shape.ffn, "inputs of down"}})
    if (width / ranks % quant.group_size != 0)
      throw Error(std::to_string(width) + " " + what + " among " + std::to_string(ranks) +
                      " GPUs are not whole groups of " + std::to_string(quant.group_size),
                  "--tp", "use fewer GPUs, or quantize with a smaller --group-size");
  require_divides(shape.ffn, 2 * ranks, "MLP features in pairs of rows");
}

AxisRanges rank_ranges(const RankRule& rule, int64_t extent, const ModelShape& shape, int64_t ranks, int64_t rank) {
  if (!rule.by_head) {
    const int64_t count = extent / ranks;
    return {{rank * count, count}};
  }
  const int64_t dim = shape.head_dim / rule.rows_each, q = shape.heads / ranks;
  const int64_t kv = std::max<int64_t>(shape.kv_heads / ranks, 1);
  const int64_t first_kv = shape.kv_heads >= ranks ? rank * kv : rank * shape.kv_heads / ranks;
  const int64_t k_begin = shape.heads, v_begin = shape.heads + shape.kv_heads;
  return {{rank * q * dim, q * dim}, {(k_begin + first_kv) * dim, kv * dim}, {(v_begin + first_kv) * dim, kv * dim}};
}

Shape rank_shape(const RankRule& rule, const Shape& whole, const ModelShape& shape, int64_t ranks) {
  if (rule.axis < 0 || ranks == 1) return whole;
  Shape part = whole;
  int64_t& extent = part.at(static_cast<size_t>(rule.axis));
  extent = total(rank_ranges(rule, extent, shape, ranks, 0));
  return part;
}

Tensor rank_part(const RankRule& rule, const Tensor& whole, const ModelShape& shape, int64_t ranks, int64_t rank) {
  if (rule.axis < 0 || ranks == 1) return whole;
  const int64_t extent = whole.shape.at(static_cast<size_t>(rule.axis));
  const NewTensor made = new_tensor(whole.dtype, rank_shape(rule, whole.shape, shape, ranks));
  for_each_piece(AxisBytes(whole, rule.axis), extent, rank_ranges(rule, extent, shape, ranks, rank),
                 [&](size_t in_whole, size_t in_part, size_t bytes) {
                   std::memcpy(made.data + in_part, whole.data + in_whole, bytes);
                 });
  return made.tensor;
}

Tensor join_ranks(const RankRule& rule, const std::vector<Tensor>& parts, const ModelShape& shape,
                  const std::string& where) {
  const int64_t ranks = static_cast<int64_t>(parts.size());
  if (ranks == 1) return parts.front();
  const auto differ = [&] {
    return Error("the ranks' files differ in what all of them should hold alike", where,
                 "the files are of different checkpoints: make the folder again");
  };
  for (const Tensor& part : parts)
    if (part.dtype != parts[0].dtype || part.shape != parts[0].shape) throw differ();
  if (rule.axis < 0) {
    for (const Tensor& part : parts)
      if (!same_bytes(part, parts[0])) throw differ();
    return parts.front();
  }
  Shape whole = parts[0].shape;
  int64_t& extent = whole.at(static_cast<size_t>(rule.axis));
  extent = rule.by_head ? shape.qkv_rows() / rule.rows_each : extent * ranks;
  const NewTensor made = new_tensor(parts[0].dtype, whole);
  for (int64_t rank = 0; rank < ranks; ++rank)
    for_each_piece(AxisBytes(made.tensor, rule.axis), extent, rank_ranges(rule, extent, shape, ranks, rank),
                   [&](size_t in_whole, size_t in_part, size_t bytes) {
                     std::memcpy(made.data + in_whole, parts[static_cast<size_t>(rank)].data + in_part, bytes);
                   });
  if (rule.by_head && shape.kv_heads < ranks)  // repeated KV heads must be the same
    for (int64_t rank = 0; rank < ranks; ++rank)
      if (!same_bytes(rank_part(rule, made.tensor, shape, ranks, rank), parts[static_cast<size_t>(rank)]))
        throw differ();
  return made.tensor;
}

Tensor padded_rows(const Tensor& matrix, int64_t ranks) {
  const int64_t rows = matrix.shape.at(0), padded = (rows + ranks - 1) / ranks * ranks;
  if (padded == rows) return matrix;
  Shape shape = matrix.shape;
  shape[0] = padded;
  const NewTensor made = new_tensor(matrix.dtype, shape);
  std::memcpy(made.data, matrix.data, matrix.bytes());
  std::memset(made.data + matrix.bytes(), 0, made.tensor.bytes() - matrix.bytes());
  return made.tensor;
}

}  // namespace qg
