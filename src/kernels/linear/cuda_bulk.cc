#include "kernels/linear/cuda_bulk.h"

#include <algorithm>

namespace qg {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

BulkKernel kernel_for(SkinnyFormat format, int token_tiles) {
  switch (format) {
    case SkinnyFormat::f16:
    case SkinnyFormat::e4m3_f16:
      return bulk_kernel_w16(format, token_tiles);
    case SkinnyFormat::w4:
    case SkinnyFormat::w4_zeros:
    case SkinnyFormat::w4_zeros_32:
      return bulk_kernel_w4(format, token_tiles);
    case SkinnyFormat::e4m3:
    case SkinnyFormat::int8:
      return bulk_kernel_w8(format, token_tiles);
    case SkinnyFormat::bf16:
      return bulk_kernel_bf16(token_tiles);
  }
  return {};
}

}  // namespace

BulkPlan plan_bulk(SkinnyFormat format, int64_t m, int64_t n, int64_t k, int64_t blocks) {
  BulkPlan plan;
  while (plan.token_tiles * 8 < m) plan.token_tiles *= 2;
  const int64_t chunks = ceil_div(k, bulk_chunk_k(format));
  const int64_t most = kBulkWarps * (kBulkXVectors / bulk_x_vectors(format) / plan.token_tiles);  // a block
  plan.chunks_per_slice = static_cast<int>(ceil_div(chunks, ceil_div(chunks, most)));
  plan.slices = static_cast<int>(ceil_div(chunks, plan.chunks_per_slice));  // none is empty
  const int64_t tiles = ceil_div(n, kSkinnyRows);
  plan.grid = static_cast<int>(std::clamp<int64_t>(blocks / plan.slices, 1, tiles) * plan.slices);
  return plan;
}

int64_t bulk_partial_bytes(const BulkPlan& plan, int64_t n) {
  if (plan.slices == 1) return 0;
  return ceil_div(n, kSkinnyRows) * kSkinnyRows * plan.slices * plan.token_tiles * 8 * 4;
}

void configure_bulk() {
  using F = SkinnyFormat;
  // Two blocks, of this kernel and of the one after it, in percent of what an SM can have.
  constexpr int kCarveout = 80;
  for (const F format : {F::f16, F::e4m3_f16, F::w4, F::w4_zeros, F::w4_zeros_32, F::e4m3, F::int8, F::bf16})
    for (const int tiles : {1, 2, 4}) {
      const BulkKernel kernel = kernel_for(format, tiles);
      const void* function = reinterpret_cast<const void*>(kernel.kernel);
      QG_CUDA(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes));
      QG_CUDA(cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout, kCarveout));
    }
}

void launch_bulk(SkinnyFormat format, const BulkPlan& plan, const BulkArguments& arguments, const CudaQueue& queue) {
  const BulkKernel kernel = kernel_for(format, plan.token_tiles);
  launch(queue, kernel.kernel, dim3(static_cast<unsigned>(plan.grid)), dim3(kBulkWarps * 32),
         static_cast<size_t>(kernel.shared_bytes), arguments);
}

}  // namespace qg
