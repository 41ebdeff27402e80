#pragma once
// The linear layers that read one activation are quantized together: they share its smoothing, and where a layout fuses
// them, their scales. A GroupProblem knows nothing of architectures.
#include <cstdint>
#include <vector>

#include "core/quant_spec.h"
#include "quantize/calibration.h"
#include "quantize/recipe.h"

namespace qg {

struct GroupProblem {
  std::vector<float> weight;  // [n, k]: the group's linear layers stacked
  std::vector<int64_t> rows;  // out features of each, Σ = n
  int64_t n = 0, k = 0;
  ActivationStatistics input;  // of the 16-bit model
  // The input comes straight from a norm, which can absorb a scale of it; otherwise a scale has to be stored.
  bool foldable = false;
  // Where the layout folds a scale of the input into layers whose out features several inputs share (v, of a group of
  // query heads): for each input the number of its scale. Empty: each input has its own.
  std::vector<int32_t> shared_scales;
};

struct GroupResult {
  std::vector<LinearWeights> linears;  // one per entry of GroupProblem::rows
  std::vector<float> norm_multiplier;  // [k]: what the producing norm's weight is multiplied by; empty = nothing folded
  double relative_error = 0;           // ||y - y_q||^2 / ||y||^2 on the sampled rows, activations quantized too
};

// The problem is used up. Throws Error when the recipe does not fit it.
GroupResult quantize_group(GroupProblem problem, const Recipe& recipe, const QuantSpec& spec);

// The three methods behind it.
GroupResult quantize_group_fp8(GroupProblem problem, const Recipe& recipe, const QuantSpec& spec);
GroupResult quantize_group_int8(GroupProblem problem, const Recipe& recipe, const QuantSpec& spec);
GroupResult quantize_group_int4(GroupProblem problem, const Recipe& recipe, const QuantSpec& spec);

// Pieces that the methods share.

// ||x w^T - xq wq^T||^2 / ||x w^T||^2 over `rows` rows. y: x w^T, [rows, n].
class OutputError {
 public:
  OutputError(const std::vector<float>& x, int64_t rows, const std::vector<float>& w, int64_t n, int64_t k);
  double of(const std::vector<float>& xq, const std::vector<float>& wq) const;

 private:
  int64_t rows_, n_, k_;
  std::vector<float> y_;
  double norm_ = 0;
};

// Scales column j of w [n, k] by factor[j].
void scale_columns(std::vector<float>& w, int64_t n, int64_t k, const std::vector<float>& factor);
// Scales a Gram matrix [k, k] as if channel j of its inputs had been scaled by factor[j].
void scale_gram(std::vector<float>& gram, int64_t k, const std::vector<float>& factor);
// s[j] = activation[j]^alpha / weight[j]^(1-alpha), zero channels 1, clamped to [1e-4, 1e4] around a geometric mean
// of 1.
std::vector<float> smoothing(const std::vector<double>& activation, const std::vector<double>& weight, double alpha);
// Gives inputs that share a scale the same value: the greatest, or the mean.
void share_values(std::vector<double>& values, const std::vector<int32_t>& shared, bool maximum);
std::vector<double> column_absmax(const std::vector<float>& w, int64_t n, int64_t k);
std::vector<double> column_absmean(const std::vector<float>& w, int64_t n, int64_t k);
// Rounds to what the layouts store for a prequant scale (F16) and keeps it away from zero and infinity.
float storable_prequant(double value);

}  // namespace qg
