// Products in chains: kernels that start before the one before them has ended.
#include <gtest/gtest.h>

#include "kernels/pointwise/cuda.h"
#include "tests/gpu/device_vector.h"
#include "tests/gpu/linear_case.h"

namespace qg {
namespace {

using test::capabilities;
using test::Kind;
using test::to_device;

// A graph of launches in a chain gives what single launches give, also when it runs again.
TEST(Linear, GraphOfChainedLaunches) {
  CudaLinearContext context(capabilities(), 64);
  cudaStream_t stream = nullptr;
  QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const Kind kind : {Kind::fp8_static, Kind::w4, Kind::int8_dynamic}) {
    const LinearWeights weights = test::make_part(kind, 4096, 14336, 128, 1);
    const LinearWeights* one = &weights;
    const CudaLinear layer({&one, 1}, test::activations_of(kind), context);
    const test::Input x(layer.input().form, layer.input().per_token, 16, 14336, 2);
    const DeviceBuffer values = to_device(x.values.tensor.data, x.values.tensor.bytes());
    const DeviceBuffer scales = to_device(x.row_scales.data(), x.row_scales.size() * 4);
    const size_t bytes = 16 * 4096 * 2;
    for (const int64_t m : {1, 8, 16}) {
      const DeviceBuffer single(bytes), chained(bytes * 8);
      const ActivationBuffer input = {values.data(), scales.as<float>()};
      layer.run(CudaQueue{stream, false}, m, input, single.data(), DType::f16);
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      QG_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
      for (size_t i = 0; i < 8; ++i)
        layer.run(CudaQueue{stream, true}, m, input, chained.data() + i * bytes, DType::f16);
      QG_CUDA(cudaStreamEndCapture(stream, &graph));
      QG_CUDA(cudaGraphInstantiate(&exec, graph, 0));
      for (int i = 0; i < 20; ++i) QG_CUDA(cudaGraphLaunch(exec, stream));
      QG_CUDA(cudaStreamSynchronize(stream));
      std::vector<uint8_t> want(static_cast<size_t>(m * 4096 * 2)), got(want.size());
      QG_CUDA(cudaMemcpy(want.data(), single.data(), want.size(), cudaMemcpyDeviceToHost));
      for (size_t i = 0; i < 8; ++i) {
        QG_CUDA(cudaMemcpy(got.data(), chained.data() + i * bytes, got.size(), cudaMemcpyDeviceToHost));
        EXPECT_EQ(got, want) << test::to_string(kind) << " m=" << m << " launch " << i;
      }
      QG_CUDA(cudaGraphExecDestroy(exec));
      QG_CUDA(cudaGraphDestroy(graph));
    }
  }
  QG_CUDA(cudaStreamDestroy(stream));
}

// One buffer for x, written again before each product of a chain: every product meets the newest values, also where
// small kernels of several steps are on a multiprocessor at once and one before has left its x in the first-level
// cache.
TEST(Linear, ChainSeesTheNewestInput) {
  constexpr int64_t kK = 4096;
  constexpr size_t kSteps = 12;
  CudaLinearContext context(capabilities(), 64);
  cudaStream_t stream = nullptr;
  QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const Kind kind : {Kind::f16, Kind::w4, Kind::fp8_static, Kind::int8_dynamic})
    for (const int64_t n : {int64_t{256}, int64_t{4096}})
      for (const int64_t m : {1, 8}) {
        const LinearWeights weights = test::make_part(kind, n, kK, 128, 1);
        const LinearWeights* one = &weights;
        const CudaLinear layer({&one, 1}, test::activations_of(kind), context);
        const ActivationRequest request = layer.input();
        const DeviceBuffer values(static_cast<size_t>(m * kK) * 2), scales(static_cast<size_t>(m) * 4);
        const ActivationBuffer input = {values.data(), scales.as<float>()};
        std::vector<DeviceBuffer> sources;
        for (size_t i = 0; i < kSteps; ++i) {
          const std::vector<uint16_t> x =
              testing::to_half(testing::normal_values(static_cast<size_t>(m * kK), 90 + i, 2));
          sources.push_back(to_device(x.data(), x.size() * 2));
        }
        const size_t bytes = static_cast<size_t>(m * n) * 2;
        const DeviceBuffer one_by_one(bytes * kSteps), chained(bytes * kSteps);
        const auto step = [&](size_t i, bool chain, const DeviceBuffer& to) {
          const CudaQueue queue{stream, chain};
          quantize_rows(queue, m, kK, sources[i].data(), request, input);
          layer.run(queue, m, input, to.data() + i * bytes, DType::f16);
        };
        for (size_t i = 0; i < kSteps; ++i) {
          step(i, false, one_by_one);
          QG_CUDA(cudaStreamSynchronize(stream));
        }
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t exec = nullptr;
        QG_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        for (size_t i = 0; i < kSteps; ++i) step(i, true, chained);
        QG_CUDA(cudaStreamEndCapture(stream, &graph));
        QG_CUDA(cudaGraphInstantiate(&exec, graph, 0));
        std::vector<uint8_t> want(bytes * kSteps), got(want.size());
        QG_CUDA(cudaMemcpy(want.data(), one_by_one.data(), want.size(), cudaMemcpyDeviceToHost));
        for (int round = 0; round < 20; ++round) {
          QG_CUDA(cudaMemsetAsync(chained.data(), 0xff, got.size(), stream));
          QG_CUDA(cudaGraphLaunch(exec, stream));
          QG_CUDA(cudaStreamSynchronize(stream));
          QG_CUDA(cudaMemcpy(got.data(), chained.data(), got.size(), cudaMemcpyDeviceToHost));
          ASSERT_EQ(got, want) << test::to_string(kind) << " n=" << n << " m=" << m << " round " << round;
        }
        QG_CUDA(cudaGraphExecDestroy(exec));
        QG_CUDA(cudaGraphDestroy(graph));
      }
  QG_CUDA(cudaStreamDestroy(stream));
}

// A kernel asks for the weights of the layer made after its own: links follow the layers that are there.
TEST(Linear, LayersKnowTheOneAfterThem) {
  CudaLinearContext context(capabilities(), 64);
  const LinearWeights weights = test::make_part(Kind::w4, 256, 256, 128, 1);
  const LinearWeights* one = &weights;
  const auto make = [&] { return load_linear({&one, 1}, ActivationScaling::none, context.state(), PartOrder::joined); };
  auto a = make(), b = make(), c = make();
  EXPECT_EQ(a->next, b.get());
  const WeightsAhead ahead = weights_ahead(*a, 4);
  EXPECT_EQ(ahead.weight, b->weight.data());
  EXPECT_EQ(ahead.scales, b->group_scales.data());
  EXPECT_EQ(4 * ahead.weight_bytes, b->weight.bytes());
  EXPECT_EQ(4 * ahead.scale_bytes, b->group_scales.bytes());
  EXPECT_EQ(weights_ahead(*a, 3).weight_bytes, b->weight.bytes() / 3 / 16 * 16);  // never past the end
  b.reset();
  EXPECT_EQ(a->next, c.get());
  c.reset();
  EXPECT_EQ(weights_ahead(*a, 4).weight_bytes, 0u);
  const auto d = make();
  EXPECT_EQ(a->next, d.get());
  context.state().ahead_bytes = 0;
  EXPECT_EQ(weights_ahead(*a, 4).weight_bytes, 0u);
}

}  // namespace
}  // namespace qg
