// Time of the four linear layers of Llama-3.1-8B by format and rows: `bench_gpu linear`. Each figure is a graph of
// launches in a chain over copies of the weights that exceed the L2 cache, so that every launch reads its weights from
// memory.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "bench/gpu.h"
#include "kernels/linear/cuda_state.h"
#include "tests/gpu/linear_layers.h"

namespace qg {
namespace {

using test::Kind;

constexpr int64_t kShapes[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
constexpr int64_t kRows[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048};
constexpr int64_t kMostRows = 2048;
constexpr double kCopyGbPerS = 3030;  // an H100 SXM's copies, read plus written

class Copies {
 public:
  Copies(Kind kind, int64_t n, int64_t k, CudaLinearContext& context, int64_t beyond_bytes) {
    const LinearWeights weights = test::make_part(kind, n, k, 128, 1);
    const LinearWeights* one = &weights;
    do {
      layers_.emplace_back(std::span(&one, 1), test::activations_of(kind), context);
    } while (static_cast<int64_t>(layers_.size()) * layers_[0].bytes() < beyond_bytes);
    const ActivationRequest request = layers_[0].input();
    const test::Input x(request.form, request.per_token, kMostRows, k, 2);
    values_ = DeviceBuffer(x.values.tensor.bytes());
    scales_ = DeviceBuffer(x.row_scales.size() * 4);
    QG_CUDA(cudaMemcpy(values_.data(), x.values.tensor.data, x.values.tensor.bytes(), cudaMemcpyHostToDevice));
    QG_CUDA(cudaMemcpy(scales_.data(), x.row_scales.data(), x.row_scales.size() * 4, cudaMemcpyHostToDevice));
    y_ = DeviceBuffer(static_cast<size_t>(kMostRows * n) * 2);
  }
  int64_t bytes() const { return layers_[0].bytes(); }
  std::string kernel_name(int64_t m) const { return layers_[0].kernel_name(m); }

  double time_us(int64_t m, cudaStream_t stream) {
    layers_[0].prepare(m);
    const int launches = std::max(20, static_cast<int>(layers_.size()));
    const ActivationBuffer x = {values_.data(), scales_.as<float>()};
    layers_[0].run(CudaQueue{stream, true}, m, x, y_.data(), DType::f16);  // loads the kernels
    QG_CUDA(cudaStreamSynchronize(stream));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    QG_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < launches; ++i)
      layers_[static_cast<size_t>(i) % layers_.size()].run(CudaQueue{stream, true}, m, x, y_.data(), DType::f16);
    QG_CUDA(cudaStreamEndCapture(stream, &graph));
    QG_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin = nullptr, end = nullptr;
    QG_CUDA(cudaEventCreate(&begin));
    QG_CUDA(cudaEventCreate(&end));
    float best_ms = 0;
    for (int run = 0; run < 4; ++run) {  // the first warms up
      QG_CUDA(cudaEventRecord(begin, stream));
      QG_CUDA(cudaGraphLaunch(exec, stream));
      QG_CUDA(cudaEventRecord(end, stream));
      QG_CUDA(cudaEventSynchronize(end));
      float ms = 0;
      QG_CUDA(cudaEventElapsedTime(&ms, begin, end));
      if (run > 0 && (best_ms == 0 || ms < best_ms)) best_ms = ms;
    }
    QG_CUDA(cudaEventDestroy(begin));
    QG_CUDA(cudaEventDestroy(end));
    QG_CUDA(cudaGraphExecDestroy(exec));
    QG_CUDA(cudaGraphDestroy(graph));
    return static_cast<double>(best_ms) * 1000 / launches;
  }

 private:
  std::vector<CudaLinear> layers_;
  DeviceBuffer values_, scales_, y_;
};

}  // namespace

void bench_linear() {
  const DeviceCapabilities device = read_device_capabilities(0);
  cudaStream_t stream = nullptr;
  QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  fmt::print("{}: us a layer; GB/s of weights, TFLOP/s and ratio to f16 over all four\n", device.name);
  std::map<int64_t, double> f16_us;
  struct Table {
    Kind kind;
    std::optional<LinearRoute> wanted;  // rather than what should be fastest
    const char* what;
    int64_t most_rows = kMostRows;
  };
  for (const auto& [kind, wanted, what, most_rows] :
       {Table{Kind::f16, {}, ""}, Table{Kind::fp8_static, {}, ""}, Table{Kind::fp8_dynamic, {}, ""},
        Table{Kind::int8_dynamic, {}, ""}, Table{Kind::w4, {}, ""}, Table{Kind::w4_zeros, {}, ""},
        Table{Kind::fp8_f16, {}, ""}, Table{Kind::fp8_dynamic, LinearRoute::wide, " wide"},
        Table{Kind::w4, LinearRoute::wide, " wide"}, Table{Kind::int8_dynamic, LinearRoute::wide, " wide"},
        Table{Kind::w4, LinearRoute::library, " library"}, Table{Kind::f16, LinearRoute::bulk, " bulk", 64},
        Table{Kind::fp8_static, LinearRoute::bulk, " bulk", 64},
        Table{Kind::int8_dynamic, LinearRoute::bulk, " bulk", 64}, Table{Kind::w4, LinearRoute::bulk, " bulk", 64},
        Table{Kind::w4_zeros, LinearRoute::bulk, " bulk", 64}, Table{Kind::f16, LinearRoute::skinny, " skinny", 16},
        Table{Kind::fp8_static, LinearRoute::skinny, " skinny", 16},
        Table{Kind::w4, LinearRoute::skinny, " skinny", 16}}) {
    CudaLinearContext context(device, kMostRows);
    context.state().wanted = wanted;
    std::map<int64_t, std::vector<double>> us;
    std::map<int64_t, std::string> names;
    double bytes = 0, terms = 0;
    for (const auto& shape : kShapes) {
      Copies copies(kind, shape[0], shape[1], context, 4 * device.l2_bytes);
      bytes += static_cast<double>(copies.bytes());
      terms += static_cast<double>(shape[0] * shape[1]);
      for (const int64_t m : kRows) {
        if (m > most_rows) break;
        us[m].push_back(copies.time_us(m, stream));
        names[m] += (names[m].empty() ? "" : " ") + copies.kernel_name(m);
      }
    }
    fmt::print("{:20} m      qkv       o  gateup    down     sum  GB/s     % TFLOP/s  x f16\n",
               std::string(test::to_string(kind)) + what);
    for (const int64_t m : kRows) {
      if (m > most_rows) break;
      const std::vector<double>& t = us[m];
      const double sum = t[0] + t[1] + t[2] + t[3];
      if (kind == Kind::f16) f16_us[m] = sum;
      fmt::print("{:17} {:4} {:8.2f} {:7.2f} {:7.2f} {:7.2f} {:7.1f} {:5.0f} {:5.1f} {:7.1f} {:6.2f}  {}\n", "", m,
                 t[0], t[1], t[2], t[3], sum, bytes / sum / 1000, bytes / sum / 10 / kCopyGbPerS,
                 2 * terms * static_cast<double>(m) / sum / 1e6, f16_us[m] / sum, names[m]);
    }
    std::fflush(stdout);
  }
  QG_CUDA(cudaStreamDestroy(stream));
}

}  // namespace qg
