// Shaped keys for many rows: one launch, a block has a KV head and up to 64 rows, so that matrices are read once for
// all of them. What is computed and in which order is fixed (docs/kv-cache-notes.md): D * D multiply-adds for the
// transform of a key, half as many for its feedback. At D = 128 that is 24,576 instructions a key, 768 a warp: 9 + 5 us
// for 2,048 rows of 8 KV heads on 132 multiprocessors at 1.75 GHz.
//   1. All warps: keys after RoPE, centred, to shared memory, elements x rows. Transform: a thread has 8 rows of 4
//      elements (at 64 rows and D = 128), per j 32 multiply-adds and 7 other instructions.
//   2. Warps 0 to 3: feedback in panels of 16 elements. First what the errors of all elements before the panel take
//      from it, a thread 4 rows of 2 elements, per j 8 multiply-adds and 4 other instructions; then a thread a row
//      rounds the panel's 16 elements in registers.
//      Warps 4 to 7, meanwhile: values, then queries on the tensor cores, with the matrix where the keys' was.
#include "kernels/kvcache/cuda_shaped.h"

namespace qg::kvcache {
namespace {

constexpr int kThreads = 256, kHalfThreads = kThreads / 2;
constexpr int kPanel = 16, kPanelBarrier = 1, kQueryBarrier = 2;

template <int kHeadDim, int kRows>
struct Shared {
  static constexpr int kRowStride = kRows + 4;  // floats
  __half transform[kHeadDim * kHeadDim], feedback[kHeadDim * kHeadDim];
  float keys[kHeadDim][kRowStride];  // centred; then shaped; then each element's error
  int position[kRows];               // -1: nothing is stored
};

// kCount consecutive floats: 1, 2, 4 or 8.
template <int kCount>
__device__ __forceinline__ void read_floats(const float* from, float (&x)[kCount]) {
  if constexpr (kCount == 1) {
    x[0] = *from;
  } else if constexpr (kCount == 2) {
    *reinterpret_cast<float2*>(x) = *reinterpret_cast<const float2*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) *reinterpret_cast<float4*>(x + i) = *reinterpret_cast<const float4*>(from + i);
  }
}

template <int kCount>
__device__ __forceinline__ void write_floats(float* to, const float (&x)[kCount]) {
  if constexpr (kCount == 1) {
    *to = x[0];
  } else if constexpr (kCount == 2) {
    *reinterpret_cast<float2*>(to) = {x[0], x[1]};
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) *reinterpret_cast<float4*>(to + i) = {x[i], x[i + 1], x[i + 2], x[i + 3]};
  }
}

// Rotated and centred keys. Neighbouring threads have neighbouring rows: what they write is contiguous.
template <int kHeadDim, int kRows>
__device__ __forceinline__ void read_keys(const ShapedArguments& args, Shared<kHeadDim, kRows>& shared,
                                          int64_t first_row, int kv_head, int thread) {
  constexpr int kLanes = kHeadDim / 16, kHalf = kHeadDim / 2;
#pragma unroll
  for (int index = thread; index < kRows * kLanes; index += kThreads) {
    const int row = index % kRows, part = index / kRows, position = shared.position[row];
    if (position < 0) continue;
    const __half* from =
        args.qkv.rows + (first_row + row) * args.qkv.stride + (args.qkv.heads + kv_head) * kHeadDim + 8 * part;
    float a[8], b[8];
    unpack_eight(*reinterpret_cast<const uint4*>(from), a);
    unpack_eight(*reinterpret_cast<const uint4*>(from + kHalf), b);
    rotate_eight(read_angles(args.rope_table + static_cast<int64_t>(position) * kHalf + 8 * part), a, b);
    const float* center = args.shaping.k_center + kv_head * kHeadDim + 8 * part;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      shared.keys[8 * part + i][row] = __fsub_rn(a[i], center[i]);
      shared.keys[8 * part + i + kHalf][row] = __fsub_rn(b[i], center[i + kHalf]);
    }
  }
}

// In place: all threads meet twice.
template <int kHeadDim, int kRows>
__device__ __forceinline__ void transform_keys(Shared<kHeadDim, kRows>& shared, int thread, float multiplier) {
  constexpr int kColumns = kHeadDim / 4, kEach = kRows * kColumns / kThreads;  // rows a thread: 1 to 8
  const int column = 4 * (thread % kColumns), row = kEach * (thread / kColumns);
  float sum[4][kEach];
#pragma unroll 4
  for (int j = 0; j < kHeadDim; ++j) {
    float z[kEach];
    read_floats(&shared.keys[j][row], z);
    const uint2 words = *reinterpret_cast<const uint2*>(shared.transform + j * kHeadDim + column);
    const float2 low = two_floats(words.x), high = two_floats(words.y);
    const float line[4] = {low.x, low.y, high.x, high.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        sum[i][r] = j == 0 ? __fmul_rn(line[i], z[r]) : __fmaf_rn(line[i], z[r], sum[i][r]);
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int r = 0; r < kEach; ++r) sum[i][r] = __fmul_rn(sum[i][r], multiplier);
    write_floats(&shared.keys[column + i][row], sum[i]);
  }
  __syncthreads();
}

// What the errors of elements 0 .. panel - 1 take from the panel's 16, by 128 threads.
template <int kHeadDim, int kRows>
__device__ __forceinline__ void subtract_errors(Shared<kHeadDim, kRows>& shared, int panel, int thread) {
  constexpr int kEach = kRows / 16;
  const int column = panel + thread % 8 * 2, row = thread / 8 * kEach;
  float t[2][kEach];
  read_floats(&shared.keys[column][row], t[0]);
  read_floats(&shared.keys[column + 1][row], t[1]);
#pragma unroll 8
  for (int j = 0; j < panel; ++j) {
    float error[kEach];
    read_floats(&shared.keys[j][row], error);
    const float2 line = two_floats(*reinterpret_cast<const uint32_t*>(shared.feedback + j * kHeadDim + column));
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      t[0][r] = __fmaf_rn(-error[r], line.x, t[0][r]);
      t[1][r] = __fmaf_rn(-error[r], line.y, t[1][r]);
    }
  }
  write_floats(&shared.keys[column][row], t[0]);
  write_floats(&shared.keys[column + 1][row], t[1]);
}

// Rounds the panel's elements of one row; their errors take the elements' place.
template <int kHeadDim, KvFormat kFormat, int kRows>
__device__ __forceinline__ void round_panel(Shared<kHeadDim, kRows>& shared, int panel, int row, std::byte* cell) {
  float t[kPanel];
#pragma unroll
  for (int i = 0; i < kPanel; ++i) t[i] = shared.keys[panel + i][row];
#pragma unroll
  for (int j = 0; j < kPanel; ++j) {
    const float error = __fsub_rn(t[j], rounded<kFormat>(t[j]));
    shared.keys[panel + j][row] = error;
    const __half* line = shared.feedback + (panel + j) * kHeadDim + panel;
#pragma unroll
    for (int i = (j + 1) / 2 * 2; i < kPanel; i += 2) {
      const float2 by = two_floats(*reinterpret_cast<const uint32_t*>(line + i));
      if (i > j) t[i] = __fmaf_rn(-error, by.x, t[i]);
      t[i + 1] = __fmaf_rn(-error, by.y, t[i + 1]);
    }
  }
  if (cell == nullptr) return;
  uint32_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] = four_codes<kFormat>(t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]);
  *reinterpret_cast<uint4*>(cell + panel) = {codes[0], codes[1], codes[2], codes[3]};
}

template <int kHeadDim, KvFormat kFormat, int kRows>
__device__ __forceinline__ void store_keys(const ShapedArguments& args, Shared<kHeadDim, kRows>& shared,
                                           int64_t first_row, int kv_head, int thread) {
  // The warps take turns at the panels: each multiprocessor's schedulers are then busy alike.
  constexpr int kTurnThreads = kRows < 32 ? 32 : kRows, kTurns = kHalfThreads / kTurnThreads;
  const int row = thread % kTurnThreads, turn = thread / kTurnThreads;
  const bool has_row = row < kRows;
  std::byte* cell = nullptr;
  if (has_row && shared.position[row] >= 0)
    cell = TokenCells(args.layout, args.batch, first_row + row, shared.position[row])
               .cell(args.layout, args.pool, 0, kv_head);
#pragma unroll 1
  for (int panel = 0; panel < kHeadDim; panel += kPanel) {
    if (panel > 0) subtract_errors(shared, panel, thread);
    wait_for_threads(kPanelBarrier, kHalfThreads);
    if (has_row && panel / kPanel % kTurns == turn) round_panel<kHeadDim, kFormat>(shared, panel, row, cell);
    wait_for_threads(kPanelBarrier, kHalfThreads);
  }
}

template <int kHeadDim, KvFormat kFormat, int kRows>
__device__ __forceinline__ void store_values(const ShapedArguments& args, Shared<kHeadDim, kRows>& shared,
                                             int64_t first_row, int kv_head, int thread) {
  constexpr int kLanes = kHeadDim / 8, kTotal = kRows * kLanes / kHalfThreads, kAtOnce = kTotal < 4 ? kTotal : 4;
  const int64_t head = args.qkv.heads + args.layout.kv_heads + kv_head;
  const int part = thread % kLanes;
#pragma unroll 1
  for (int n = 0; n < kTotal; n += kAtOnce) {
    uint4 bits[kAtOnce] = {};
    std::byte* cells[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = (thread + (n + i) * kHalfThreads) / kLanes, position = shared.position[row];
      if (position < 0) continue;
      bits[i] = read_once(args.qkv.rows + (first_row + row) * args.qkv.stride + head * kHeadDim + 8 * part);
      cells[i] =
          TokenCells(args.layout, args.batch, first_row + row, position).cell(args.layout, args.pool, 1, kv_head) +
          8 * part;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      float x[8];
      unpack_eight(bits[i], x);
      if (cells[i] != nullptr) store_eight<kFormat>(cells[i], x, args.v_multiplier);
    }
  }
}

// Rotated queries as fragments, straight from the product's rows: a lane has both elements of each of its pairs.
template <int kHeadDim>
__device__ __forceinline__ void read_queries(const __half* from, const float2* angles, int half, int lane,
                                             uint32_t (&a)[kHeadDim / 16][4]) {
  constexpr int kTiles = kHeadDim / 32;
#pragma unroll
  for (int k = 0; k < kTiles; ++k) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int column = 16 * k + 8 * side + lane % 4 * 2;
      float2 x = two_floats(*reinterpret_cast<const uint32_t*>(from + column));
      float2 y = two_floats(*reinterpret_cast<const uint32_t*>(from + column + kHeadDim / 2));
      const float4 angle = *reinterpret_cast<const float4*>(angles + column);
      rotate_pair(angle.x, angle.y, x.x, y.x);
      rotate_pair(angle.z, angle.w, x.y, y.y);
      a[k][half + 2 * side] = two_halves(x.x, x.y);
      a[k + kTiles][half + 2 * side] = two_halves(y.x, y.y);
    }
  }
}

template <int kHeadDim, int kRows>
__device__ __forceinline__ void store_queries(const ShapedArguments& args, Shared<kHeadDim, kRows>& shared,
                                              int64_t first_row, int kv_head, int thread) {
  const int lane = thread % 32, heads = static_cast<int>(args.qkv.heads);
  const int group = heads / static_cast<int>(args.layout.kv_heads), pairs = kRows * group;
  const uint32_t matrix = attention::shared_address(shared.transform);
  for (int first = thread / 32 * 16; first < pairs; first += kHalfThreads / 32 * 16) {
    uint32_t a[kHeadDim / 16][4] = {};
    __half* to[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int pair = first + lane / 4 + 8 * half, row = pair / group, position = shared.position[row];
      if (position < 0) continue;
      const int head = kv_head * group + pair - row * group;
      to[half] = args.q + ((first_row + row) * heads + head) * kHeadDim;
      read_queries<kHeadDim>(args.qkv.rows + (first_row + row) * args.qkv.stride + head * kHeadDim,
                             args.rope_table + static_cast<int64_t>(position) * (kHeadDim / 2), half, lane, a);
    }
#pragma unroll 2
    for (int tile = 0; tile < kHeadDim / 16; ++tile) {
      float c[2][4] = {};
      transform_queries<kHeadDim>(a, matrix, tile, lane, c);
      for (int half = 0; half < 2; ++half)
        if (to[half] != nullptr) kvcache::store_queries(to[half], c, half, tile, lane);
    }
  }
}

template <int kHeadDim, KvFormat kFormat, int kRows>
__global__ void __launch_bounds__(kThreads, 2) many_rows_kernel(const ShapedArguments args) {
  extern __shared__ __align__(128) std::byte memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim, kRows>*>(memory);
  let_next_start();
  const int thread = threadIdx.x, kv_head = blockIdx.x;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kRows;
  const int64_t matrix = static_cast<int64_t>(kv_head) * kHeadDim * kHeadDim;
  copy_matrix<kHeadDim, false, kThreads>(shared.transform, args.shaping.k_transform + matrix, thread);
  copy_matrix<kHeadDim, false, kThreads>(shared.feedback, args.shaping.k_feedback + matrix, thread);
  if (thread < kRows)
    shared.position[thread] = first_row + thread < args.rows ? args.batch.row_position[first_row + thread] : -1;
  __syncthreads();
  wait_for_previous();
  read_keys(args, shared, first_row, kv_head, thread);
  attention::wait_for_copies<0>();
  __syncthreads();
  transform_keys(shared, thread, args.k_multiplier);
  if (thread < kHalfThreads) {
    store_keys<kHeadDim, kFormat>(args, shared, first_row, kv_head, thread);
    return;
  }
  const int other = thread - kHalfThreads;
  copy_matrix<kHeadDim, true, kHalfThreads>(shared.transform, args.shaping.q_transform + matrix, other);
  store_values<kHeadDim, kFormat>(args, shared, first_row, kv_head, other);
  attention::wait_for_copies<0>();
  wait_for_threads(kQueryBarrier, kHalfThreads);
  store_queries(args, shared, first_row, kv_head, other);
}

template <int kHeadDim, KvFormat kFormat, int kRows>
void launch_rows(const CudaQueue& queue, const ShapedArguments& args) {
  constexpr size_t kBytes = sizeof(Shared<kHeadDim, kRows>);
  static_assert(kBytes <= kLeastSharedBytes);
  const auto kernel = many_rows_kernel<kHeadDim, kFormat, kRows>;
  static const bool prepared = [&] {
    QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    return true;
  }();
  static_cast<void>(prepared);
  // KV heads of the same rows run together: they share the lines that hold the rows' angles.
  const dim3 grid(static_cast<unsigned>(args.layout.kv_heads), static_cast<unsigned>((args.rows + kRows - 1) / kRows));
  launch(queue, kernel, grid, dim3(kThreads), kBytes, args);
}

template <int kHeadDim, KvFormat kFormat>
void launch_format(const CudaQueue& queue, const ShapedArguments& args) {
  // As many rows as leave two blocks for each of 132 multiprocessors.
  const int64_t rows_of_heads = args.rows * args.layout.kv_heads;
  if (rows_of_heads <= 16 * 264) return launch_rows<kHeadDim, kFormat, 16>(queue, args);
  if (rows_of_heads <= 32 * 264) return launch_rows<kHeadDim, kFormat, 32>(queue, args);
  launch_rows<kHeadDim, kFormat, 64>(queue, args);
}

template <int kHeadDim>
void launch_head_dim(const CudaQueue& queue, const ShapedArguments& args) {
  if (args.layout.format == KvFormat::fp8) return launch_format<kHeadDim, KvFormat::fp8>(queue, args);
  launch_format<kHeadDim, KvFormat::int8>(queue, args);
}

}  // namespace

void launch_shaped_many(const CudaQueue& queue, const ShapedArguments& args) {
  if (args.layout.head_dim == 128) return launch_head_dim<128>(queue, args);
  launch_head_dim<64>(queue, args);
}

}  // namespace qg::kvcache
