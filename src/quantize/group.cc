#include "quantize/group.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/float.h"
#include "core/parallel.h"

namespace qg {
namespace {

GroupResult keep_group(GroupProblem p) {
  GroupResult result;
  int64_t first = 0;
  for (int64_t rows : p.rows) {
    LinearWeights w;
    w.n = rows;
    w.k = p.k;
    w.weight =
        tensor_from_f32(std::span(p.weight).subspan(static_cast<size_t>(first * p.k), static_cast<size_t>(rows * p.k)),
                        {rows, p.k}, DType::f16);
    result.linears.push_back(std::move(w));
    first += rows;
  }
  return result;
}

std::vector<double> column_fold(const std::vector<float>& w, int64_t n, int64_t k, bool maximum) {
  std::vector<double> result(static_cast<size_t>(k), 0.0);
  parallel_for(k, 128, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = begin; c < end; ++c) {
        const double a = std::fabs(static_cast<double>(w[static_cast<size_t>(r * k + c)]));
        double& x = result[static_cast<size_t>(c)];
        x = maximum ? std::max(x, a) : x + a / static_cast<double>(n);
      }
  });
  return result;
}

}  // namespace

GroupResult quantize_group(GroupProblem problem, const Recipe& recipe, const QuantSpec& spec) {
  switch (recipe.weights) {
    case WeightFormat::fp16:
      return keep_group(std::move(problem));
    case WeightFormat::fp8:
      return quantize_group_fp8(std::move(problem), recipe, spec);
    case WeightFormat::int8_sq:
      return quantize_group_int8(std::move(problem), recipe, spec);
    case WeightFormat::int4_awq:
      return quantize_group_int4(std::move(problem), recipe, spec);
  }
  throw Error("unknown weight format");
}

OutputError::OutputError(const std::vector<float>& x, int64_t rows, const std::vector<float>& w, int64_t n, int64_t k)
    : rows_(rows), n_(n), k_(k), y_(static_cast<size_t>(rows * n)) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows), static_cast<int>(n), static_cast<int>(k),
              1.0f, x.data(), static_cast<int>(k), w.data(), static_cast<int>(k), 0.0f, y_.data(), static_cast<int>(n));
  for (float v : y_) norm_ += static_cast<double>(v) * static_cast<double>(v);
}

double OutputError::of(const std::vector<float>& xq, const std::vector<float>& wq) const {
  std::vector<float> gap = y_;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows_), static_cast<int>(n_),
              static_cast<int>(k_), -1.0f, xq.data(), static_cast<int>(k_), wq.data(), static_cast<int>(k_), 1.0f,
              gap.data(), static_cast<int>(n_));
  double sum = 0;
  for (float v : gap) sum += static_cast<double>(v) * static_cast<double>(v);
  return norm_ > 0 ? sum / norm_ : sum;
}

void scale_columns(std::vector<float>& w, int64_t n, int64_t k, const std::vector<float>& factor) {
  parallel_for(n, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < k; ++c) w[static_cast<size_t>(r * k + c)] *= factor[static_cast<size_t>(c)];
  });
}

void scale_gram(std::vector<float>& gram, int64_t k, const std::vector<float>& factor) {
  parallel_for(k, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < k; ++c)
        gram[static_cast<size_t>(r * k + c)] *= factor[static_cast<size_t>(r)] * factor[static_cast<size_t>(c)];
  });
}

std::vector<float> smoothing(const std::vector<double>& activation, const std::vector<double>& weight, double alpha) {
  std::vector<double> s(activation.size(), 1.0);
  double log_sum = 0;
  int64_t live = 0;
  for (size_t j = 0; j < s.size(); ++j) {
    if (!(activation[j] > 0) || !(weight[j] > 0)) continue;
    s[j] = std::pow(activation[j], alpha) / std::pow(weight[j], 1 - alpha);
    log_sum += std::log(s[j]);
    ++live;
  }
  const double mean = live > 0 ? std::exp(log_sum / static_cast<double>(live)) : 1.0;
  std::vector<float> result(s.size(), 1.0f);
  for (size_t j = 0; j < s.size(); ++j)
    if (activation[j] > 0 && weight[j] > 0) result[j] = static_cast<float>(std::clamp(s[j] / mean, 1e-4, 1e4));
  return result;
}

void share_values(std::vector<double>& values, const std::vector<int32_t>& shared, bool maximum) {
  if (shared.empty()) return;
  std::vector<double> of_class(values.size(), 0.0), members(values.size(), 0.0);
  for (size_t j = 0; j < values.size(); ++j) {
    const auto c = static_cast<size_t>(shared[j]);
    of_class[c] = maximum ? std::max(of_class[c], values[j]) : of_class[c] + values[j];
    members[c] += 1;
  }
  for (size_t j = 0; j < values.size(); ++j) {
    const auto c = static_cast<size_t>(shared[j]);
    values[j] = maximum ? of_class[c] : of_class[c] / members[c];
  }
}

std::vector<double> column_absmax(const std::vector<float>& w, int64_t n, int64_t k) {
  return column_fold(w, n, k, true);
}
std::vector<double> column_absmean(const std::vector<float>& w, int64_t n, int64_t k) {
  return column_fold(w, n, k, false);
}

float storable_prequant(double value) {
  return f32_from_f16(f16_from_f32(static_cast<float>(std::clamp(value, 1e-4, 6e4))));
}

}  // namespace qg
