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
  }
  return {first, static_cast<size_t>(count)};
}

// What the plan reckons with, measured on an H100 (`bench_gpu linear`): a multiprocessor's products and copies out of
// L2 a microsecond, and the card's memory.
constexpr double kF16ProductsPerUs = 2048.0 * 1300, kByteProductsPerUs = 4096.0 * 1300;
constexpr double kL2BytesPerUs = 65e3, kMemoryBytesPerUs = 2.9e6, kTileUs = 1.5, kSplitUs = 4, kSharedBytesPerUs = 60e3;
constexpr double kScatteredUs = 12;  // of a split where blocks that share weights or x are not in step
constexpr double kStepUs = 0.12;     // a step at least
// The same of int4, whose scales are many small copies; a split of it costs less.
constexpr double kInt4StepUs = 0.5, kInt4WideStepUs = 0.9, kInt4SplitUs = 1.5;

double step_us(WideFormat format, const WideTile& tile) {
  const double products = static_cast<double>(tile.features()) * tile.tokens * tile.step;
  const double weights = tile.features() * tile.step * (is_int4(format) ? 0.53 : 1.0);
  const double x = static_cast<double>(tile.tokens) * tile.step * (is_int4(format) ? 2 : 1);
  return std::max({products / (is_int4(format) ? kF16ProductsPerUs : kByteProductsPerUs), (weights + x) / kL2BytesPerUs,
                   !is_int4(format)   ? kStepUs
                   : tile.groups == 1 ? kInt4StepUs
                                      : kInt4WideStepUs + 0.1 * (tile.tokens >= 64)});
}

// `several`: token tiles. Expected time of `whole` tiles a block's own and `split` tiles dealt out to `blocks`.
double expected_us(double step, double split_us, const WideTile& tile, int64_t steps, int64_t grid, int64_t whole,
                   int64_t split, int64_t blocks, bool several) {
  const int64_t own = ceil_div(whole, grid);
  double us = static_cast<double>(own) * (static_cast<double>(steps) * step + kTileUs);
  if (split == 0) return us;
  us += static_cast<double>(ceil_div(split * steps, blocks)) * step + kTileUs;
  if (blocks == split) return us;
  const double tile_bytes = static_cast<double>(tile.features()) * tile.tokens * 4;
  const double sharers = 1 + static_cast<double>(blocks) / static_cast<double>(split);
  if (several) us += kScatteredUs;
  return us + split_us + tile_bytes * (1 + sharers) / kSharedBytesPerUs;
}

void consider(WidePlan& best, WideFormat format, int kernel, const WideTile& tile, int64_t m, int64_t n, int64_t k,
              int64_t multiprocessors) {
  const double step = step_us(format, tile);
  const int64_t steps = ceil_div(k, tile.step), token_tiles = ceil_div(m, tile.tokens);
  const int64_t tiles = ceil_div(n, tile.features()) * token_tiles, waves = tiles / multiprocessors;
  for (int64_t own = std::max<int64_t>(0, waves - 1); own <= waves; ++own) {
    const int64_t whole = own * multiprocessors / token_tiles * token_tiles, split = tiles - whole;
    for (int64_t share = 0; share <= 8; ++share) {  // blocks: all, or exactly `share` a tile
      int64_t blocks = share == 0 ? multiprocessors : split * share;
      if (split == 0) blocks = 0;
      if (blocks > multiprocessors || blocks > split * steps || split > kWideTickets) continue;
      const double memory = static_cast<double>(n * k) * (is_int4(format) ? 0.53 : 1.0) / kMemoryBytesPerUs;
      const double us = std::max(memory, expected_us(step, is_int4(format) ? kInt4SplitUs : kSplitUs, tile, steps,
                                                     multiprocessors, whole, split, blocks, token_tiles > 1));
      if (best.us != 0 && us >= best.us) continue;
      best.tile = tile;
      best.kernel = kernel;
      best.us = us;
      best.steps = static_cast<int>(steps);
      best.token_tiles = static_cast<int>(token_tiles);
      best.whole_tiles = static_cast<int>(whole);
      best.split_tiles = static_cast<int>(split);
      best.split_blocks = static_cast<int>(blocks);
      best.grid = static_cast<int>(whole > 0 ? multiprocessors : blocks);
      best.partial_bytes = blocks == split ? 0 : 2 * blocks * tile.features() * tile.tokens * 4;
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
  for (int i = 0; i < static_cast<int>(kernels.size()); ++i)
    if (only < 0 || only == i)
      consider(best, format, i, kernels[static_cast<size_t>(i)].tile, m, n, k, device.multiprocessors);
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
  for (const WideFormat format : {WideFormat::w4, WideFormat::w4_zeros, WideFormat::int8, WideFormat::e4m3})
    for (const WideKernel& kernel : kernels_of(format))
      QG_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel.kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes));
}

void launch_wide(WideFormat format, const WidePlan& plan, const WideArguments& arguments, const CudaQueue& queue) {
  const WideKernel& kernel = kernels_of(format)[static_cast<size_t>(plan.kernel)];
  launch(queue, kernel.kernel, dim3(static_cast<unsigned>(plan.grid)),
         dim3(static_cast<unsigned>(kernel.tile.threads())), static_cast<size_t>(kernel.shared_bytes), arguments);
}

}  // namespace qg
