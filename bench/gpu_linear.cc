// Time of the four linear layers of Llama-3.1-8B by format and rows: `bench_gpu linear`; `bench_gpu linear_int4` only
// for FP16 and int4, with the table of ratios at its end; `bench_gpu linear_bf16` only for FP16 and BF16; `bench_gpu
// linear_gate` gate and up with the gating that follows, by one launch and by two; `bench_gpu linear_tiles` every tile
// of Hopper's kernel for many rows, which shows where the plan is wrong. Each figure is a graph of launches
// in a chain over copies of the weights that exceed the L2 cache, so that every launch reads its weights from memory.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <span>

#include "bench/gpu.h"
#include "kernels/linear/cuda_state.h"
#include "kernels/pointwise/cuda.h"
#include "tests/gpu/linear_layers.h"

namespace qg {
namespace {

using test::Kind;

constexpr int64_t kShapes[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
constexpr int64_t kRows[] = {1,  2,   4,   8,   12,  16,  24,  32,   48,   64,   65,
                             96, 128, 192, 256, 384, 512, 777, 1024, 2048, 4096, 8192};
constexpr int64_t kMostRows = 8192, kUsualRows = 2048;
// Products of many rows are timed at the clock that the card holds, not at the one it starts with: every format after
// as much work before it, or the one that was timed after a pause would look the faster.
constexpr int64_t kHotFromRows = 128;
constexpr float kWarmMs = 4, kHotMs = 80;  // before each measurement
constexpr size_t kRounds = 3;
constexpr double kCopyGbPerS = 3030;  // an H100 SXM's copies, read plus written

class Copies {
 public:
  Copies(Kind kind, int64_t n, int64_t k, CudaLinearContext& context, int64_t beyond_bytes, int64_t rows,
         PartOrder order = PartOrder::joined) {
    const int64_t parts = order == PartOrder::alternating ? 2 : 1;
    const LinearWeights weights = test::make_part(kind, n / parts, k, 128, 1);
    const LinearWeights* pointers[] = {&weights, &weights};
    do {
      layers_.emplace_back(std::span(pointers, static_cast<size_t>(parts)), test::activations_of(kind), context, order);
    } while (static_cast<int64_t>(layers_.size()) * layers_[0].bytes() < beyond_bytes);
    for (CudaLinear& layer : layers_) layer.set_room(rows);
    const ActivationRequest request = layers_[0].input();
    const test::Input x(request.form, request.per_token, rows, k, 2);
    values_ = DeviceBuffer(x.values.tensor.bytes());
    scales_ = DeviceBuffer(x.row_scales.size() * 4);
    QG_CUDA(cudaMemcpy(values_.data(), x.values.tensor.data, x.values.tensor.bytes(), cudaMemcpyHostToDevice));
    QG_CUDA(cudaMemcpy(scales_.data(), x.row_scales.data(), x.row_scales.size() * 4, cudaMemcpyHostToDevice));
    y_ = DeviceBuffer(static_cast<size_t>(rows * n) * 2);
    gated_ = DeviceBuffer(static_cast<size_t>(rows * n));
  }
  int64_t bytes() const { return layers_[0].bytes(); }
  std::string kernel_name(int64_t m) const { return layers_[0].kernel_name(m); }

  double time_us(int64_t m, cudaStream_t stream) {
    layers_[0].prepare(m);
    const ActivationBuffer x = {values_.data(), scales_.as<float>()};
    return time_us(m, stream, [&](const CudaLinear& layer) {
      layer.run(CudaQueue{stream, true}, m, x, y_.data(), layer.output_type());
    });
  }
  // Gate and up, and silu(gate) * up as f16 or in the form that such a layer reads; 0: no kernel does both.
  double time_gating_us(int64_t m, cudaStream_t stream, bool one_launch) {
    layers_[0].prepare(m);
    const ActivationBuffer x = {values_.data(), scales_.as<float>()};
    ActivationRequest wanted = layers_[0].input();
    wanted.per_token = false;
    if (one_launch && !layers_[0].can_gate(m, wanted)) return 0;
    return time_us(m, stream, [&](const CudaLinear& layer) {
      const CudaQueue queue{stream, true};
      if (one_launch) return layer.run_gated(queue, m, x, wanted, gated_.data());
      layer.run(queue, m, x, y_.data(), DType::f16);
      silu_mul(queue, m, layer.n() / 2, y_.data(), wanted, {gated_.data(), nullptr});
    });
  }

 private:
  double time_us(int64_t m, cudaStream_t stream, const std::function<void(const CudaLinear&)>& launch) {
    const int launches = m > kUsualRows ? 8 : std::max(20, static_cast<int>(layers_.size()));
    launch(layers_[0]);  // loads the kernels
    QG_CUDA(cudaStreamSynchronize(stream));
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    QG_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < launches; ++i) launch(layers_[static_cast<size_t>(i) % layers_.size()]);
    QG_CUDA(cudaStreamEndCapture(stream, &graph));
    QG_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin = nullptr, end = nullptr;
    QG_CUDA(cudaEventCreate(&begin));
    QG_CUDA(cudaEventCreate(&end));
    float best_ms = 0, before_ms = 0;
    const float enough_ms = m < kHotFromRows ? kWarmMs : kHotMs;
    for (int counted = 0; counted < 3;) {
      QG_CUDA(cudaEventRecord(begin, stream));
      QG_CUDA(cudaGraphLaunch(exec, stream));
      QG_CUDA(cudaEventRecord(end, stream));
      QG_CUDA(cudaEventSynchronize(end));
      float ms = 0;
      QG_CUDA(cudaEventElapsedTime(&ms, begin, end));
      if (before_ms > enough_ms) {
        ++counted;
        if (best_ms == 0 || ms < best_ms) best_ms = ms;
      }
      before_ms += ms;
    }
    QG_CUDA(cudaEventDestroy(begin));
    QG_CUDA(cudaEventDestroy(end));
    QG_CUDA(cudaGraphExecDestroy(exec));
    QG_CUDA(cudaGraphDestroy(graph));
    return static_cast<double>(best_ms) * 1000 / launches;
  }

  std::vector<CudaLinear> layers_;
  DeviceBuffer values_, scales_, y_, gated_;
};

struct Table {
  Kind kind;
  std::optional<LinearRoute> wanted;  // rather than what should be fastest
  const char* what = "";
  int64_t most_rows = kUsualRows;
};
using LayerTimes = std::map<int64_t, std::vector<double>>;  // µs of the four layers, by rows

double sum_of(const std::vector<double>& us) {
  return std::accumulate(us.begin(), us.end(), 0.0);
}

// A table's layers of one shape, ready to be timed.
struct Timed {
  std::unique_ptr<CudaLinearContext> context;
  std::unique_ptr<Copies> copies;
  int64_t bytes = 0, terms = 0;  // of all shapes
  LayerTimes us;
  std::map<int64_t, std::string> names;
};

// The median of some rounds, in each of which every table has its turn: what the card's clock does meanwhile it does to
// all of them.
void time_shape(std::span<const Table> tables, std::vector<Timed>& timed, const int64_t (&shape)[2],
                const DeviceCapabilities& device, cudaStream_t stream) {
  for (size_t i = 0; i < tables.size(); ++i) {
    Timed& t = timed[i];
    t.context = std::make_unique<CudaLinearContext>(device, tables[i].most_rows, test::type_of(tables[i].kind));
    t.context->state().wanted = tables[i].wanted;
    t.copies = std::make_unique<Copies>(tables[i].kind, shape[0], shape[1], *t.context, 4 * device.l2_bytes,
                                        tables[i].most_rows);
    t.bytes += t.copies->bytes();
    t.terms += shape[0] * shape[1];
  }
  for (const int64_t m : kRows) {
    std::vector<std::array<double, kRounds>> rounds(tables.size());
    for (size_t round = 0; round < kRounds; ++round)
      for (size_t i = 0; i < tables.size(); ++i)
        if (m <= tables[i].most_rows) rounds[i][round] = timed[i].copies->time_us(m, stream);
    for (size_t i = 0; i < tables.size(); ++i) {
      if (m > tables[i].most_rows) continue;
      std::sort(rounds[i].begin(), rounds[i].end());
      timed[i].us[m].push_back(rounds[i][kRounds / 2]);
      std::string& names = timed[i].names[m];
      names += (names.empty() ? "" : " ") + timed[i].copies->kernel_name(m);
    }
  }
  for (Timed& t : timed) {
    t.copies.reset();
    t.context.reset();
  }
}

// f16: the times of FP16.
void print_table(const Table& table, const Timed& timed, const LayerTimes& f16) {
  const auto bytes = static_cast<double>(timed.bytes), terms = static_cast<double>(timed.terms);
  fmt::print("{:20} m      qkv       o  gateup    down     sum  GB/s     % TFLOP/s  x f16\n",
             std::string(test::to_string(table.kind)) + table.what);
  for (const auto& [m, t] : timed.us) {
    const double sum = sum_of(t);
    fmt::print("{:17} {:4} {:8.2f} {:7.2f} {:7.2f} {:7.2f} {:7.1f} {:5.0f} {:5.1f} {:7.1f} {:6.2f}  {}\n", "", m, t[0],
               t[1], t[2], t[3], sum, bytes / sum / 1000, bytes / sum / 10 / kCopyGbPerS,
               2 * terms * static_cast<double>(m) / sum / 1e6, sum_of(f16.at(m)) / sum, timed.names.at(m));
  }
}

// How many times as fast as FP16 each layer is; what int4 must reach: 1 up to 64 rows, then 0.85, from 2,048 on 0.93.
void print_ratios(const char* what, const LayerTimes& us, const LayerTimes& f16) {
  fmt::print("{}: speed, FP16 = 1\n   m    qkv      o gateup   down    all  floor\n", what);
  for (const auto& [m, t] : us) {
    const std::vector<double>& of = f16.at(m);
    const double all = sum_of(of) / sum_of(t), floor = m <= 64 ? 1.0 : m < 2048 ? 0.85 : 0.93;
    fmt::print("{:4} {:6.2f} {:6.2f} {:6.2f} {:6.2f} {:6.2f} {:6.2f}{}\n", m, of[0] / t[0], of[1] / t[1], of[2] / t[2],
               of[3] / t[3], all, floor, all < floor ? "  missed" : "");
  }
}

// The first table is FP16's.
void print_tables(std::initializer_list<Table> list) {
  const std::span<const Table> tables(list.begin(), list.size());
  const DeviceCapabilities device = read_device_capabilities(0);
  cudaStream_t stream = nullptr;
  QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  fmt::print("{}: us a layer; GB/s of weights, TFLOP/s and ratio to f16 over all four\n", device.name);
  std::vector<Timed> timed(tables.size());
  for (const auto& shape : kShapes) {
    fmt::print(stderr, "{} formats of {} x {}\n", tables.size(), shape[0], shape[1]);
    time_shape(tables, timed, shape, device, stream);
  }
  const LayerTimes& f16 = timed[0].us;
  for (size_t i = 0; i < tables.size(); ++i) print_table(tables[i], timed[i], f16);
  for (size_t i = 0; i < tables.size(); ++i)
    if (test::is_int4(tables[i].kind) && !tables[i].wanted)
      print_ratios(test::to_string(tables[i].kind), timed[i].us, f16);
  QG_CUDA(cudaStreamDestroy(stream));
}

}  // namespace

void bench_linear() {
  print_tables({{Kind::f16, {}, "", kMostRows},
                {Kind::fp8_static, {}},
                {Kind::fp8_dynamic, {}},
                {Kind::int8_dynamic, {}},
                {Kind::w4, {}, "", kMostRows},
                {Kind::w4_zeros, {}, "", kMostRows},
                {Kind::fp8_f16, {}},
                {Kind::fp8_dynamic, LinearRoute::wide, " wide"},
                {Kind::f16, LinearRoute::wide, " wide", kMostRows},
                {Kind::w4, LinearRoute::wide, " wide"},
                {Kind::int8_dynamic, LinearRoute::wide, " wide"},
                {Kind::w4, LinearRoute::library, " library", kMostRows},
                {Kind::f16, LinearRoute::bulk, " bulk", 64},
                {Kind::fp8_static, LinearRoute::bulk, " bulk", 64},
                {Kind::int8_dynamic, LinearRoute::bulk, " bulk", 64},
                {Kind::w4, LinearRoute::bulk, " bulk", 64},
                {Kind::w4_zeros, LinearRoute::bulk, " bulk", 64},
                {Kind::f16, LinearRoute::skinny, " skinny", 16},
                {Kind::fp8_static, LinearRoute::skinny, " skinny", 16},
                {Kind::w4, LinearRoute::skinny, " skinny", 16}});
}

void bench_linear_bf16() {
  print_tables({{Kind::f16, {}}, {Kind::bf16, {}}});
}

void bench_linear_gate() {
  const DeviceCapabilities device = read_device_capabilities(0);
  cudaStream_t stream = nullptr;
  QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  fmt::print("{}: us of gate and up with silu(gate) * up; one launch, the same kernel and two, the library and two\n",
             device.name);
  for (const Kind kind : {Kind::f16, Kind::fp8_static, Kind::int8_static, Kind::w4}) {
    std::map<int64_t, std::vector<double>> us;
    std::map<int64_t, std::string> names;
    for (const LinearRoute route : {LinearRoute::wide, LinearRoute::library}) {
      CudaLinearContext context(device, kMostRows);
      context.state().wanted = route;
      Copies copies(kind, kShapes[2][0], kShapes[2][1], context, 4 * device.l2_bytes, kMostRows,
                    PartOrder::alternating);
      for (const int64_t m : kRows) {
        if (m < 12) continue;
        if (route == LinearRoute::wide) us[m].push_back(copies.time_gating_us(m, stream, true));
        us[m].push_back(copies.time_gating_us(m, stream, false));
        names[m] += (names[m].empty() ? "" : " ") + copies.kernel_name(m);
      }
    }
    for (const auto& [m, t] : us)
      fmt::print("{:12} {:4} {:8.2f} {:8.2f} {:8.2f}  {}\n", test::to_string(kind), m, t[0], t[1], t[2], names[m]);
    std::fflush(stdout);
  }
  QG_CUDA(cudaStreamDestroy(stream));
}

void bench_linear_tiles() {
  const DeviceCapabilities device = read_device_capabilities(0);
  cudaStream_t stream = nullptr;
  QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  fmt::print("{}: us of each layer by each tile of Hopper's kernel (in brackets as planned); * what the plan takes\n",
             device.name);
  const std::pair<Kind, WideFormat> formats[] = {{Kind::w4, WideFormat::w4},
                                                 {Kind::w4_zeros, WideFormat::w4_zeros},
                                                 {Kind::f16, WideFormat::f16},
                                                 {Kind::int8_dynamic, WideFormat::int8},
                                                 {Kind::fp8_dynamic, WideFormat::e4m3}};
  for (const auto& [kind, format] : formats)
    for (const auto& shape : kShapes) {
      CudaLinearContext context(device, kMostRows);
      context.state().wanted = LinearRoute::wide;
      Copies copies(kind, shape[0], shape[1], context, 4 * device.l2_bytes, kMostRows);
      for (const int64_t m : kRows) {
        if (m < 12) continue;
        const int planned = plan_wide(format, m, shape[0], shape[1], device).kernel;
        std::string line;
        for (int kernel = 0; kernel < wide_kernel_count(format); ++kernel) {
          if (!fits_rows(wide_tile(format, kernel), m)) continue;
          context.state().wanted_wide = kernel;
          const WidePlan plan = plan_wide(format, m, shape[0], shape[1], device, kernel);
          line += fmt::format("  {}x{}{}{} {:.1f} ({:.1f}){}", plan.tile.features(), plan.tile.tokens,
                              plan.tile.cluster > 1 ? "c" : "", plan.partial_bytes > 0 ? "s" : "",
                              copies.time_us(m, stream), plan.us, kernel == planned ? "*" : "");
        }
        fmt::print("{:12} {:5} x {:5} m={:<5}{}\n", test::to_string(kind), shape[0], shape[1], m, line);
      }
      std::fflush(stdout);
    }
  QG_CUDA(cudaStreamDestroy(stream));
}

void bench_linear_int4() {
  print_tables({{Kind::f16, {}, "", kMostRows}, {Kind::w4, {}, "", kMostRows}, {Kind::w4_zeros, {}, "", kMostRows}});
}

}  // namespace qg
