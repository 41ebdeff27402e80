#include "kernels/linear/cuda_wide.h"

#include <cuda.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "core/error.h"

namespace qg {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

bool is_int4(WideFormat format) {
  return format == WideFormat::w4 || format == WideFormat::w4_zeros;
}

std::span<const WideKernel> kernels_of(WideFormat format) {
  int count = 0;
  const WideKernel* first = nullptr;
  switch (format) {
    case WideFormat::w4:
      first = wide_kernels_w4(count);
      break;
    case WideFormat::w4_zeros:
      first = wide_kernels_w4_zeros(count);
      break;
    case WideFormat::int8:
      first = wide_kernels_int8(count);
      break;
    case WideFormat::e4m3:
      first = wide_kernels_e4m3(count);
      break;
    case WideFormat::f16:
      first = wide_kernels_f16(count);
      break;
  }
  return {first, static_cast<size_t>(count)};
}

// Of a weight in memory, a group's scale included.
double weight_bytes(WideFormat format) {
  return is_int4(format) ? 0.53 : format == WideFormat::f16 ? 2.0 : 1.0;
}

// What the plan reckons with, measured on an H100 (`bench_gpu linear`): a multiprocessor's products (of halves half as
// many, so that a step of 128 bytes takes the same time) and copies out of L2 a microsecond, and the card's memory.
constexpr int kStepBytes = 128;
constexpr double kByteProductsPerUs = 4096.0 * 1300, kL2BytesPerUs = 65e3, kMemoryBytesPerUs = 2.9e6;
constexpr double kTileUs = 1.5, kSharedBytesPerUs = 60e3;
constexpr double kStepUs = 0.26;                      // a step at least
constexpr double kSplitUs = 2.5, kInt4SplitUs = 1.5;  // where blocks share a tile
constexpr double kScatteredUs = 13.5;                 // of a split where blocks that share weights or x are not in step
// A block that begins inside a tile has two sums to hand over.
constexpr double kTwiceBytesPerUs = 22e3;
constexpr double kHidden = 0.1;  // of the multiplying: what shows even where memory takes longer

// A step of each int4 tile, measured.
struct Int4Step {
  int features, tokens;
  double us;
};
constexpr Int4Step kInt4Steps[] = {{64, 32, 0.42},   {64, 64, 0.50},   {256, 32, 0.80}, {256, 64, 0.97},
                                   {128, 128, 0.74}, {192, 128, 1.12}, {256, 128, 1.43}};

double step_us(WideFormat format, const WideTile& tile) {
  if (is_int4(format)) {
    for (const Int4Step& step : kInt4Steps)
      if (step.features == tile.features() && step.tokens == tile.tokens) return step.us;
    throw Error(fmt::format("no measured step of an int4 tile of {} x {}", tile.features(), tile.tokens));
  }
  const double products = static_cast<double>(tile.features()) * tile.tokens * kStepBytes;
  const double bytes = (tile.features() + static_cast<double>(tile.tokens) / tile.cluster) * kStepBytes;
  return std::max({products / kByteProductsPerUs, bytes / kL2BytesPerUs, kStepUs});
}

// What a plan is reckoned from. whole: tiles of a team's own; split: those dealt out to `sharing` of all teams.
struct WideCost {
  WideFormat format;
  const WideTile& tile;
  int64_t steps, teams, whole, split, sharing, token_tiles;
  double memory_us;

  double us() const {
    double multiplying = static_cast<double>(ceil_div(whole, teams) * steps) * step_us(format, tile);
    double rest = static_cast<double>(ceil_div(whole, teams)) * kTileUs;
    if (split > 0) {
      multiplying += static_cast<double>(ceil_div(split * steps, sharing)) * step_us(format, tile);
      rest += kTileUs + sharing_us();
    }
    return std::max(memory_us, multiplying) + kHidden * multiplying + rest;
  }

 private:
  double sharing_us() const {
    if (sharing == split) return 0;
    const double tile_bytes = static_cast<double>(tile.features()) * tile.tokens * 4;
    const double sharers = 1 + static_cast<double>(sharing) / static_cast<double>(split);
    double us = tile_bytes * (1 + sharers) / kSharedBytesPerUs;
    if (sharing % split != 0) us += tile_bytes / kTwiceBytesPerUs;
    if (is_int4(format)) return us + kInt4SplitUs;
    return us + kSplitUs + (token_tiles > 1 ? kScatteredUs : 0);
  }
};

void consider(WidePlan& best, WideFormat format, int kernel, const WideTile& tile, int64_t m, int64_t n, int64_t k,
              int64_t multiprocessors) {
  const int64_t steps = ceil_div(k, wide_step(format)), token_tiles = ceil_div(m, tile.tokens);
  const int64_t teams = multiprocessors / tile.cluster;
  const int64_t tiles = ceil_div(n, tile.features() * tile.cluster) * token_tiles, waves = tiles / teams;
  for (int64_t own = std::max<int64_t>(0, waves - 1); own <= waves; ++own) {
    const int64_t whole = own * teams / token_tiles * token_tiles, split = tiles - whole;
    for (int64_t share = 0; share <= 8; ++share) {  // teams: all, or exactly `share` a tile
      int64_t sharing = share == 0 ? teams : split * share;
      if (split == 0) sharing = 0;
      if (sharing > teams || sharing > split * steps || split * tile.cluster > kWideTickets) continue;
      const double memory = static_cast<double>(n * k) * weight_bytes(format) / kMemoryBytesPerUs;
      const WideCost cost = {format, tile, steps, teams, whole, split, sharing, token_tiles, memory};
      const double us = cost.us();
      if (best.us != 0 && us >= best.us) continue;
      best.tile = tile;
      best.kernel = kernel;
      best.us = us;
      best.steps = static_cast<int>(steps);
      best.token_tiles = static_cast<int>(token_tiles);
      best.whole_tiles = static_cast<int>(whole);
      best.split_tiles = static_cast<int>(split);
      best.split_teams = static_cast<int>(sharing);
      best.grid = static_cast<int>((whole > 0 ? teams : sharing) * tile.cluster);
      best.partial_bytes = sharing == split ? 0 : 2 * sharing * tile.cluster * tile.features() * tile.tokens * 4;
    }
  }
}

}  // namespace

int wide_kernel_count(WideFormat format) {
  return static_cast<int>(kernels_of(format).size());
}

WidePlan plan_wide(WideFormat format, int64_t m, int64_t n, int64_t k, const DeviceCapabilities& device, int only) {
  WidePlan best;
  const std::span<const WideKernel> kernels = kernels_of(format);
  for (int i = 0; i < static_cast<int>(kernels.size()); ++i) {
    const WideTile& tile = kernels[static_cast<size_t>(i)].tile;
    const bool fits = tile.tokens < 2 * std::max<int64_t>(m, 32);  // others multiply mostly nothing
    if (only < 0 ? fits : only == i) consider(best, format, i, tile, m, n, k, device.multiprocessors);
  }
  return best;
}

int64_t wide_partial_bytes(WideFormat format, const DeviceCapabilities& device) {
  int64_t bytes = 0;
  for (const WideKernel& kernel : kernels_of(format))
    bytes = std::max<int64_t>(bytes, int64_t{kernel.tile.features()} * kernel.tile.tokens * 4);
  return 2 * device.multiprocessors * bytes;
}

TensorMap tensor_map(const void* data, int64_t rows, int64_t columns, int64_t pitch_bytes, int element_bytes,
                     int box_rows, int box_columns) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = {};
    QG_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess)
      throw Error("the driver has no cuTensorMapEncodeTiled", "", "install a driver for CUDA 12 or later",
                  ExitCode::cannot_here);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch[1] = {static_cast<cuuint64_t>(pitch_bytes)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[2] = {1, 1};
  CUtensorMap map;
  const CUtensorMapDataType type = element_bytes == 8   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT64
                                   : element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                        : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  const CUresult status =
      encode(&map, type, 2, const_cast<void*>(data), size, pitch, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
             element_bytes == 8 ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error(fmt::format("cuTensorMapEncodeTiled: error {} for {} rows of {} elements, pitch {} bytes, box {} x {}",
                            static_cast<int>(status), rows, columns, pitch_bytes, box_rows, box_columns),
                "", "report it, with the model and the card", ExitCode::cannot_here);
  TensorMap copy;
  static_assert(sizeof copy == sizeof map);
  std::memcpy(copy.words, &map, sizeof map);
  return copy;
}

void configure_wide() {
  for (const WideFormat format :
       {WideFormat::w4, WideFormat::w4_zeros, WideFormat::int8, WideFormat::e4m3, WideFormat::f16})
    for (const WideKernel& kernel : kernels_of(format))
      QG_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel.kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes));
}

void launch_wide(WideFormat format, const WidePlan& plan, const WideArguments& arguments, const CudaQueue& queue) {
  const WideKernel& kernel = kernels_of(format)[static_cast<size_t>(plan.kernel)];
  launch_clusters(queue, static_cast<unsigned>(kernel.tile.cluster), kernel.kernel,
                  dim3(static_cast<unsigned>(plan.grid)), dim3(static_cast<unsigned>(kernel.tile.threads())),
                  static_cast<size_t>(kernel.shared_bytes), arguments);
}

}  // namespace qg
