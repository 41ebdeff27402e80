// Quantizing a group of linear layers on the GPU against the CPU, which is the definition: statistics, scales, codes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "core/error.h"
#include "tests/gpu/quantize_case.h"

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
                            {{512}, 1152, 3000, 300, false, true},  // several blocks of the factor
                            {{192}, 4480, 6000, 128, false, true},  // several strips of the Gram matrix
                            {{96, 96}, 96, 500, 64, true, true},    // less than a block, not a multiple of 64
                            {{256}, 256, 700, 128, true, false}};   // without a Gram matrix

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

// Codes as the layer's dtype holds them: of int4 the nibbles.
std::vector<uint8_t> codes_of(const LinearWeights& w) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(w.weight.data);
  std::vector<uint8_t> codes(bytes, bytes + w.weight.bytes());
  if (w.format != WeightFormat::int4_awq) return codes;
  std::vector<uint8_t> nibbles;
  for (const uint8_t c : codes) {
    nibbles.push_back(c & 15);
    nibbles.push_back(c >> 4);
  }
  return nibbles;
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

// Which share of int4 grids differ: a tie between two shares of a range may go either way.
std::vector<float> numbers(const Tensor& t) {
  if (t.dtype != DType::u8) return to_f32(t);
  const auto* bytes = t.as<uint8_t>();
  return {bytes, bytes + t.bytes()};
}
double different_share(const Tensor& a, const Tensor& b) {
  const std::vector<float> x = numbers(a), y = numbers(b);
  int64_t different = 0;
  for (size_t i = 0; i < x.size(); ++i) different += std::fabs(x[i] - y[i]) > 1e-6f * std::fabs(x[i]);
  return static_cast<double>(different) / static_cast<double>(x.size());
}

struct Variant {
  const char* name;
  Recipe recipe;
};

std::vector<Variant> variants() {
  std::vector<Variant> all{{"fp8", default_recipe(WeightFormat::fp8)},
                           {"int8", default_recipe(WeightFormat::int8_sq)},
                           {"int4", default_recipe(WeightFormat::int4_awq)},
                           {"int4 zeros", default_recipe(WeightFormat::int4_awq)},
                           {"fp8 dynamic", default_recipe(WeightFormat::fp8)}};
  all[3].recipe.zero_points = true;
  all[4].recipe.activations = ActivationScaling::dynamic_token;
  all[4].recipe.weight_scaling = WeightScaling::channel;
  return all;
}

void compare(const GroupResult& cpu, const GroupResult& gpu, const std::string& what, bool feedback) {
  ASSERT_EQ(cpu.linears.size(), gpu.linears.size()) << what;
  ASSERT_EQ(cpu.norm_multiplier.size(), gpu.norm_multiplier.size()) << what;
  const double equal = equal_share(cpu, gpu);
  std::printf("%-34s equal codes %.5f  error %.4e against %.4e\n", what.c_str(), equal, gpu.relative_error,
              cpu.relative_error);
  EXPECT_NEAR(gpu.relative_error, cpu.relative_error, (feedback ? 0.02 : 0.002) * cpu.relative_error) << what;
  for (size_t i = 0; i < cpu.linears.size(); ++i) {
    const LinearWeights &a = cpu.linears[i], &b = gpu.linears[i];
    EXPECT_EQ(largest_gap(a.input_scale, b.input_scale), 0) << what;
    EXPECT_LT(largest_gap(a.prequant_scale, b.prequant_scale), 1e-6) << what;
    if (a.format == WeightFormat::int4_awq)
      EXPECT_LT(different_share(a.weight_scale, b.weight_scale), 2e-3) << what;
    else
      EXPECT_LT(largest_gap(a.weight_scale, b.weight_scale), 1e-6) << what;
    if (!a.zero_point.empty()) {
      EXPECT_LT(different_share(a.zero_point, b.zero_point), 2e-3) << what;
    }
  }
  EXPECT_GT(equal, feedback ? 0.97 : 0.999) << what;
}

TEST_F(QuantizeGroup, GivesTheCpusScalesAndCodes) {
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
        compare(quantize_group(host, recipe, spec), quantizer.quantize(device.problem(), recipe, spec),
                std::string(v.name) + (feedback ? ", feedback, k=" : ", nearest, k=") + std::to_string(c.k), feedback);
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
  EXPECT_THROW(quantizer.quantize(broken, recipe, recipe.spec({c.k})), Error);
}

}  // namespace
}  // namespace qg::testing
