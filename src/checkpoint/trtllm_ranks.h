#pragma once
// A TensorRT-LLM checkpoint for several GPUs (tensor parallel): which part of a tensor each rank's file holds, and the
// way between the parts and the whole.
#include <utility>
#include <vector>

#include "core/model_shape.h"
#include "core/quant_spec.h"
#include "core/tensor.h"

namespace qg {

struct RankRule {
  int axis = -1;          // of the stored tensor, along which it is split; -1: every rank has all of it
  bool by_head = false;   // the axis counts q, k and v rows: split by heads, KV heads repeated where they are too few
  int64_t rows_each = 1;  // out features in one element of the axis (2: packed int4)
  bool operator==(const RankRule&) const = default;
};

// The rule of a linear layer's tensor with this suffix and whole shape: q/k/v by head, gate and up along their out
// features, attention output and down along their inputs.
RankRule linear_rank_rule(const LinearSpec& spec, const std::string& suffix, const Shape& whole, WeightFormat weights);

// Throws Error, saying which dimension does not divide, when `ranks` GPUs cannot share the model.
void check_ranks(const ModelShape& shape, const QuantSpec& quant, int64_t ranks);

// Parts [begin, begin + count) of an axis.
using AxisRanges = std::vector<std::pair<int64_t, int64_t>>;
AxisRanges rank_ranges(const RankRule& rule, int64_t extent, const ModelShape& shape, int64_t ranks, int64_t rank);

// The shape of one rank's part of a tensor.
Shape rank_shape(const RankRule& rule, const Shape& whole, const ModelShape& shape, int64_t ranks);
// One rank's part of the whole; the tensor itself where nothing is split.
Tensor rank_part(const RankRule& rule, const Tensor& whole, const ModelShape& shape, int64_t ranks, int64_t rank);
// All ranks' parts as one tensor. Throws Error naming `where` when what every rank should have alike differs.
Tensor join_ranks(const RankRule& rule, const std::vector<Tensor>& parts, const ModelShape& shape,
                  const std::string& where);

// A matrix with rows of zeros added up to the next multiple of `ranks`, so that it can be split along them.
Tensor padded_rows(const Tensor& matrix, int64_t ranks);

}  // namespace qg
