// Gating with a scale per token for few rows: the exponentials of a row take one multiprocessor some microseconds, so
// eight of them share it, and exchange what each found to be the largest through their shared memory.
#include <cooperative_groups.h>

#include "kernels/pointwise/block.cuh"
#include "kernels/pointwise/gate.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define QG_CLUSTER(blocks) __cluster_dims__(blocks)
#else
#define QG_CLUSTER(blocks)  // the kernel is never launched there
#endif

namespace qg {
namespace {

constexpr int kBlocks = 8, kThreads = 256;
// More rows fill the card without it, and all blocks of a cluster must find room at once: within a step of 8 rows that
// costs more than it saves.
constexpr int64_t kMostRows = 2;

template <ActivationForm kForm>
__global__ void QG_CLUSTER(kBlocks) __launch_bounds__(kThreads) gate_cluster_kernel(GateArguments a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  namespace cg = cooperative_groups;
  __shared__ float found;
  let_next_start();
  wait_for_previous();
  const cg::cluster_group cluster = cg::this_cluster();
  const int64_t row = blockIdx.y;
  const int column = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * 8;
  float x[8] = {};
  if (column < a.width) values_at<kForm>(a, row, column, x);
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[i]));
  largest = block_max<kThreads>(largest);
  if (threadIdx.x == 0) found = largest;
  cluster.sync();
  for (unsigned block = 0; block < kBlocks; ++block) largest = fmaxf(largest, *cluster.map_shared_rank(&found, block));
  const float scale = row_scale<kForm>(largest);
  if (blockIdx.x == 0 && threadIdx.x == 0) a.row_scales[row] = scale;
  if (column < a.width) store<kForm>(row_of<kForm>(a, row), column, x, __fdiv_rn(1.0f, scale));
  cluster.sync();  // nobody leaves while others read its shared memory
#endif
}

}  // namespace

// Chains are Hopper's, so a chained queue is one of a card with clusters.
bool clusters_serve_gate(const CudaQueue& queue, int64_t rows, int64_t width) {
  return queue.chained && rows <= kMostRows && width <= kBlocks * kThreads * 8;
}

void launch_gate_per_token_cluster(const CudaQueue& queue, int64_t rows, ActivationForm form, const GateArguments& a) {
  const dim3 grid(kBlocks, static_cast<unsigned>(rows));
  if (form == ActivationForm::fp8)
    launch(queue, gate_cluster_kernel<ActivationForm::fp8>, grid, dim3(kThreads), 0, a);
  else
    launch(queue, gate_cluster_kernel<ActivationForm::int8>, grid, dim3(kThreads), 0, a);
}

}  // namespace qg
