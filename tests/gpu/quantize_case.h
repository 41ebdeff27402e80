#pragma once
// One group of linear layers with a calibration activation, as both quantizers take it: the CPU's from host vectors,
// the GPU's from device memory that the statistics kernels filled.
#include <algorithm>

#include "core/float.h"
#include "kernels/quantize/cuda_feedback.h"
#include "kernels/quantize/cuda_statistics.h"
#include "quantize/cuda_group.h"
#include "tests/gpu/device_vector.h"

namespace qg::testing {

struct GroupCase {
  std::vector<int64_t> rows{256, 128};
  int64_t k = 320, tokens = 1500, sampled = 256;
  bool foldable = true;
  bool gram = true;
  bool shared = false;  // inputs 64 apart share a scale, as those of two query heads of a KV head do
};

// Values that half holds, so that both sides see the same.
inline std::vector<float> half_values(std::vector<float> values) {
  for (float& v : values) v = f32_from_f16(f16_from_f32(v));
  return values;
}

// Neighbouring channels are correlated, some are outliers, one is dead.
inline std::vector<float> activation(const GroupCase& c) {
  const std::vector<float> noise = normal_values(static_cast<size_t>(c.tokens * c.k), 21);
  std::vector<float> x(noise.size());
  for (int64_t r = 0; r < c.tokens; ++r) {
    float before = 0;
    for (int64_t j = 0; j < c.k; ++j) {
      before = 0.6f * before + noise[static_cast<size_t>(r * c.k + j)];
      x[static_cast<size_t>(r * c.k + j)] = j == 5 ? 0.0f : before * (j % 61 == 7 ? 20.0f : j % 3 == 0 ? 0.3f : 1.0f);
    }
  }
  return half_values(std::move(x));
}

inline GroupProblem host_problem(const GroupCase& c) {
  GroupProblem p;
  p.rows = c.rows;
  for (const int64_t rows : c.rows) p.n += rows;
  p.k = c.k;
  p.weight = half_values(normal_values(static_cast<size_t>(p.n * p.k), 22, 0.03f));
  p.foldable = c.foldable;
  for (int64_t j = 0; j < c.k && c.shared; ++j) p.shared_scales.push_back(static_cast<int32_t>(j / 128 * 64 + j % 64));
  CalibrationOptions options;
  options.sample_rows = c.sampled;
  ActivationCollector collector(c.k, c.tokens, options, c.gram);
  collector.add(activation(c), c.tokens);
  p.input = collector.finish();
  return p;
}

// The same on the device. The activation goes in two pieces.
class DeviceProblem {
 public:
  DeviceProblem(const GroupCase& c, const GroupProblem& host, CublasLt& blas, const CudaQueue& queue)
      : x_(to_half(activation(c))),
        weight_(to_half(host.weight)),
        absmax_(std::vector<float>(static_cast<size_t>(c.k))),
        abs_sum_(std::vector<double>(static_cast<size_t>(c.k))),
        scratch_(static_cast<size_t>(column_statistics_scratch_bytes(c.k))),
        sample_(static_cast<size_t>(c.sampled * c.k)),
        gram_(static_cast<size_t>(c.gram ? c.k * c.k : 1)),
        sample_rows_(to_rows(c, host)) {
    const auto* x = reinterpret_cast<const __half*>(x_.data());
    const int64_t first = c.tokens / 3;
    for (const int64_t begin : {int64_t{0}, first}) {
      const int64_t count = begin == 0 ? first : c.tokens - first;
      add_column_statistics(queue, x + begin * c.k, count, c.k, absmax_.data(), abs_sum_.data(), scratch_.data());
      if (c.gram) add_gram(queue, blas, x + begin * c.k, count, c.k, begin == 0, gram_.data());
    }
    auto* sample = reinterpret_cast<__half*>(sample_.data());
    gather_rows(queue, x, sample_rows_.data(), c.sampled, 0, c.k, sample);
    problem_.weight = weight_.data();
    problem_.half_weight = reinterpret_cast<const __half*>(weight_.data());
    problem_.rows = host.rows;
    problem_.n = host.n;
    problem_.k = host.k;
    problem_.foldable = host.foldable;
    problem_.shared_scales = host.shared_scales;
    problem_.name = "input of a test";
    problem_.input = {
        c.k, c.tokens, c.sampled, absmax_.data(), abs_sum_.data(), sample, c.gram ? gram_.data() : nullptr};
  }
  const CudaGroupProblem& problem() const { return problem_; }
  std::vector<float> absmax() const { return absmax_.read(); }
  std::vector<double> abs_sum() const { return abs_sum_.read(); }
  std::vector<float> gram() const { return gram_.read(); }
  std::vector<float> sample() const { return from_half(sample_.read()); }

 private:
  static std::vector<int32_t> to_rows(const GroupCase& c, const GroupProblem& host) {
    const std::vector<float> x = activation(c);
    std::vector<int32_t> rows;
    int64_t r = 0;
    for (int64_t s = 0; s < host.input.sampled; ++s)
      for (;; ++r)
        if (std::equal(x.begin() + r * c.k, x.begin() + (r + 1) * c.k, host.input.sample.begin() + s * c.k)) {
          rows.push_back(static_cast<int32_t>(r++));
          break;
        }
    return rows;
  }

  DeviceVector<uint16_t> x_, weight_;
  DeviceVector<float> absmax_;
  DeviceVector<double> abs_sum_;
  DeviceVector<std::byte> scratch_;
  DeviceVector<uint16_t> sample_;
  DeviceVector<float> gram_;
  DeviceVector<int32_t> sample_rows_;
  CudaGroupProblem problem_;
};

}  // namespace qg::testing
