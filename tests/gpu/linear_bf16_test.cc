// What only BF16 layers do; the list of cases that all kinds share is in linear_test.cc.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/gpu/linear_case.h"

namespace qg {
namespace {

using test::capabilities;
using test::Case;
using test::Kind;
using test::Shape2;
using test::spread;
using test::stream;
using test::to_device;

// What attention reads: halves of BF16 products, by every kernel.
TEST(LinearBf16, HalvesOfItsProducts) {
  for (const std::optional<LinearRoute> route :
       {std::optional<LinearRoute>(), {LinearRoute::bulk}, {LinearRoute::skinny}}) {
    CudaLinearContext context(capabilities(), 300, DType::bf16);
    context.state().wanted = route;
    for (const Shape2 shape : {Shape2{960, 576, 0}, Shape2{1024, 14336, 0}}) {
      Case c(Kind::bf16, shape, 300, context);
      c.expect_at(spread(300, 61), spread(shape.n, 67));
      for (const int64_t m : {1, 7, 8, 9, 16, 17, 32, 33, 64, 300}) c.check(m, DType::f16);
      fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
    }
  }
}

// BF16's reason: sums beyond FP16's range stay finite, those that are asked for as halves do not.
TEST(LinearBf16, HoldsWhatFp16DoesNot) {
  constexpr int64_t kN = 64, kK = 256, kRows = 16;
  constexpr float kWeight = 1024, kX = 512, kSum = kWeight * kX * kK;  // 2^27
  LinearWeights weights;
  weights.n = kN;
  weights.k = kK;
  weights.weight = tensor_from_f32(std::vector<float>(kN * kK, kWeight), {kN, kK}, DType::bf16);
  const LinearWeights* part = &weights;
  const std::vector<uint16_t> x(kRows * kK, bf16_from_f32(kX));
  const DeviceBuffer input = to_device(x.data(), x.size() * 2), y(kRows * kN * 2);
  for (const std::optional<LinearRoute> route :
       {std::optional<LinearRoute>(), {LinearRoute::bulk}, {LinearRoute::skinny}}) {
    CudaLinearContext context(capabilities(), kRows, DType::bf16);
    context.state().wanted = route;
    const CudaLinear layer({&part, 1}, ActivationScaling::none, context);
    for (const DType type : {DType::bf16, DType::f16}) {
      layer.run({stream(), true}, kRows, {input.data(), nullptr}, y.data(), type);
      std::vector<uint16_t> got(kRows * kN);
      QG_CUDA(cudaDeviceSynchronize());
      QG_CUDA(cudaMemcpy(got.data(), y.data(), y.bytes(), cudaMemcpyDeviceToHost));
      const uint16_t want = type == DType::bf16 ? bf16_from_f32(kSum) : f16_from_f32(INFINITY);
      EXPECT_EQ(got, std::vector<uint16_t>(got.size(), want)) << layer.kernel_name(kRows) << " " << to_string(type);
    }
  }
}

// BF16 takes what FP16 cannot hold, and no quantized weights.
TEST(LinearBf16, RefusesWhatItCannotDo) {
  CudaLinearContext context(capabilities(), 64, DType::bf16);
  const auto make = [&](const LinearWeights& weights, ActivationScaling activations) {
    const LinearWeights* part = &weights;
    CudaLinear({&part, 1}, activations, context);
  };
  for (const Kind kind : {Kind::fp8_static, Kind::fp8_f16, Kind::int8_dynamic, Kind::w4})
    EXPECT_THROW(make(test::make_part(kind, 16, 64, 32, 1), test::activations_of(kind)), Error) << to_string(kind);
  LinearWeights large;
  large.n = 16;
  large.k = 16;
  large.weight = tensor_from_f32(std::vector<float>(256, 1e30f), {16, 16}, DType::f32);
  EXPECT_NO_THROW(make(large, ActivationScaling::none));
  large.weight = tensor_from_f32(std::vector<float>(256, 3.4e38f), {16, 16}, DType::f32);  // rounds to infinity
  EXPECT_THROW(make(large, ActivationScaling::none), Error);
}

}  // namespace
}  // namespace qg
