// Shaped keys for the rows of a decoding step: one launch, a block has a KV head and one or four rows. Before the
// previous kernel has ended it fetches the head's three matrices; then keys and queries are rotated, keys transformed
// (a thread an element, sums in the reference's order), and each row's key is rounded by one warp, element after
// element, while other warps multiply the queries on the tensor cores.
#include "kernels/kvcache/cuda_shaped_key.h"

namespace qg::kvcache {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kQueryWarps = 4;

template <int kHeadDim, int kRows>
struct Shared {
  __half k_transform[kHeadDim * kHeadDim], q_transform[kHeadDim * kHeadDim], feedback[kHeadDim * kHeadDim];
  float4 next[kHeadDim];  // what an error of element j takes from j + 1, j + 2, j + 3 (x, y, z)
  float key[kRows][kHeadDim], shaped[kRows][kHeadDim];
  __half queries[8];  // and on: [row * group + head][head_dim], swizzled, a multiple of 16 of them
};

// One thread's part of a row: eight elements of each half of a key, a value or a query.
template <int kHeadDim>
struct Unit {
  const __half* from = nullptr;
  int row = 0, slot = 0;  // slot: 0 key, 1 value, 2 and on queries
  bool valid = false;
  Angles angles = {};
  float center[16] = {};
  std::byte* cell = nullptr;  // of a value

  __device__ Unit(const ShapedArguments& args, int64_t first_row, int rows, int kv_head, int index) {
    constexpr int kLanes = kHeadDim / 16;
    const int heads = static_cast<int>(args.qkv.heads), kv_heads = static_cast<int>(args.layout.kv_heads);
    const int group = heads / kv_heads, lane = index % kLanes;
    row = index / kLanes / (group + 2), slot = index / kLanes % (group + 2);
    if (row >= rows) return;
    const int position = args.batch.row_position[first_row + row];
    if (position < 0) return;
    valid = true;
    const int head = slot == 0 ? heads + kv_head : slot == 1 ? heads + kv_heads + kv_head : kv_head * group + slot - 2;
    from = args.qkv.rows + (first_row + row) * args.qkv.stride + head * kHeadDim + 8 * lane;
    if (slot == 1) {
      const TokenCells cells(args.layout, args.batch, first_row + row, position);
      cell = cells.cell(args.layout, args.pool, 1, kv_head) + 8 * lane;
      return;
    }
    angles = read_angles(args.rope_table + static_cast<int64_t>(position) * (kHeadDim / 2) + 8 * lane);
    if (slot != 0) return;
#pragma unroll
    for (int i = 0; i < 16; ++i)
      center[i] = args.shaping.k_center[kv_head * kHeadDim + 8 * lane + i % 8 + i / 8 * (kHeadDim / 2)];
  }
};

template <int kHeadDim, KvFormat kFormat, int kRows>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(const ShapedArguments args) {
  constexpr int kLanes = kHeadDim / 16, kCount = kHeadDim / 32;
  extern __shared__ __align__(128) std::byte memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim, kRows>*>(memory);
  let_next_start();
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, kv_head = blockIdx.y;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), args.rows - first_row));
  const int64_t matrix = static_cast<int64_t>(kv_head) * kHeadDim * kHeadDim;
  copy_matrix<kHeadDim, false, kThreads>(shared.k_transform, args.shaping.k_transform + matrix, thread);
  copy_matrix<kHeadDim, false, kThreads>(shared.feedback, args.shaping.k_feedback + matrix, thread);
  copy_matrix<kHeadDim, true, kThreads>(shared.q_transform, args.shaping.q_transform + matrix, thread);
  if (thread < kHeadDim) shared.next[thread] = next_three<kHeadDim>(args.shaping.k_feedback + matrix, thread);
  const int heads = static_cast<int>(args.qkv.heads), group = heads / static_cast<int>(args.layout.kv_heads);
  const int units = kRows * (group + 2) * kLanes;
  std::byte* key_cell = nullptr;
  if (warp < rows) {
    const int position = args.batch.row_position[first_row + warp];
    if (position >= 0)
      key_cell =
          TokenCells(args.layout, args.batch, first_row + warp, position).cell(args.layout, args.pool, 0, kv_head);
  }
  const uint32_t queries = attention::shared_address(shared.queries);
  Unit<kHeadDim> unit(args, first_row, rows, kv_head, thread);
  wait_for_previous();
  for (int index = thread; index < units; index += kThreads) {
    if (index != thread) unit = Unit<kHeadDim>(args, first_row, rows, kv_head, index);
    if (!unit.valid) continue;
    float a[8], b[8];
    const uint4 low = read_once(unit.from), high = read_once(unit.from + kHeadDim / 2);
    unpack_eight(low, a);
    unpack_eight(high, b);
    const int part = index % kLanes;
    if (unit.slot == 1) {
      store_eight<kFormat>(unit.cell, a, args.v_multiplier);
      store_eight<kFormat>(unit.cell + kHeadDim / 2, b, args.v_multiplier);
      continue;
    }
    rotate_eight(unit.angles, a, b);
    if (unit.slot == 0) {
      float* z = shared.key[unit.row] + 8 * part;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        z[i] = __fsub_rn(a[i], unit.center[i]);
        z[i + kHeadDim / 2] = __fsub_rn(b[i], unit.center[i + 8]);
      }
    } else {
      const int line = unit.row * group + unit.slot - 2;
      std::byte* to = reinterpret_cast<std::byte*>(shared.queries);
      *reinterpret_cast<uint4*>(to + attention::swizzled<2 * kHeadDim>(line, part)) = pack_eight(a);
      *reinterpret_cast<uint4*>(to + attention::swizzled<2 * kHeadDim>(line, part + kLanes)) = pack_eight(b);
    }
  }
  attention::wait_for_copies<0>();
  __syncthreads();
  constexpr int kSets = kThreads / kHeadDim, kEach = kRows > kSets ? kRows / kSets : 1;
  if (const int row = thread / kHeadDim * kEach; row < kRows)
    transform_keys<kHeadDim, kEach>(shared.k_transform, shared.key + row, shared.shaped + row, thread % kHeadDim,
                                    args.k_multiplier);
  __syncthreads();
  if (warp >= kWarps - kQueryWarps) {
    const int pairs = rows * group;
    for (int first = 0; first < pairs; first += 16) {
      uint32_t a[kHeadDim / 16][4];
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k)
        attention::load_matrices(a[k],
                                 queries + attention::swizzled<2 * kHeadDim>(first + lane % 16, 2 * k + lane / 16));
      for (int tile = warp % kQueryWarps; tile < kHeadDim / 16; tile += kQueryWarps) {
        float c[2][4] = {};
        transform_queries<kHeadDim>(a, attention::shared_address(shared.q_transform), tile, lane, c);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int pair = first + lane / 4 + 8 * half, row = pair / group;
          if (pair >= pairs || args.batch.row_position[first_row + row] < 0) continue;
          __half* to = args.q + ((first_row + row) * heads + kv_head * group + pair - row * group) * kHeadDim;
          store_queries(to, c, half, tile, lane);
        }
      }
    }
  } else if (key_cell != nullptr) {
    float t[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) t[i] = shared.shaped[warp][kCount * lane + i];
    feed_errors_back<kHeadDim, kFormat>(t, shared.feedback, shared.next, lane);
    store_key_codes<kHeadDim>(key_cell + kCount * lane, key_codes<kHeadDim, kFormat>(t));
  }
}

// Of a block's shared memory: 227 KB on an H100, 163 on an A100, 99 on an A10, L4 or L40.
int most_shared_bytes() {
  static const int most = [] {
    int device = 0, bytes = 0;
    QG_CUDA(cudaGetDevice(&device));
    QG_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return bytes;
  }();
  return most;
}

// Four rows a block once there would be more blocks than multiprocessors: each reads three matrices.
int rows_a_block(const KvLayout& layout, int64_t rows) {
  return rows * layout.kv_heads <= 128 ? 1 : 4;
}

template <int kHeadDim, int kRows>
int64_t bytes_of(const KvLayout& layout, int64_t heads) {
  using Memory = Shared<kHeadDim, kRows>;
  const int64_t pairs = kRows * heads / layout.kv_heads;
  return static_cast<int64_t>(offsetof(Memory, queries)) + (pairs + 15) / 16 * 16 * kHeadDim * 2;
}

template <int kHeadDim, KvFormat kFormat, int kRows>
void launch_rows(const CudaQueue& queue, const ShapedArguments& args) {
  const auto kernel = few_rows_kernel<kHeadDim, kFormat, kRows>;
  static const bool prepared = [&] {
    QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes()));
    return true;
  }();
  static_cast<void>(prepared);
  const dim3 grid(static_cast<unsigned>((args.rows + kRows - 1) / kRows), static_cast<unsigned>(args.layout.kv_heads));
  launch(queue, kernel, grid, dim3(kThreads),
         static_cast<size_t>(bytes_of<kHeadDim, kRows>(args.layout, args.qkv.heads)), args);
}

template <int kHeadDim, KvFormat kFormat>
void launch_format(const CudaQueue& queue, const ShapedArguments& args) {
  if (rows_a_block(args.layout, args.rows) == 1) return launch_rows<kHeadDim, kFormat, 1>(queue, args);
  launch_rows<kHeadDim, kFormat, 4>(queue, args);
}

template <int kHeadDim>
void launch_head_dim(const CudaQueue& queue, const ShapedArguments& args) {
  if (args.layout.format == KvFormat::fp8) return launch_format<kHeadDim, KvFormat::fp8>(queue, args);
  launch_format<kHeadDim, KvFormat::int8>(queue, args);
}

}  // namespace

bool shaped_few_fits(const KvLayout& layout, int64_t heads, int64_t rows, int64_t shared_bytes) {
  const bool one = rows_a_block(layout, rows) == 1;
  const int64_t bytes = layout.head_dim == 128
                            ? (one ? bytes_of<128, 1>(layout, heads) : bytes_of<128, 4>(layout, heads))
                            : (one ? bytes_of<64, 1>(layout, heads) : bytes_of<64, 4>(layout, heads));
  return bytes <= (shared_bytes > 0 ? shared_bytes : most_shared_bytes());
}

void launch_shaped_few(const CudaQueue& queue, const ShapedArguments& args) {
  if (args.layout.head_dim == 128) return launch_head_dim<128>(queue, args);
  launch_head_dim<64>(queue, args);
}

}  // namespace qg::kvcache
