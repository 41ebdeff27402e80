// Prefill: many queries of a piece against its pages. A block takes 128 (token, query head) rows that share a KV head,
// token by token the whole group, so that K and V are read once for the group; each of its four warps has 32 of the
// rows and goes through the keys 64 at a time. The next K is on its way while V is multiplied, the next V while K is.
#include <climits>

#include "core/error.h"
#include "kernels/attention/cuda_tile.h"

namespace qg::attention {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kKeys = 64;                              // of a step
constexpr int kRowTiles = kPrefillRows / kWarps / 16;  // of 16 rows, of a warp
constexpr int kKeyTiles = kKeys / 8;                   // of 8 keys, of a step

template <int kHeadDim, KvFormat kFormat, bool kNative>
struct Shape {
  using Codec = Element<kFormat, kNative>;
  static constexpr int kRowBytes = kHeadDim * Codec::kBytes;
  static constexpr int kQueryRowBytes = kHeadDim * 2;
  static constexpr int kQueryBytes = kPrefillRows * kQueryRowBytes;
  static constexpr int kKeyBytes = kKeys * kRowBytes;
  static constexpr int kSharedBytes = kQueryBytes + 2 * kKeyBytes;
  static constexpr bool kEightBit = Codec::kBytes == 1;
};

// What a block works on.
struct Task {
  int piece, kv_head, first_packed;  // packed row = token * group + head of the group
  int packed_rows, kv_tokens, context;
  int first_row;  // of the piece in q
};

__device__ Task read_task(const PrefillArguments& args) {
  const PrefillTile tile = args.tiles[blockIdx.x];
  Task t;
  t.piece = tile.piece;
  t.kv_head = blockIdx.y;
  t.first_packed = tile.tile * kPrefillRows;
  const int tokens = args.in.batch.num_tokens[tile.piece];
  t.packed_rows = tokens * args.in.group;
  t.kv_tokens = args.in.batch.kv_tokens[tile.piece];
  t.context = t.kv_tokens - tokens;
  t.first_row = args.in.batch.first_row[tile.piece];
  return t;
}

// Element offset of a packed row's head in q and in the output.
__device__ int64_t head_offset(const Inputs& in, const Task& t, int packed, int head_dim) {
  const int token = packed / in.group, head = t.kv_head * in.group + packed % in.group;
  return (static_cast<int64_t>(t.first_row + token) * in.heads + head) * head_dim;
}

// The block's queries to shared memory; rows that do not exist are zeros. With 8-bit K, the 16 dimensions of a tile lie
// as 0 2 4 .. 14, 1 3 5 .. 15, which is how K's bytes come out of a register (even_pair, odd_pair).
template <int kHeadDim, class S>
__device__ void load_queries(const Inputs& in, const Task& t, std::byte* shared) {
  constexpr int kSegments = kHeadDim / 16;
  for (int i = threadIdx.x; i < kPrefillRows * kSegments; i += kThreads) {
    const int row = i / kSegments, segment = i % kSegments, packed = t.first_packed + row;
    uint4 low = {0, 0, 0, 0}, high = {0, 0, 0, 0};
    if (packed < t.packed_rows) {
      const auto* from = reinterpret_cast<const uint4*>(in.q + head_offset(in, t, packed, kHeadDim) + 16 * segment);
      low = from[0], high = from[1];
    }
    if constexpr (S::kEightBit) {
      const uint4 a = low, b = high;
      low = {__byte_perm(a.x, a.y, 0x5410), __byte_perm(a.z, a.w, 0x5410), __byte_perm(b.x, b.y, 0x5410),
             __byte_perm(b.z, b.w, 0x5410)};
      high = {__byte_perm(a.x, a.y, 0x7632), __byte_perm(a.z, a.w, 0x7632), __byte_perm(b.x, b.y, 0x7632),
              __byte_perm(b.z, b.w, 0x7632)};
    }
    *reinterpret_cast<uint4*>(shared + swizzled<S::kQueryRowBytes>(row, 2 * segment)) = low;
    *reinterpret_cast<uint4*>(shared + swizzled<S::kQueryRowBytes>(row, 2 * segment + 1)) = high;
  }
}

// K (which = 0) or V (1) of tokens first .. first + 63; those outside [valid_begin, kv_tokens) become zeros.
template <class S>
__device__ void copy_keys(const Inputs& in, const Task& t, int which, int first, int valid_begin, uint32_t to) {
  constexpr int kChunks = S::kRowBytes / 16;
  const int32_t* pages = in.batch.page_table + static_cast<int64_t>(t.piece) * in.batch.max_pages;
  const int64_t head_bytes = static_cast<int64_t>(S::kRowBytes) << in.page_shift;
  const std::byte* head = in.pool + (which * in.kv_heads + t.kv_head) * head_bytes;
#pragma unroll
  for (int i = 0; i < kKeys * kChunks / kThreads; ++i) {
    const int index = i * kThreads + static_cast<int>(threadIdx.x), row = index / kChunks, chunk = index % kChunks;
    const int token = first + row;
    const bool valid = token >= valid_begin && token < t.kv_tokens;
    const int64_t page = valid ? pages[token >> in.page_shift] : 0;
    const int slot = token & ((1 << in.page_shift) - 1);
    const std::byte* from = head + page * 2 * in.kv_heads * head_bytes + slot * S::kRowBytes + chunk * 16;
    copy_16_bytes(to + swizzled<S::kRowBytes>(row, chunk), from, valid);
  }
}

using Scores = float[kRowTiles][kKeyTiles][4];

// Scores of a warp's rows against 16 keys (two tiles of 8) or, with 8-bit K, 32 (four tiles), one 16-dimension tile.
template <int kHeadDim, class S>
__device__ void score_step(uint32_t queries, uint32_t keys, int warp, int lane, Scores& s) {
  using Codec = typename S::Codec;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) s[tile][n][0] = s[tile][n][1] = s[tile][n][2] = s[tile][n][3] = 0;
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
    uint32_t q[kRowTiles][4];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      const int row = (warp * kRowTiles + tile) * 16 + lane % 16;
      load_matrices(q[tile], queries + swizzled<S::kQueryRowBytes>(row, 2 * k + lane / 16));
    }
    if constexpr (S::kEightBit) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 4) {
        uint32_t r[4];
        load_matrices(r, keys + swizzled<S::kRowBytes>(8 * n + lane, k));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t low = Codec::even_pair(r[i]), high = Codec::odd_pair(r[i]);
#pragma unroll
          for (int tile = 0; tile < kRowTiles; ++tile) multiply_add(s[tile][n + i], q[tile], low, high);
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t r[4];
        const int row = 8 * n + lane % 8 + lane / 16 * 8;
        load_matrices(r, keys + swizzled<S::kRowBytes>(row, 2 * k + lane / 8 % 2));
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          multiply_add(s[tile][n], q[tile], r[0], r[1]);
          multiply_add(s[tile][n + 1], q[tile], r[2], r[3]);
        }
      }
    }
  }
}

template <int kHeadDim>
struct Running {
  float maximum[kRowTiles][2], sum[kRowTiles][2];  // rows lane / 4 and lane / 4 + 8 of a tile; sum: this lane's keys
  float o[kRowTiles][kHeadDim / 8][4];
};

// O += P V. With 8-bit V, output tile 2c has the even and 2c + 1 the odd dimensions of 16c .. 16c + 15.
template <int kHeadDim, class S>
__device__ void value_step(uint32_t values, int lane, const Scores& s, Running<kHeadDim>& state) {
  using Codec = typename S::Codec;
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) {
    uint32_t p[kRowTiles][4];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      const float(&a)[4] = s[tile][2 * k], (&b)[4] = s[tile][2 * k + 1];
      p[tile][0] = pack_half2(a[0], a[1]), p[tile][1] = pack_half2(a[2], a[3]);
      p[tile][2] = pack_half2(b[0], b[1]), p[tile][3] = pack_half2(b[2], b[3]);
    }
#pragma unroll
    for (int chunk = 0; chunk < S::kRowBytes / 16; chunk += 2) {
      uint32_t r[4];  // tokens 0-7 and 8-15 of this chunk, then of the next
      load_matrices_transposed(r, values + swizzled<S::kRowBytes>(16 * k + lane % 16, chunk + lane / 16));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t low = r[2 * i], high = r[2 * i + 1];
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          if constexpr (S::kEightBit) {
            auto& o = state.o[tile];
            multiply_add(o[2 * (chunk + i)], p[tile], Codec::even_pair(low), Codec::even_pair(high));
            multiply_add(o[2 * (chunk + i) + 1], p[tile], Codec::odd_pair(low), Codec::odd_pair(high));
          } else {
            multiply_add(state.o[tile][chunk + i], p[tile], low, high);
          }
        }
      }
    }
  }
}

// Scores to weights, and everything so far rescaled to the new maximum. masked: some of the keys are not seen by some
// of the rows. position: of rows lane / 4 and lane / 4 + 8 of each tile.
template <int kHeadDim>
__device__ void softmax_step(const Inputs& in, float scale, int first_key, bool masked,
                             const int (&position)[kRowTiles][2], int lane, Scores& s, Running<kHeadDim>& state) {
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = state.maximum[tile][half];
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[tile][n][2 * half + i];
          x *= scale;
          const int key = first_key + 8 * n + lane % 4 * 2 + i;
          if (masked && (key > position[tile][half] || position[tile][half] - key >= in.window)) x = -INFINITY;
          largest = fmaxf(largest, x);
        }
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      const float base = largest == -INFINITY ? 0.0f : largest;  // a row that has seen nothing yet
      const float factor = exp2_fast(state.maximum[tile][half] - base);
      state.maximum[tile][half] = largest;
      float sum = state.sum[tile][half] * factor;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[tile][n][2 * half + i];
          x = exp2_fast(x - base);
          sum += x;
        }
      }
      state.sum[tile][half] = sum;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        state.o[tile][n][2 * half] *= factor;
        state.o[tile][n][2 * half + 1] *= factor;
      }
    }
  }
}

// Results of a warp's rows. Lanes of a row hold pairs of columns; two lanes trade so that each stores four in a row.
template <int kHeadDim, class S>
__device__ void store_rows(const PrefillArguments& args, const Task& t, int warp, int lane,
                           const Running<kHeadDim>& state) {
  const float unit = args.in.value_scale * S::Codec::kUnit;
  const int j = lane % 4;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[tile][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int packed = t.first_packed + (warp * kRowTiles + tile) * 16 + lane / 4 + 8 * half;
      const bool exists = packed < t.packed_rows;
      const int row = t.first_row + packed / args.in.group;
      const int first = (t.kv_head * args.in.group + packed % args.in.group) * kHeadDim;
      const float by = unit / sum;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; n += 2) {
        const float a0 = state.o[tile][n][2 * half] * by, a1 = state.o[tile][n][2 * half + 1] * by;
        const float b0 = state.o[tile][n + 1][2 * half] * by, b1 = state.o[tile][n + 1][2 * half + 1] * by;
        if constexpr (S::kEightBit) {
          if (exists) store_result(args.out, row, first + 8 * n + 4 * j, {a0, b0, a1, b1});
        } else {
          // Even lanes take tile n, odd lanes tile n + 1: each sends the other what it does not keep.
          const bool odd = lane & 1;
          const float x = __shfl_xor_sync(0xffffffffu, odd ? a0 : b0, 1);
          const float y = __shfl_xor_sync(0xffffffffu, odd ? a1 : b1, 1);
          const int column = first + 8 * (n + (odd ? 1 : 0)) + j / 2 * 4;
          const float4 four = odd ? float4{x, y, b0, b1} : float4{a0, a1, x, y};
          if (exists) store_result(args.out, row, column, four);
        }
      }
    }
  }
}

template <int kHeadDim, KvFormat kFormat, bool kNative>
__global__ void __launch_bounds__(kThreads) prefill_kernel(const PrefillArguments args) {
  using S = Shape<kHeadDim, kFormat, kNative>;
  extern __shared__ __align__(128) std::byte shared[];
  const Inputs& in = args.in;
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Task t = read_task(args);
  const uint32_t queries = shared_address(shared), keys = queries + S::kQueryBytes, values = keys + S::kKeyBytes;

  // Keys that some row of the block sees: from the first row's window to the last row's own position.
  const int last_packed = min(t.first_packed + kPrefillRows, t.packed_rows) - 1;
  const int first_position = t.context + t.first_packed / in.group, end = t.context + last_packed / in.group + 1;
  const int valid_begin = in.window <= first_position ? first_position + 1 - in.window : 0;
  int first = valid_begin / kKeys * kKeys;

  int position[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half)  // rows behind the last see what the last sees; they are not stored
      position[tile][half] =
          t.context +
          min(t.first_packed + (warp * kRowTiles + tile) * 16 + lane / 4 + 8 * half, last_packed) / in.group;

  wait_for_previous();
  copy_keys<S>(in, t, 0, first, valid_begin, keys);
  commit_copies();
  load_queries<kHeadDim, S>(in, t, shared);
  Running<kHeadDim> state;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    state.maximum[tile][0] = state.maximum[tile][1] = -INFINITY;
    state.sum[tile][0] = state.sum[tile][1] = 0;
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n)
      state.o[tile][n][0] = state.o[tile][n][1] = state.o[tile][n][2] = state.o[tile][n][3] = 0;
  }
  const float scale = in.score_scale * S::Codec::kUnit;
  for (; first < end; first += kKeys) {
    wait_for_copies<0>();
    __syncthreads();  // K is there, and nobody reads the last V any more
    copy_keys<S>(in, t, 1, first, valid_begin, values);
    commit_copies();
    Scores s;
    score_step<kHeadDim, S>(queries, keys, warp, lane, s);
    const bool masked = first + kKeys > first_position + 1 || end - 1 - first >= in.window;
    softmax_step<kHeadDim>(in, scale, first, masked, position, lane, s, state);
    wait_for_copies<0>();
    __syncthreads();  // V is there, and nobody reads this K any more
    if (first + kKeys < end) copy_keys<S>(in, t, 0, first + kKeys, valid_begin, keys);
    commit_copies();
    value_step<kHeadDim, S>(values, lane, s, state);
  }
  store_rows<kHeadDim, S>(args, t, warp, lane, state);
}

template <int kHeadDim, KvFormat kFormat, bool kNative>
void launch_variant(const CudaQueue& queue, dim3 grid, const PrefillArguments& args) {
  constexpr int kSharedBytes = Shape<kHeadDim, kFormat, kNative>::kSharedBytes;
  static_assert(kSharedBytes <= kLeastSharedBytes);
  const auto kernel = prefill_kernel<kHeadDim, kFormat, kNative>;
  static const bool prepared = [&] {
    QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    return true;
  }();
  static_cast<void>(prepared);
  launch(queue, kernel, grid, dim3(kThreads), kSharedBytes, args);
}

template <int kHeadDim>
void launch_head_dim(const CudaQueue& queue, const Variant& variant, dim3 grid, const PrefillArguments& args) {
  switch (variant.format) {
    case KvFormat::fp16:
      return launch_variant<kHeadDim, KvFormat::fp16, false>(queue, grid, args);
    case KvFormat::fp8:
      if (variant.native_fp8) return launch_variant<kHeadDim, KvFormat::fp8, true>(queue, grid, args);
      return launch_variant<kHeadDim, KvFormat::fp8, false>(queue, grid, args);
    case KvFormat::int8:
      return launch_variant<kHeadDim, KvFormat::int8, false>(queue, grid, args);
  }
}

}  // namespace

void launch_prefill(const CudaQueue& queue, const Variant& variant, int tiles, const PrefillArguments& args) {
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(args.in.kv_heads));
  if (variant.head_dim == 128) return launch_head_dim<128>(queue, variant, grid, args);
  if (variant.head_dim == 64) return launch_head_dim<64>(queue, variant, grid, args);
  throw Error("Attention has a head size that the GPU kernels are not built for", "", "head sizes are 64 and 128");
}

}  // namespace qg::attention
