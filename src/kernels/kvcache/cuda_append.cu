// RoPE and storing in the cache, one launch. A block has one row; a lane eight elements of the first half of a head and
// the eight that they are paired with in the second half, so no lane needs another's data, and the row's angles and
// pages are looked up once for all of the heads that the lane takes.
#include "core/error.h"
#include "kernels/kvcache/cuda_kernels.h"
#include "kernels/kvcache/cuda_rotate.h"

namespace qg {
namespace {

using namespace kvcache;

constexpr int kThreads = 128;
// Shaped keys of a step up to which the time of one key counts, above it its instructions: four a block, two blocks on
// each of 132 multiprocessors.
constexpr int64_t kFewKeys = 4 * 2 * 132;

template <int kHeadDim, KvFormat kFormat>
__global__ void __launch_bounds__(kThreads) append_kernel(const AppendArguments args, int slots_per_block) {
  constexpr int kLanes = kHeadDim / 16, kHalf = kHeadDim / 2, kAtOnce = kThreads / kLanes;
  constexpr int kElementBytes = kFormat == KvFormat::fp16 ? 2 : 1;
  let_next_start();
  const int64_t row = blockIdx.x;
  const int lane = threadIdx.x % kLanes;
  const int heads = static_cast<int>(args.qkv.heads), kv_heads = static_cast<int>(args.layout.kv_heads);
  const int first = blockIdx.y * slots_per_block, end = min(first + slots_per_block, heads + 2 * kv_heads);
  const int position = args.batch.row_position[row];
  Angles angles = {};
  std::byte* keys = nullptr;
  if (position >= 0) {
    angles = read_angles(args.rope_table + static_cast<int64_t>(position) * kHalf + 8 * lane);
    keys = TokenCells(args.layout, args.batch, row, position).cell(args.layout, args.pool, 0, 0);
  }
  const int64_t head_bytes = args.layout.head_bytes();
  wait_for_previous();
  int slot = first + static_cast<int>(threadIdx.x) / kLanes;
  if (position < 0 || slot >= end) return;
  const __half* from = args.qkv.rows + row * args.qkv.stride + 8 * lane;
  __half* q = args.q + row * heads * kHeadDim + 8 * lane;
  uint4 low = read_once(from + slot * kHeadDim), high = read_once(from + slot * kHeadDim + kHalf);
  while (true) {
    float a[8], b[8];
    unpack_eight(low, a);
    unpack_eight(high, b);
    const int next = slot + kAtOnce;
    if (next < end) {
      low = read_once(from + next * kHeadDim);
      high = read_once(from + next * kHeadDim + kHalf);
    }
    const bool is_v = slot >= heads + kv_heads;
    if (!is_v) rotate_eight(angles, a, b);
    if (slot < heads) {
      *reinterpret_cast<uint4*>(q + slot * kHeadDim) = pack_eight(a);
      *reinterpret_cast<uint4*>(q + slot * kHeadDim + kHalf) = pack_eight(b);
    } else {
      // V's heads follow K's in a page as they do in a row.
      std::byte* cell = keys + (slot - heads) * head_bytes + 8 * lane * kElementBytes;
      const float multiplier = is_v ? args.v_multiplier : args.k_multiplier;
      store_eight<kFormat>(cell, a, multiplier);
      store_eight<kFormat>(cell + kHalf * kElementBytes, b, multiplier);
    }
    if (next >= end) return;
    slot = next;
  }
}

template <int kHeadDim>
void launch_append(const CudaQueue& queue, const AppendArguments& args) {
  const int slots = static_cast<int>(args.qkv.heads + 2 * args.layout.kv_heads);
  // With few rows, a head for every lane; with many, more heads a lane, which then share the look-ups.
  const int per_block = args.rows <= 512 ? kThreads / (kHeadDim / 16) : slots;
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>((slots + per_block - 1) / per_block));
  switch (args.layout.format) {
    case KvFormat::fp16:
      return launch(queue, append_kernel<kHeadDim, KvFormat::fp16>, grid, dim3(kThreads), 0, args, per_block);
    case KvFormat::fp8:
      return launch(queue, append_kernel<kHeadDim, KvFormat::fp8>, grid, dim3(kThreads), 0, args, per_block);
    case KvFormat::int8:
      return launch(queue, append_kernel<kHeadDim, KvFormat::int8>, grid, dim3(kThreads), 0, args, per_block);
  }
}

}  // namespace

void rope_and_append(const CudaQueue& queue, const KvLayout& layout, const CudaBatch& batch, int64_t rows,
                     const CudaQkv& qkv, const float2* rope_table, KvScale scale, __half* q_out, std::byte* layer_pool,
                     const CudaKvShaping* shaping, int64_t shared_bytes) {
  if (rows == 0) return;
  if (layout.head_dim != 64 && layout.head_dim != 128)
    throw Error("The KV cache has a head size that the GPU kernels are not built for", "", "head sizes are 64 and 128");
  ShapedArguments args = {};
  args.layout = layout;
  args.batch = batch;
  args.qkv = qkv;
  args.rope_table = rope_table;
  args.q = q_out;
  args.pool = layer_pool;
  args.k_multiplier = 1.0f / scale.k;
  args.v_multiplier = 1.0f / scale.v;
  args.rows = rows;
  if (shaping == nullptr) {
    if (layout.head_dim == 128) return launch_append<128>(queue, args);
    return launch_append<64>(queue, args);
  }
  if (layout.format == KvFormat::fp16) throw Error("A cache of fp16 is never shaped");
  args.shaping = *shaping;
  if (rows * layout.kv_heads <= kFewKeys && shaped_few_fits(layout, qkv.heads, rows, shared_bytes))
    launch_shaped_few(queue, args);
  else
    launch_shaped_many(queue, args);
}

}  // namespace qg
