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

// What the plan reckons with, fitted to `bench_gpu linear_tiles` on an H100 (docs/kernels.md).
constexpr double kMemoryBytesPerUs = 2.9e6;
constexpr double kTileUs = 1.5, kSharedBytesPerUs = 60e3;
constexpr double kHidden = 0.1;  // of the multiplying: what shows even where memory takes longer

// Of a step of 128 bytes, or of 128 int4 weights: as long as the products are few, and once they hold the card at its
// power limit.
struct StepTime {
  int features, tokens;
  double us, hot_us;
};
constexpr StepTime kInt4Steps[] = {{64, 32, 0.37, 0.36},  {64, 64, 0.42, 0.36},   {256, 32, 0.77, 0.75},
                                   {256, 64, 0.90, 0.95}, {128, 128, 0.71, 0.80}, {128, 192, 1.00, 1.10},
                                   {192, 128, 1.05, 1.2}, {256, 128, 1.32, 1.44}};
constexpr StepTime kByteSteps[] = {{64, 32, 0.25, 0.26},   {64, 64, 0.26, 0.23},   {64, 128, 0.40, 0.32},
                                   {128, 32, 0.34, 0.27},  {128, 64, 0.41, 0.34},  {128, 128, 0.36, 0.40},
                                   {192, 128, 0.58, 0.58}, {128, 256, 0.76, 0.78}, {256, 128, 0.83, 0.80}};
constexpr int64_t kHotFromRows = 256;

// What sharing a tile costs, and blocks that share weights or x and are not in step because of it: a time, or a part of
// the shared tiles' multiplying, a larger one where a block's share is more than a tile.
struct SplitTime {
  double us, twice_bytes_per_us;  // twice: of a block that begins inside a tile and so has two sums to hand over
  double scattered_us, scattered, far;
};
constexpr SplitTime kSplit16 = {2.5, 22e3, 13.5, 0, 0}, kSplit8 = {0.7, 13.5e3, 0, 0.2, 0.5},
                    kSplit4 = {0.7, 13.5e3, 0, 0, 0.3};

// Of 16-bit weights: a multiprocessor's products and copies out of L2 a microsecond, and a step at least.
constexpr int kStepBytes = 128;
constexpr double kByteProductsPerUs = 4096.0 * 1300, kL2BytesPerUs = 65e3, kStepUs = 0.26;

double step_us(WideFormat format, const WideTile& tile, int64_t m) {
  if (format == WideFormat::f16) {
    const double products = static_cast<double>(tile.features()) * tile.tokens * kStepBytes;
    const double bytes = (tile.features() + static_cast<double>(tile.tokens) / tile.cluster) * kStepBytes;
    return std::max({products / kByteProductsPerUs, bytes / kL2BytesPerUs, kStepUs});
  }
  const auto& steps = is_int4(format) ? std::span<const StepTime>(kInt4Steps) : std::span<const StepTime>(kByteSteps);
  for (const StepTime& step : steps)
    if (step.features == tile.features() && step.tokens == tile.tokens) return m < kHotFromRows ? step.us : step.hot_us;
  throw Error(fmt::format("no measured step of a tile of {} x {}", tile.features(), tile.tokens));
}

// What a plan is reckoned from. whole: tiles of a team's own; split: those dealt out to `sharing` of all teams.
struct WideCost {
  WideFormat format;
  const WideTile& tile;
  int64_t steps, teams, whole, split, sharing, token_tiles;
  double memory_us, step_us;

  double us() const {
    double multiplying = static_cast<double>(ceil_div(whole, teams) * steps) * step_us;
    double rest = static_cast<double>(ceil_div(whole, teams)) * kTileUs;
    if (split > 0) {
      multiplying += static_cast<double>(ceil_div(split * steps, sharing)) * step_us * scattered();
      rest += kTileUs + sharing_us();
    }
    return std::max(memory_us, multiplying) + kHidden * multiplying + rest;
  }

 private:
  const SplitTime& time() const { return format == WideFormat::f16 ? kSplit16 : is_int4(format) ? kSplit4 : kSplit8; }
  double scattered() const {
    if (sharing == split || token_tiles == 1) return 1;
    return 1 + (split > sharing ? time().far : time().scattered);
  }
  double sharing_us() const {
    if (sharing == split) return 0;
    const double tile_bytes = static_cast<double>(tile.features()) * tile.tokens * 4;
    const double sharers = 1 + static_cast<double>(sharing) / static_cast<double>(split);
    double us = time().us + tile_bytes * (1 + sharers) / kSharedBytesPerUs;
    if (sharing % split != 0) us += tile_bytes / time().twice_bytes_per_us;
    return us + (token_tiles > 1 ? time().scattered_us : 0);
  }
};

void consider(WidePlan& best, WideFormat format, int kernel, const WideTile& tile, int64_t m, int64_t n, int64_t k,
              int64_t multiprocessors) {
  const int64_t steps = ceil_div(k, wide_step(format)), token_tiles = ceil_div(m, tile.tokens);
  const double step = step_us(format, tile, m);
  const int64_t teams = multiprocessors / tile.cluster;
  const int64_t tiles = ceil_div(n, tile.features() * tile.cluster) * token_tiles, waves = tiles / teams;
  for (int64_t own = std::max<int64_t>(0, waves - 1); own <= waves; ++own) {
    const int64_t whole = own * teams / token_tiles * token_tiles, split = tiles - whole;
    for (int64_t share = 0; share <= 8; ++share) {  // teams: all, or exactly `share` a tile
      int64_t sharing = share == 0 ? teams : split * share;
      if (split == 0) sharing = 0;
      if (sharing > teams || sharing > split * steps || split * tile.cluster > kWideTickets) continue;
      const double memory = static_cast<double>(n * k) * weight_bytes(format) / kMemoryBytesPerUs;
      const WideCost cost = {format, tile, steps, teams, whole, split, sharing, token_tiles, memory, step};
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

const WideTile& wide_tile(WideFormat format, int kernel) {
  return kernels_of(format)[static_cast<size_t>(kernel)].tile;
}

WidePlan plan_wide(WideFormat format, int64_t m, int64_t n, int64_t k, const DeviceCapabilities& device, int only) {
  WidePlan best;
  const std::span<const WideKernel> kernels = kernels_of(format);
  for (int i = 0; i < static_cast<int>(kernels.size()); ++i) {
    const WideTile& tile = kernels[static_cast<size_t>(i)].tile;
    if (only < 0 ? fits_rows(tile, m) : only == i) consider(best, format, i, tile, m, n, k, device.multiprocessors);
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
