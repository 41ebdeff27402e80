#include "kernels/linear/cuda_skinny.h"

#include <algorithm>
#include <initializer_list>

namespace qg {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

constexpr int kBlocksPerMultiprocessor = 2;
constexpr int64_t kStaticSharedBytes = 512;     // the kernel's own
constexpr int64_t kReservedSharedBytes = 1024;  // a block, by CUDA

int64_t shared_limit(const DeviceCapabilities& device) {
  const int64_t whole = device.shared_bytes_per_block + kReservedSharedBytes;
  return whole / kBlocksPerMultiprocessor - kReservedSharedBytes - kStaticSharedBytes;
}

int64_t x_pitch(const SkinnyChunk& chunk, int64_t chunks) {
  const int64_t bytes = chunks * chunk.x_bytes;
  const int64_t over = bytes % 128;
  return bytes + (chunk.x_pad - over + 128) % 128;
}

SkinnyKernel kernel_for(SkinnyFormat format, int token_tiles) {
  switch (format) {
    case SkinnyFormat::f16:
    case SkinnyFormat::e4m3_f16:
      return skinny_kernel_w16(format, token_tiles);
    case SkinnyFormat::w4:
    case SkinnyFormat::w4_zeros:
    case SkinnyFormat::w4_zeros_32:
      return skinny_kernel_w4(format, token_tiles);
    case SkinnyFormat::e4m3:
      return skinny_kernel_e4m3(token_tiles);
    case SkinnyFormat::int8:
      return skinny_kernel_int8(token_tiles);
    case SkinnyFormat::bf16:
      return skinny_kernel_bf16(token_tiles);
  }
  return nullptr;
}

}  // namespace

SkinnyPlan plan_skinny(SkinnyFormat format, int64_t m, int64_t n, int64_t k, const DeviceCapabilities& device) {
  SkinnyPlan plan;
  while (plan.token_tiles * 8 < m) plan.token_tiles *= 2;
  const SkinnyChunk chunk = skinny_chunk(format);
  const int64_t chunks = ceil_div(k, chunk.k), limit = shared_limit(device) - kReduceBytes;
  int64_t slices = 1;
  while (m * x_pitch(chunk, ceil_div(chunks, slices)) > limit && slices < chunks) ++slices;
  plan.chunks_per_slice = static_cast<int>(ceil_div(chunks, slices));
  plan.slices = static_cast<int>(ceil_div(chunks, plan.chunks_per_slice));  // none is empty
  plan.x_pitch = static_cast<int>(x_pitch(chunk, plan.chunks_per_slice));
  plan.shared_bytes = static_cast<int>(kReduceBytes + m * plan.x_pitch);
  const int64_t blocks = ceil_div(ceil_div(n, kSkinnyRows), plan.token_tiles);  // token_tiles teams a block
  const int64_t resident = kBlocksPerMultiprocessor * device.multiprocessors;
  plan.grid = static_cast<int>(std::max<int64_t>(1, std::min(blocks, resident / plan.slices)) * plan.slices);
  return plan;
}

int64_t skinny_partial_bytes(const SkinnyPlan& plan, int64_t n) {
  if (plan.slices == 1) return 0;
  return ceil_div(n, kSkinnyRows) * kSkinnyRows * plan.slices * plan.token_tiles * 8 * 4;
}

void configure_skinny(const DeviceCapabilities& device) {
  using F = SkinnyFormat;
  const int bytes = static_cast<int>(shared_limit(device));
  for (const F format : {F::f16, F::e4m3_f16, F::w4, F::w4_zeros, F::w4_zeros_32, F::e4m3, F::int8, F::bf16})
    for (const int tiles : {1, 2, 4}) {
      const void* kernel = reinterpret_cast<const void*>(kernel_for(format, tiles));
      QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
      QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, kSkinnySharedPercent));
    }
}

void launch_skinny(SkinnyFormat format, const SkinnyPlan& plan, const SkinnyArguments& arguments,
                   const CudaQueue& queue) {
  launch(queue, kernel_for(format, plan.token_tiles), dim3(static_cast<unsigned>(plan.grid)), dim3(kSkinnyWarps * 32),
         static_cast<size_t>(plan.shared_bytes), arguments);
}

}  // namespace qg
