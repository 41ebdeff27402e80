// Every linear kernel against a double-precision loop over the same stored bytes and the same codes of x.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "tests/gpu/gating_case.h"

namespace qg {
namespace {

using test::capabilities;
using test::Case;
using test::check_gating;
using test::Kind;
using test::Shape2;
using test::spread;

void check_small(Kind kind, KernelFamily family, std::optional<LinearRoute> wanted = {}) {
  CudaLinearContext context(capabilities(family), 512, test::type_of(kind));
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

// The kernels for few rows, those of earlier cards too, also where another is faster.
TEST_P(LinearKinds, FewRowsByEveryKernel) {
  check_small(GetParam(), KernelFamily::sm90a, LinearRoute::bulk);
  check_small(GetParam(), KernelFamily::sm90a, LinearRoute::skinny);
  for (const LinearRoute route : {LinearRoute::bulk, LinearRoute::skinny}) {
    CudaLinearContext context(capabilities(), 64, test::type_of(GetParam()));
    context.state().wanted = route;
    for (const Shape2 shape : {Shape2{4096, 4096, 128}, Shape2{1024, 14336, 128}, Shape2{2056, 1152, 128}}) {
      Case c(GetParam(), shape, 64, context);
      c.expect_at(spread(64, 64), spread(shape.n, 67));
      for (const int64_t m : {1, 2, 5, 7, 8, 9, 13, 16, 17, 24, 31, 32, 33, 48, 64}) c.check(m);
      c.check(8, DType::f32);
      fmt::print("  {}: {}, worst {:.3f} of the tolerance\n", c.name(), c.layer().kernel_name(8), c.worst());
    }
  }
}

// Rows of a gate and its up that alternate, and the product that ends with the gating: the bits of the two launches.
TEST_P(LinearKinds, AlternatingPartsAndGating) {
  CudaLinearContext context(capabilities(), 640, test::type_of(GetParam()));
  for (const Shape2 shape : {Shape2{80, 192, 64}, Shape2{1152, 576, 64}, Shape2{2064, 4096, 128}}) {
    Case c(GetParam(), shape, 640, context, {shape.n / 2, shape.n / 2}, PartOrder::alternating);
    c.expect_at(spread(640, 40), spread(shape.n, 79));
    for (const int64_t m : {1, 5, 8, 12, 16, 32, 33, 64, 100, 255, 256, 400, 512, 640}) c.check(m);
    for (const int64_t m : {1, 2, 5, 8, 9, 12, 16, 17, 24, 32, 33, 40, 64, 65, 100, 255, 400, 640}) check_gating(c, m);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

// Hopper's own kernel where it can run, also where another is faster.
TEST_P(LinearKinds, WideAtEveryRowCount) {
  check_small(GetParam(), KernelFamily::sm90a, LinearRoute::wide);
  CudaLinearContext context(capabilities(), 2048, test::type_of(GetParam()));
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

std::optional<WideFormat> wide_format_of(Kind kind) {
  if (kind == Kind::w4) return WideFormat::w4;
  if (kind == Kind::w4_zeros) return WideFormat::w4_zeros;
  if (test::is_int8(kind)) return WideFormat::int8;
  if (kind == Kind::fp8_static || kind == Kind::fp8_dynamic) return WideFormat::e4m3;
  if (kind == Kind::f16 || kind == Kind::bf16_to_f16) return WideFormat::f16;
  return {};
}

// Each of them, also where the plan never takes it: tiles of a block's own in several bands, tiles that blocks share,
// rows and columns that end inside a tile.
TEST_P(LinearKinds, EveryWideKernel) {
  const std::optional<WideFormat> format = wide_format_of(GetParam());
  for (int kernel = 0; format && kernel < wide_kernel_count(*format); ++kernel) {
    CudaLinearContext context(capabilities(), 2048, test::type_of(GetParam()));
    context.state().wanted = LinearRoute::wide;
    context.state().wanted_wide = kernel;
    bool shares = false;
    for (const Shape2 shape : {Shape2{1096, 1088, 64}, Shape2{4096, 1280, 128}, Shape2{1104, 8192, 128}}) {
      Case c(GetParam(), shape, 1600, context);
      c.expect_at(spread(1600, 61), spread(shape.n, 67));
      for (const int64_t m : {1, 65, 200, 600, 1600}) {
        c.check(m);
        shares |= c.layer().kernel_name(m).ends_with("_split");
      }
      fmt::print("  {}: {} to {}, worst {:.3f} of the tolerance\n", c.name(), c.layer().kernel_name(1),
                 c.layer().kernel_name(1600), c.worst());
    }
    EXPECT_TRUE(shares) << "no shape in which blocks share tiles of kernel " << kernel;
    for (const int64_t k : {1088, 4096}) {
      Case gate(GetParam(), {1104, k, 64}, 1600, context, {552, 552}, PartOrder::alternating);
      for (const int64_t m : {1, 65, 200, 1600}) check_gating(gate, m);
    }
  }
}

// With room for whole tiles: what lies there reaches no row that counts, and nothing behind it is written.
TEST_P(LinearKinds, RowsThatThereIsRoomFor) {
  for (const std::optional<LinearRoute> wanted : {std::optional<LinearRoute>(), std::optional(LinearRoute::wide)}) {
    CudaLinearContext context(capabilities(), 1100, test::type_of(GetParam()));
    context.state().wanted = wanted;
    for (const Shape2 shape : {Shape2{1104, 1088, 64}, Shape2{2048, 4096, 128}}) {
      Case c(GetParam(), shape, 1024, context, {shape.n / 2, shape.n / 2}, PartOrder::alternating);
      c.expect_at(spread(1024, 61), spread(shape.n, 67));
      for (const int64_t m : {1, 33, 65, 96, 100, 129, 200, 300, 500, 513, 777, 1000, 1024})
        for (const int64_t room : {int64_t{1050}, m + 10}) {  // the smaller: some tiles end outside of it
          c.give_room(m, room, 0x00);
          c.check(m);
          const std::vector<std::byte> beside_zeros = c.latest();
          c.give_room(m, room, 0xff);  // NaN
          c.check(m);
          EXPECT_EQ(c.latest(), beside_zeros) << c.name() << " m=" << m << " " << c.layer().kernel_name(m);
          check_gating(c, m);
        }
      fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
    }
  }
}

TEST_P(LinearKinds, EveryRowCountOnOneRealShape) {
  CudaLinearContext context(capabilities(), 64, test::type_of(GetParam()));
  for (const Shape2 shape : {Shape2{4096, 4096, 128}, Shape2{1024, 14336, 128}}) {
    Case c(GetParam(), shape, 64, context);
    c.expect_at(spread(64, 64), spread(shape.n, 67));
    for (int64_t m = 1; m <= 64; ++m) c.check(m);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
}

TEST_P(LinearKinds, ManyRows) {
  CudaLinearContext context(capabilities(), 8192, test::type_of(GetParam()));
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
  CudaLinearContext context(capabilities(), 512, test::type_of(GetParam()));
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
  CudaLinearContext context(capabilities(), 512, test::type_of(GetParam()));
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
  for (const Kind kind : {Kind::f16, Kind::bf16}) {
    CudaLinearContext context(capabilities(), 64, test::type_of(kind));
    for (const Shape2 shape : {Shape2{128256, 4096, 0}, Shape2{32768, 4096, 0}, Shape2{49152, 576, 0}}) {
      Case c(kind, shape, 64, context);
      c.expect_at(spread(64, 64), spread(shape.n, 61));
      for (const int64_t m : {1, 2, 8, 13, 16, 32, 64}) {
        c.check(m, DType::f32);
        c.check(m);
      }
      fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
    }
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
  for (const Kind kind : {Kind::f16, Kind::bf16, Kind::fp8_static, Kind::int8_dynamic, Kind::w4}) {
    CudaLinearContext context(device, 64, test::type_of(kind));
    Case c(kind, {1040, 4096, 128}, 64, context);
    c.expect_at(spread(64, 64), spread(1040, 31));
    for (const int64_t m : {1, 3, 8, 16, 24, 40, 64}) c.check(m);
    fmt::print("  {}: worst {:.3f} of the tolerance\n", c.name(), c.worst());
  }
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
  EXPECT_THROW(CudaLinearContext(capabilities(), 64, DType::f32), Error);
  const LinearWeights* of_f16 = &f16;
  const CudaLinear layer({&of_f16, 1}, ActivationScaling::none, context);
  DeviceBuffer memory(1 << 12);
  EXPECT_THROW(layer.run({}, 1, {memory.data(), nullptr}, memory.data(), DType::bf16), Error);
}

}  // namespace
}  // namespace qg
