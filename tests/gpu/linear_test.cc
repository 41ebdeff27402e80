// Every linear kernel against a double-precision loop over the same stored bytes and the same codes of x.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "kernels/linear/cuda_state.h"
#include "tests/gpu/linear_layers.h"

namespace qg {
namespace {

using test::Expected;
using test::Kind;

struct Shape2 {
  int64_t n, k, group;
};

DeviceCapabilities capabilities(KernelFamily family = KernelFamily::sm90a) {
  DeviceCapabilities device = read_device_capabilities(0);
  device.family = std::min(device.family, family);
  return device;
}

cudaStream_t stream() {
  static const cudaStream_t made = [] {
    cudaStream_t s = nullptr;
    QG_CUDA(cudaStreamCreate(&s));  // ordered with the default stream's copies
    return s;
  }();
  return made;
}

DeviceBuffer to_device(const void* from, size_t bytes) {
  DeviceBuffer buffer(bytes);
  QG_CUDA(cudaMemcpy(buffer.data(), from, bytes, cudaMemcpyHostToDevice));
  return buffer;
}

// How far an output may be off:
// - the output's own rounding, 2^-11 (2^-22 for F32, whose scale products round too);
// - float sums: each of the k/16 additions of an instruction's result, and the 64 of warps and slices, is off by at
// most
//   2^-23 of a partial sum, which is at most the sum of the magnitudes. Integer sums are exact;
// - fp8 through Hopper's wgmma (cuBLASLt): for every 32 of k the products and the sum so far are aligned to the largest
//   and cut to 14 bits (DeepSeek-V3 report, section 3.3.2), so each loses up to u = 2^-13 of the largest, which is of
//   the size of the root of the sum of squares. The sum always loses towards zero: k/32 times up to u. The products
//   lose with their signs, independently and evenly between 0 and u: three standard deviations are 3 u sqrt(k / 3);
// - weights expanded to halves: each is off by at most 2^-11, independently: four standard deviations.
double tolerance(const Expected& e, Kind kind, const std::string& kernel, int64_t k, DType y_type) {
  double allowed = std::fabs(e.value) * (y_type == DType::f16 ? std::ldexp(1.0, -11) : std::ldexp(1.0, -21));
  allowed += y_type == DType::f16 ? std::ldexp(1.0, -25) : 0;
  if (test::is_int8(kind)) return allowed + std::fabs(e.value) * std::ldexp(1.0, -21);
  allowed += (static_cast<double>(k) / 16 + 64) * std::ldexp(1.0, -23) * e.magnitude;
  const bool wide = kernel.find("skinny") == std::string::npos;
  if (wide && kernel.find("w8a8_fp8") != std::string::npos) {
    const double terms = static_cast<double>(k) / 32 + std::sqrt(3.0 * static_cast<double>(k));
    allowed += terms * std::ldexp(1.0, -13) * std::max(e.root_square, std::fabs(e.value));
  }
  if (kernel.find("expand") != std::string::npos || kernel.find("wide_w4") != std::string::npos)
    allowed += 4 * std::ldexp(1.0, -11) * e.root_square;
  return allowed;
}

// A layer on the device with an input of up to `rows` rows, and the expected outputs of some of them.
class Case {
 public:
  Case(Kind kind, Shape2 shape, int64_t rows, CudaLinearContext& context, std::vector<int64_t> part_rows = {})
      : kind_(kind), name_(fmt::format("{} n={} k={} group={}", test::to_string(kind), shape.n, shape.k, shape.group)) {
    if (part_rows.empty()) part_rows = {shape.n};
    std::vector<const LinearWeights*> pointers;
    for (size_t i = 0; i < part_rows.size(); ++i)
      parts_.push_back(test::make_part(kind, part_rows[i], shape.k, shape.group, 100 + i));
    for (const LinearWeights& part : parts_) pointers.push_back(&part);
    layer_ = std::make_unique<CudaLinear>(pointers, test::activations_of(kind), context);
    const ActivationRequest request = layer_->input();
    x_ = std::make_unique<test::Input>(request.form, request.per_token, rows, shape.k, 5);
    values_ = to_device(x_->values.tensor.data, x_->values.tensor.bytes());
    scales_ = to_device(x_->row_scales.data(), x_->row_scales.size() * sizeof(float));
  }

  void expect_at(std::vector<int64_t> rows, std::vector<int64_t> columns) {
    rows_ = std::move(rows);
    columns_ = std::move(columns);
    expected_ = test::reference(parts_, *x_, rows_, columns_);
  }
  void expect_all() {
    std::vector<int64_t> rows(static_cast<size_t>(x_->m)), columns(static_cast<size_t>(layer_->n()));
    std::iota(rows.begin(), rows.end(), 0);
    std::iota(columns.begin(), columns.end(), 0);
    expect_at(rows, columns);
  }
  CudaLinear& layer() { return *layer_; }

  // Runs m rows twice on poisoned memory and compares. Reports the worst output.
  void check(int64_t m, DType y_type = DType::f16) {
    const std::string kernel = layer_->kernel_name(m);
    const std::vector<std::byte> first = run(m, y_type), second = run(m, y_type);
    if (first != second) {
      ADD_FAILURE() << name_ << " m=" << m << " " << kernel << ": two runs differ";
      return;
    }
    double worst = 0;
    std::string report;
    for (size_t r = 0; r < rows_.size(); ++r) {
      if (rows_[r] >= m) continue;
      for (size_t c = 0; c < columns_.size(); ++c) {
        const Expected& e = expected_[r * columns_.size() + c];
        const double got = value(first, y_type, rows_[r] * layer_->n() + columns_[c]);
        const double allowed = tolerance(e, kind_, kernel, layer_->k(), y_type);
        const double share = std::isfinite(got) ? std::fabs(got - e.value) / allowed : 1e30;
        if (share <= worst) continue;
        worst = share;
        report =
            fmt::format("row {} column {}: got {}, want {}, allowed {}", rows_[r], columns_[c], got, e.value, allowed);
      }
    }
    if (worst > 1) ADD_FAILURE() << name_ << " m=" << m << " " << kernel << ": " << report << ", " << worst << " times";
    worst_ = std::max(worst_, worst);
  }
  double worst() const { return worst_; }
  const std::string& name() const { return name_; }

 private:
  static constexpr size_t kGuardBytes = 4096;

  static double value(const std::vector<std::byte>& y, DType type, int64_t at) {
    if (type == DType::f32) {
      float v;
      std::memcpy(&v, y.data() + at * 4, 4);
      return static_cast<double>(v);
    }
    uint16_t v;
    std::memcpy(&v, y.data() + at * 2, 2);
    return static_cast<double>(f32_from_f16(v));
  }

  std::vector<std::byte> run(int64_t m, DType y_type) {
    const size_t bytes = static_cast<size_t>(m * layer_->n()) * size_bytes(y_type);
    if (y_.bytes() < bytes + kGuardBytes) y_ = DeviceBuffer(bytes + kGuardBytes);
    QG_CUDA(cudaMemset(y_.data(), 0xff, bytes + kGuardBytes));  // NaN in both types
    ActivationBuffer x;
    x.values = values_.data();
    x.row_scales = scales_.as<float>();
    layer_->run(CudaQueue{stream(), true}, m, x, y_.data(), y_type);
    QG_CUDA(cudaDeviceSynchronize());
    std::vector<std::byte> out(bytes + kGuardBytes);
    QG_CUDA(cudaMemcpy(out.data(), y_.data(), out.size(), cudaMemcpyDeviceToHost));
    for (size_t i = bytes; i < out.size(); ++i)
      if (out[i] != std::byte{0xff}) {
        ADD_FAILURE() << name_ << " m=" << m << ": wrote behind the output, at byte " << i - bytes;
        break;
      }
    int64_t unwritten = -1;
    for (int64_t i = m * layer_->n() - 1; i >= 0; --i)
      if (std::isnan(value(out, y_type, i))) unwritten = i;
    if (unwritten >= 0)
      ADD_FAILURE() << name_ << " m=" << m << " " << layer_->kernel_name(m) << ": nothing written (or NaN) at row "
                    << unwritten / layer_->n() << " column " << unwritten % layer_->n();
    return out;
  }

  Kind kind_;
  std::string name_;
  std::vector<LinearWeights> parts_;
  std::unique_ptr<CudaLinear> layer_;
  std::unique_ptr<test::Input> x_;
  DeviceBuffer values_, scales_, y_;
  std::vector<int64_t> rows_, columns_;
  std::vector<Expected> expected_;
  double worst_ = 0;
};

// `count` places spread over [0, size), ends included.
std::vector<int64_t> spread(int64_t size, int64_t count) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = count == 1 ? 0 : i * (size - 1) / (count - 1);
    if (places.empty() || places.back() != at) places.push_back(at);
  }
  return places;
}

void check_small(Kind kind, KernelFamily family, std::optional<LinearRoute> wanted = {}) {
  CudaLinearContext context(capabilities(family), 512);
  context.state().wanted = wanted;
  std::vector<Shape2> shapes = {{24, 48, 0}, {40, 80, 0}, {96, 144, 0}, {64, 384, 0}, {48, 320, 0}, {576, 576, 0}};
  if (test::is_int4(kind))
    shapes = {{24, 96, 32},  {40, 384, 128}, {48, 320, 64},  {64, 192, 192},
              {72, 160, 32}, {576, 576, 64}, {32, 1280, 256}};
  for (const Shape2 shape : shapes) {
    Case c(kind, shape, 64, context);
    c.expect_all();
    for (int64_t m = 1; m <= 64; ++m) c.check(m);
    c.check(3, DType::f32);
    c.check(61, DType::f32);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
    if (testing::Test::HasFailure()) return;
  }
}

class LinearKinds : public testing::TestWithParam<Kind> {};

TEST_P(LinearKinds, EveryRowCountOnSmallShapes) {
  check_small(GetParam(), KernelFamily::sm90a);
}

// Hopper's own kernel where it can run, also where another is faster.
TEST_P(LinearKinds, WideAtEveryRowCount) {
  check_small(GetParam(), KernelFamily::sm90a, LinearRoute::wide);
  CudaLinearContext context(capabilities(), 2048);
  context.state().wanted = LinearRoute::wide;
  for (const Shape2 shape : {Shape2{1096, 1088, 64}, Shape2{4096, 4096, 128}, Shape2{10240, 640, 128}}) {
    Case c(GetParam(), shape, 1500, context);
    c.expect_at(spread(1500, 61), spread(shape.n, 67));
    for (const int64_t m : {1, 17, 33, 64, 65, 128, 129, 256, 257, 400, 512, 777, 1024, 1500}) {
      fmt::print("  m={} {}\n", m, c.layer().kernel_name(m));
      c.check(m);
    }
    c.check(300, DType::f32);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

TEST_P(LinearKinds, EveryRowCountOnOneRealShape) {
  CudaLinearContext context(capabilities(), 64);
  for (const Shape2 shape : {Shape2{4096, 4096, 128}, Shape2{1024, 14336, 128}}) {
    Case c(GetParam(), shape, 64, context);
    c.expect_at(spread(64, 64), spread(shape.n, 67));
    for (int64_t m = 1; m <= 64; ++m) c.check(m);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

TEST_P(LinearKinds, ManyRows) {
  CudaLinearContext context(capabilities(), 8192);
  Case c(GetParam(), {1024, 1024, 128}, 8192, context);
  const std::vector<int64_t> counts = {65, 100, 127, 128, 129, 200, 256, 300, 512, 777, 1024, 2048, 4096, 8192};
  std::vector<int64_t> rows = spread(8192, 41);
  for (const int64_t m : counts) rows.insert(rows.end(), {m - 1, m - 2});
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  c.expect_at(rows, spread(1024, 97));
  for (const int64_t m : counts) {
    fmt::print("  m={} {}\n", m, c.layer().kernel_name(m));
    c.check(m);
    c.layer().prepare(m);
    c.check(m);
  }
  c.check(300, DType::f32);
  fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
}

TEST_P(LinearKinds, RealShapes) {
  CudaLinearContext context(capabilities(), 512);
  const std::vector<Shape2> shapes = {{6144, 4096, 128}, {28672, 4096, 128}, {4096, 14336, 128}, {5120, 3072, 128},
                                      {3072, 3072, 128}, {16384, 3072, 128}, {3072, 8192, 128},  {960, 576, 64},
                                      {576, 576, 64},    {3072, 576, 64},    {576, 1536, 128}};
  for (const Shape2 shape : shapes) {
    Case c(GetParam(), shape, 300, context);
    c.expect_at({0, 1, 6, 7, 8, 15, 16, 31, 63, 64, 127, 128, 299}, spread(shape.n, 61));
    for (const int64_t m : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 300}) c.check(m);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

TEST_P(LinearKinds, PartsAreOneLayer) {
  CudaLinearContext context(capabilities(), 512);
  for (const std::vector<int64_t>& part_rows : {std::vector<int64_t>{256, 64, 64}, {40, 24}, {208, 208}}) {
    const int64_t n = std::accumulate(part_rows.begin(), part_rows.end(), int64_t{0});
    Case c(GetParam(), {n, 256, 128}, 400, context, part_rows);
    c.expect_all();
    for (const int64_t m : {1, 5, 16, 33, 64, 96, 255, 256, 400}) c.check(m);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

INSTANTIATE_TEST_SUITE_P(All, LinearKinds, testing::ValuesIn(test::kKinds),
                         [](const auto& each) { return std::string(test::to_string(each.param)); });

TEST(Linear, LanguageModelHeads) {
  CudaLinearContext context(capabilities(), 64);
  for (const Shape2 shape : {Shape2{128256, 4096, 0}, Shape2{32768, 4096, 0}, Shape2{49152, 576, 0}}) {
    Case c(Kind::f16, shape, 64, context);
    c.expect_at(spread(64, 64), spread(shape.n, 61));
    for (const int64_t m : {1, 2, 8, 13, 16, 32, 64}) {
      c.check(m, DType::f32);
      c.check(m);
    }
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

TEST(Linear, EarlierFamilies) {
  check_small(Kind::fp8_static, KernelFamily::sm80);
  check_small(Kind::fp8_dynamic, KernelFamily::sm80);
  CudaLinearContext context(capabilities(KernelFamily::sm80), 512);
  Case c(Kind::fp8_dynamic, {1024, 4096, 0}, 300, context);
  EXPECT_EQ(c.layer().path(), ComputePath::w8a16_fp8);
  c.expect_at(spread(300, 41), spread(1024, 61));
  for (const int64_t m : {1, 8, 33, 64, 65, 300}) c.check(m);
  CudaLinearContext ada(capabilities(KernelFamily::sm89), 2048);
  Case dynamic(Kind::fp8_dynamic, {1024, 1024, 0}, 1500, ada);
  dynamic.expect_at(spread(1500, 41), spread(1024, 61));
  for (const int64_t m : {1, 8, 33, 64, 65, 300, 1500}) dynamic.check(m);
}

// Small shared memory, as an A10's or L4's: more slices of k.
TEST(Linear, SmallSharedMemory) {
  DeviceCapabilities device = capabilities(KernelFamily::sm89);
  device.shared_bytes_per_block = 99 << 10;
  CudaLinearContext context(device, 64);
  for (const Kind kind : {Kind::f16, Kind::fp8_static, Kind::int8_dynamic, Kind::w4}) {
    Case c(kind, {1040, 4096, 128}, 64, context);
    c.expect_at(spread(64, 64), spread(1040, 31));
    for (const int64_t m : {1, 3, 8, 16, 24, 40, 64}) c.check(m);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

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

TEST(Linear, RefusesWhatItCannotDo) {
  CudaLinearContext context(capabilities(), 64);
  const auto make = [&](const LinearWeights& a, const LinearWeights& b, ActivationScaling activations) {
    const LinearWeights* parts[] = {&a, &b};
    CudaLinear(parts, activations, context);
  };
  const LinearWeights narrow = test::make_part(Kind::f16, 16, 40, 0, 1);
  EXPECT_THROW(make(narrow, narrow, ActivationScaling::none), Error);
  const LinearWeights f16 = test::make_part(Kind::f16, 16, 64, 0, 1),
                      fp8 = test::make_part(Kind::fp8_f16, 16, 64, 0, 1);
  EXPECT_THROW(make(f16, fp8, ActivationScaling::none), Error);
  const LinearWeights small_groups = test::make_part(Kind::w4, 16, 64, 16, 1);
  EXPECT_THROW(make(small_groups, small_groups, ActivationScaling::none), Error);
  const LinearWeights int8 = test::make_part(Kind::int8_dynamic, 16, 64, 0, 1);
  EXPECT_THROW(make(int8, int8, ActivationScaling::none), Error);
  LinearWeights large;
  large.n = 1;
  large.k = 16;
  large.weight = tensor_from_f32(std::vector<float>(16, 1e6f), {1, 16}, DType::bf16);
  EXPECT_THROW(make(large, large, ActivationScaling::none), Error);
}

}  // namespace
}  // namespace qg
