// Quantizing a group of linear layers on the GPU against the CPU, which is the definition: statistics, scales, codes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <numeric>

#include "core/error.h"
#include "runtime/cpu_layer.h"
#include "tests/gpu/quantize_case.h"
#include "tests/quantize/feedback_factor_check.h"
#include "tests/quantize/feedback_group.h"

namespace qg::testing {
namespace {

class QuantizeGroup : public ::testing::Test {
 protected:
  const DeviceCapabilities device_ = read_device_capabilities(0);
  CublasLt blas_{device_};
  const CudaQueue queue_;
};

GroupSizes sizes_of(const GroupCase& c, const GroupProblem& p) {
  GroupSizes sizes;
  sizes.weights = p.n * p.k;
  sizes.n = p.n;
  sizes.k = p.k;
  sizes.sampled = c.sampled;
  sizes.min_group = 32;
  sizes.feedback = c.gram;
  return sizes;
}

const GroupCase kCases[] = {{},
                            {{512}, 1152, 3000, 300, false, true},      // several blocks of the factor
                            {{192}, 4480, 6000, 128, false, true},      // several strips of the Gram matrix
                            {{96, 96}, 96, 500, 64, true, true},        // less than a block, not a multiple of 64
                            {{128}, 256, 900, 128, false, true, true},  // inputs that share scales
                            {{256}, 256, 700, 128, true, false}};       // without a Gram matrix

TEST_F(QuantizeGroup, CollectsWhatTheCpuCollects) {
  for (const GroupCase& c : kCases) {
    const GroupProblem host = host_problem(c);
    const DeviceProblem device(c, host, blas_, queue_);
    EXPECT_EQ(device.absmax(), host.input.absmax);
    EXPECT_EQ(device.sample(), host.input.sample);
    const std::vector<double> sums = device.abs_sum();
    for (size_t j = 0; j < sums.size(); ++j) ASSERT_NEAR(sums[j], host.input.abs_sum[j], 1e-5 * host.input.abs_sum[j]);
    if (!c.gram) continue;
    const std::vector<float> gram = device.gram();
    for (int64_t i = 0; i < c.k; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const auto at = [&](int64_t r, int64_t s) { return host.input.gram[static_cast<size_t>(r * c.k + s)]; };
        ASSERT_NEAR(gram[static_cast<size_t>(i * c.k + j)], at(i, j), 2e-5f * std::sqrt(at(i, i) * at(j, j)) + 1e-3f)
            << i << ", " << j << " of " << c.k;
      }
  }
}

double equal_share(const GroupResult& a, const GroupResult& b) {
  int64_t equal = 0, all = 0;
  for (size_t i = 0; i < a.linears.size(); ++i) {
    const std::vector<uint8_t> x = codes_of(a.linears[i]), y = codes_of(b.linears[i]);
    EXPECT_EQ(x.size(), y.size());
    for (size_t j = 0; j < x.size(); ++j) equal += x[j] == y[j];
    all += static_cast<int64_t>(x.size());
  }
  return static_cast<double>(equal) / static_cast<double>(all);
}

double largest_gap(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape, b.shape);
  if (a.empty() || b.empty()) return a.empty() == b.empty() ? 0 : INFINITY;
  const std::vector<float> x = to_f32(a), y = to_f32(b);
  double gap = 0;
  for (size_t i = 0; i < x.size(); ++i)
    gap = std::max(gap,
                   static_cast<double>(std::fabs(x[i] - y[i])) / std::max(1e-9, static_cast<double>(std::fabs(x[i]))));
  return gap;
}

int64_t count_different(const Tensor& a, const Tensor& b) {
  if (a.empty() || b.empty()) return 0;
  const std::vector<float> x = to_f32(a), y = to_f32(b);
  int64_t different = 0;
  for (size_t i = 0; i < x.size(); ++i) different += x[i] != y[i];
  return different;
}

struct Variant {
  const char* name;
  Recipe recipe;
};

std::vector<Variant> variants() {
  std::vector<Variant> all{
      {"fp8", default_recipe(WeightFormat::fp8)},         {"int8", default_recipe(WeightFormat::int8_sq)},
      {"int4", default_recipe(WeightFormat::int4_awq)},   {"int4 zeros", default_recipe(WeightFormat::int4_awq)},
      {"fp8 dynamic", default_recipe(WeightFormat::fp8)}, {"int8 static", default_recipe(WeightFormat::int8_sq)}};
  all[3].recipe.zero_points = true;
  all[4].recipe.activations = ActivationScaling::dynamic_token;
  all[4].recipe.weight_scaling = WeightScaling::channel;
  all[5].recipe.activations = ActivationScaling::static_tensor;
  return all;
}

// What one quantizer made of a case, and the other.
struct Pair {
  std::string what;
  const GroupCase& c;
  const GroupProblem& host;
  const DeviceProblem& device;
  const QuantSpec& spec;
  const GroupResult &cpu, &gpu;
};

// ||y - y_q||^2 / ||y||^2 on the sample through the CPU's linear layers, of codes that anyone made.
double error_on_cpu(const GroupResult& result, const Pair& p) {
  const int64_t m = p.host.input.sampled, k = p.host.k;
  std::vector<float> x = p.host.input.sample;
  for (size_t i = 0; i < x.size() && !result.norm_multiplier.empty(); ++i)
    x[i] *= result.norm_multiplier[i % static_cast<size_t>(k)];
  double gap = 0, norm = 0;
  int64_t first = 0;
  for (const LinearWeights& w : result.linears) {
    std::vector<float> y(static_cast<size_t>(m * w.n)), exact(y.size());
    CpuLinear{w, p.spec.activations}.run(x.data(), m, y.data());
    parallel_for(m, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t o = 0; o < w.n; ++o) {
          double sum = 0;
          for (int64_t c = 0; c < k; ++c)
            sum += static_cast<double>(p.host.input.sample[static_cast<size_t>(r * k + c)]) *
                   static_cast<double>(p.host.weight[static_cast<size_t>((first + o) * k + c)]);
          exact[static_cast<size_t>(r * w.n + o)] = static_cast<float>(sum);
        }
    });
    for (size_t i = 0; i < y.size(); ++i) {
      const auto e = static_cast<double>(exact[i]), d = e - static_cast<double>(y[i]);
      norm += e * e;
      gap += d * d;
    }
    first += w.n;
  }
  return gap / norm;
}

// Scales are the CPU's: computed by the same float operations, or chosen from the same candidates by sums that differ
// in their last bits.
void expect_the_cpus_scales(const Pair& p) {
  ASSERT_EQ(p.cpu.linears.size(), p.gpu.linears.size()) << p.what;
  ASSERT_EQ(p.cpu.norm_multiplier.size(), p.gpu.norm_multiplier.size()) << p.what;
  for (size_t j = 0; j < p.cpu.norm_multiplier.size(); ++j)
    ASSERT_EQ(p.cpu.norm_multiplier[j], p.gpu.norm_multiplier[j]) << p.what;
  for (size_t i = 0; i < p.cpu.linears.size(); ++i) {
    const LinearWeights &a = p.cpu.linears[i], &b = p.gpu.linears[i];
    EXPECT_EQ(largest_gap(a.input_scale, b.input_scale), 0) << p.what;
    // Halves, of sums that differ in last bits: a neighbour here and there.
    EXPECT_LE(largest_gap(a.prequant_scale, b.prequant_scale), 0x1p-10) << p.what;
    EXPECT_LE(count_different(a.prequant_scale, b.prequant_scale), 1 + p.c.k / 200) << p.what;
    EXPECT_EQ(a.zero_point.empty(), b.zero_point.empty()) << p.what;
    if (a.format == WeightFormat::int4_awq) continue;  // expect_grids_as_good
    EXPECT_LT(largest_gap(a.weight_scale, b.weight_scale), 1e-6) << p.what;
  }
}

// An int4 group's grid is the least of candidates by a sum over the group. Where the GPU took another than the CPU, its
// own must be as good, but for the rounding of two such sums in float (and of the moments, where they are summed
// there).
void expect_grids_as_good(const Pair& p, const FeedbackRun& gpu, const FeedbackRun& cpu) {
  const std::vector<float> down = down_of(p.gpu), gram = p.c.gram ? p.device.gram() : std::vector<float>();
  if (down != down_of(p.cpu)) return;  // the candidates are others
  std::vector<double> importance(static_cast<size_t>(p.c.k));
  for (size_t j = 0; j < importance.size(); ++j) {
    if (p.c.gram) importance[j] = static_cast<double>(gram[j * importance.size() + j]);
    for (size_t r = 0; r < static_cast<size_t>(p.host.input.sampled) && !p.c.gram; ++r)
      importance[j] += std::pow(static_cast<double>(p.host.input.sample[r * importance.size() + j]), 2);
    importance[j] *= static_cast<double>(down[j]) * static_cast<double>(down[j]);
  }
  const double slack = 2 * gamma_of(gpu.group + 16 + (p.c.gram ? 0 : p.host.input.sampled));
  int64_t different = 0;
  for (int64_t r = 0; r < gpu.n; ++r)
    for (int64_t first = 0; first < gpu.k; first += gpu.group) {
      const size_t grid = gpu.grid_of(r, first);
      if (gpu.scales[grid] == cpu.scales[grid] && gpu.zeros[grid] == cpu.zeros[grid]) continue;
      ++different;
      double errors[2] = {};
      for (int64_t c = first; c < first + gpu.group; ++c)
        for (const FeedbackRun* run : {&gpu, &cpu}) {
          const auto w = static_cast<double>(gpu.weight[static_cast<size_t>(r * gpu.k + c)]);
          const auto scale = static_cast<double>(run->scales[grid]);
          const double gap = w - run->nearest(w / scale, grid) * scale;
          errors[run == &cpu] += importance[static_cast<size_t>(c)] * gap * gap;
        }
      EXPECT_LE(errors[0], (1 + slack) * errors[1]) << p.what << ", row " << r << ", input " << first;
    }
  if (different > 0) std::printf("  %d grids differ\n", static_cast<int>(different));
}

// Codes: see tests/quantize/feedback_check.h. The factor is judged by the Gram matrix that the device summed, which
// CollectsWhatTheCpuCollects holds to the CPU's.
void expect_right_codes(const Pair& p, const CudaGroupQuantizer& quantizer, const Recipe& recipe) {
  const std::vector<float> down = down_of(p.gpu);
  FeedbackRun gpu = run_of_group(p.gpu, p.host.weight, down), cpu = run_of_group(p.cpu, p.host.weight, down);
  if (gpu.format == WeightFormat::int4_awq) expect_grids_as_good(p, gpu, cpu);
  gpu.order.resize(static_cast<size_t>(p.c.k));
  std::iota(gpu.order.begin(), gpu.order.end(), 0);
  double gap = 0;
  if (recipe.error_feedback) {
    const auto [order, factor] = quantizer.last_feedback();
    gpu.factor.resize(static_cast<size_t>(p.c.k * p.c.k));
    QG_CUDA(cudaMemcpy(gpu.order.data(), order, gpu.order.size() * sizeof(int32_t), cudaMemcpyDeviceToHost));
    QG_CUDA(cudaMemcpy(gpu.factor.data(), factor, gpu.factor.size() * sizeof(float), cudaMemcpyDeviceToHost));
    const std::vector<float> gram = p.device.gram();
    std::vector<int32_t> sorted = gpu.order;
    std::sort(sorted.begin(), sorted.end());
    for (size_t j = 0; j < sorted.size(); ++j) ASSERT_EQ(sorted[j], static_cast<int32_t>(j)) << p.what;
    const std::vector<double> h = damped_in_order(gram, down, recipe.damp, gpu.order);
    for (size_t t = 1; t < sorted.size();
         ++t)  // most important first; equal but for two roundings may stand either way
      ASSERT_LE(h[t * sorted.size() + t], h[(t - 1) * (sorted.size() + 1)] * (1 + 4 * kUnit)) << p.what << ", " << t;
    gap = factor_gap(h, gpu.factor, p.c.k, kFactorBlock);
    EXPECT_LE(gap, 1) << p.what;
  }
  cpu.order = gpu.order;
  cpu.factor = gpu.factor;
  const FeedbackVerdict ours = check_feedback(gpu), theirs = check_feedback(cpu);
  const double error = error_on_cpu(p.gpu, p);
  std::printf(
      "%-34s wrong %d, ties %d, factor %.3f, objective %.4e against %.4e (margin %.1e), error %.4e, CPU's %.4e; "
      "equal codes %.5f\n",
      p.what.c_str(), static_cast<int>(ours.wrong), static_cast<int>(ours.ties), gap, ours.objective, theirs.objective,
      objective_margin(ours, theirs), p.gpu.relative_error, p.cpu.relative_error, equal_share(p.cpu, p.gpu));
  EXPECT_EQ(ours.wrong, 0) << p.what << ": first in row " << ours.first_row << ", place " << ours.first_place;
  EXPECT_NEAR(ours.objective, theirs.objective, objective_margin(ours, theirs)) << p.what;
  // The error that is reported is that of these codes. Products in half round what each weight loses (2^-11, both
  // ways): of the sum of squares that moves 2 * 2^-11 if all go one way; as much again for what the CPU's layers round.
  EXPECT_NEAR(p.gpu.relative_error, error, 0.002 * error) << p.what;
}

TEST_F(QuantizeGroup, GivesTheCpusScalesAndRightCodes) {
  for (const GroupCase& c : kCases) {
    const GroupProblem host = host_problem(c);
    const DeviceProblem device(c, host, blas_, queue_);
    CudaGroupQuantizer quantizer(sizes_of(c, host), blas_, queue_);
    for (const Variant& v : variants())
      for (const bool feedback : {false, true}) {
        if (feedback && !c.gram) continue;
        Recipe recipe = v.recipe;
        recipe.error_feedback = feedback;
        const QuantSpec spec = recipe.spec({c.k});
        const GroupResult cpu = quantize_group(host, recipe, spec),
                          gpu = quantizer.quantize(device.problem(), recipe, spec);
        const Pair pair{std::string(v.name) + (feedback ? ", feedback, k=" : ", nearest, k=") + std::to_string(c.k),
                        c,
                        host,
                        device,
                        spec,
                        cpu,
                        gpu};
        expect_the_cpus_scales(pair);
        expect_right_codes(pair, quantizer, recipe);
      }
  }
}

TEST_F(QuantizeGroup, DampsMoreWhereTheGramMatrixHasNoFactor) {
  GroupCase c;
  c.tokens = 40;  // less than k: without damping there is no factor
  c.sampled = 40;
  const GroupProblem host = host_problem(c);
  const DeviceProblem device(c, host, blas_, queue_);
  CudaGroupQuantizer quantizer(sizes_of(c, host), blas_, queue_);
  Recipe recipe = default_recipe(WeightFormat::int4_awq);
  recipe.damp = 1e-9;
  const QuantSpec spec = recipe.spec({c.k});
  const GroupResult gpu = quantizer.quantize(device.problem(), recipe, spec);
  EXPECT_TRUE(std::isfinite(gpu.relative_error));
  EXPECT_LT(gpu.relative_error, 0.05);
}

TEST_F(QuantizeGroup, RefusesActivationsThatAreNotFinite) {
  const GroupCase c;
  const GroupProblem host = host_problem(c);
  const DeviceProblem device(c, host, blas_, queue_);
  CudaGroupProblem broken = device.problem();
  std::vector<double> sums = device.abs_sum();
  sums[3] = INFINITY;
  const DeviceVector<double> infinite(sums);
  broken.input.abs_sum = infinite.data();
  CudaGroupQuantizer quantizer(sizes_of(c, host), blas_, queue_);
  const Recipe recipe = default_recipe(WeightFormat::fp8);
  try {
    quantizer.quantize(broken, recipe, recipe.spec({c.k}));
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("input of a test"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace qg::testing
