#include "kernels/linear/gemm.h"

#include <algorithm>
#include <vector>

#include "core/multiversion.h"
#include "core/parallel.h"
#include "kernels/lanes.h"

namespace qg {
namespace {

// Partial sums of MR rows of x with NR rows of w: sums [MR][NR]. MR * NR Lanes should fit in the registers.
template <int MR, int NR>
QG_INLINE void dot_tile(const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t k, Lanes (&sums)[MR][NR]) {
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < NR; ++j) sums[i][j] = Lanes{};
  for (int64_t p = 0; p < k; p += kGemmLanes) {
    Lanes b[NR];
    for (int j = 0; j < NR; ++j) load_lanes(w + j * ldw + p, b[j]);
    for (int i = 0; i < MR; ++i) {
      Lanes a;
      load_lanes(x + i * ldx + p, a);
      for (int j = 0; j < NR; ++j) sums[i][j] += a * b[j];
    }
  }
}

struct Operands {
  const float* x;
  int64_t ldx;
  const float* w;
  int64_t ldw;
  int64_t m, n, k;
};

struct StoreFloat {
  float* y;
  int64_t ldy;
  QG_INLINE void operator()(int64_t i, int64_t j, const Lanes& sums) const { y[i * ldy + j] = sum_lanes(sums); }
};

// Each lane holds an exact integer below 2^24 (see kInt8Chunk); their total need not, so it is taken in integers.
struct AddInt32 {
  int32_t* y;
  int64_t ldy;
  QG_INLINE void operator()(int64_t i, int64_t j, const Lanes& sums) const {
    int32_t total = 0;
    for (int lane = 0; lane < kGemmLanes; ++lane) total += static_cast<int32_t>(sums[lane]);
    y[i * ldy + j] += total;
  }
};

template <int MR, int NR, class Store>
QG_INLINE void row_strip(const Operands& o, int64_t i, const Store& store) {
  static_assert(kGemmRows % NR == 0, "w is padded to a multiple of kGemmRows only");
  for (int64_t j = 0; j < o.n; j += NR) {
    Lanes sums[MR][NR];
    dot_tile<MR, NR>(o.x + i * o.ldx, o.ldx, o.w + j * o.ldw, o.ldw, o.k, sums);
    for (int a = 0; a < MR; ++a)
      for (int b = 0; b < NR && j + b < o.n; ++b) store(i + a, j + b, sums[a][b]);
  }
}

template <int MR, int NR, class Store>
QG_INLINE void walk_tiles(const Operands& o, const Store& store) {
  int64_t i = 0;
  for (; i + MR <= o.m; i += MR) row_strip<MR, NR>(o, i, store);
  for (; i < o.m; ++i) row_strip<1, kGemmRows>(o, i, store);
}

struct WeightedSum {
  const float* p;
  int64_t ldp;
  const float* v;
  float* out;
  int64_t m, t, d;
};

// Rows [i, i + MR), columns [c, c + ND * kGemmLanes) of p * v.
template <int MR, int ND>
QG_INLINE void weighted_sum_tile(const WeightedSum& o, int64_t i, int64_t c) {
  Lanes sums[MR][ND];
  for (int a = 0; a < MR; ++a)
    for (int b = 0; b < ND; ++b) sums[a][b] = Lanes{};
  for (int64_t s = 0; s < o.t; ++s) {
    Lanes v[ND];
    for (int b = 0; b < ND; ++b) load_lanes(o.v + s * o.d + c + b * kGemmLanes, v[b]);
    for (int a = 0; a < MR; ++a)
      for (int b = 0; b < ND; ++b) sums[a][b] += o.p[(i + a) * o.ldp + s] * v[b];
  }
  for (int a = 0; a < MR; ++a)
    for (int b = 0; b < ND; ++b) store_lanes(sums[a][b], o.out + (i + a) * o.d + c + b * kGemmLanes);
}

template <int MR, int ND>
QG_INLINE void weighted_sum_strip(const WeightedSum& o, int64_t i) {
  int64_t c = 0;
  for (; c + ND * kGemmLanes <= o.d; c += ND * kGemmLanes) weighted_sum_tile<MR, ND>(o, i, c);
  for (; c < o.d; c += kGemmLanes) weighted_sum_tile<MR, 1>(o, i, c);
}

template <int MR, int ND>
QG_INLINE void walk_weighted_sums(const WeightedSum& o) {
  int64_t i = 0;
  for (; i + MR <= o.m; i += MR) weighted_sum_strip<MR, ND>(o, i);
  for (; i < o.m; ++i) weighted_sum_strip<1, ND>(o, i);
}

// One instruction set's versions. The tile is the largest whose partial sums stay in registers: 32 of 64 bytes with
// AVX-512, 16 of 32 bytes with AVX2, 16 of 16 bytes otherwise. Tiles change the speed, never the sums.
struct Kernels {
  void (*dot)(const Operands&, const StoreFloat&);
  void (*dot_int8)(const Operands&, const AddInt32&);
  void (*weighted_sum)(const WeightedSum&);
};

void dot_base(const Operands& o, const StoreFloat& store) {
  walk_tiles<1, 2>(o, store);
}
void dot_int8_base(const Operands& o, const AddInt32& store) {
  walk_tiles<1, 2>(o, store);
}
void weighted_sum_base(const WeightedSum& o) {
  walk_weighted_sums<1, 2>(o);
}
constexpr Kernels kBase{dot_base, dot_int8_base, weighted_sum_base};

#if defined(QG_HAS_MULTIVERSION)
#define QG_V3 __attribute__((target("arch=x86-64-v3")))
#define QG_V4 __attribute__((target("arch=x86-64-v4")))
QG_V3 void dot_v3(const Operands& o, const StoreFloat& store) {
  walk_tiles<3, 2>(o, store);
}
QG_V3 void dot_int8_v3(const Operands& o, const AddInt32& store) {
  walk_tiles<3, 2>(o, store);
}
QG_V3 void weighted_sum_v3(const WeightedSum& o) {
  walk_weighted_sums<3, 2>(o);
}
constexpr Kernels kV3{dot_v3, dot_int8_v3, weighted_sum_v3};

QG_V4 void dot_v4(const Operands& o, const StoreFloat& store) {
  walk_tiles<4, 4>(o, store);
}
QG_V4 void dot_int8_v4(const Operands& o, const AddInt32& store) {
  walk_tiles<4, 4>(o, store);
}
QG_V4 void weighted_sum_v4(const WeightedSum& o) {
  walk_weighted_sums<4, 4>(o);
}
constexpr Kernels kV4{dot_v4, dot_int8_v4, weighted_sum_v4};

const Kernels& kernels() {
  static const Kernels& chosen = __builtin_cpu_supports("x86-64-v4")   ? kV4
                                 : __builtin_cpu_supports("x86-64-v3") ? kV3
                                                                       : kBase;
  return chosen;
}
#else
const Kernels& kernels() {
  return kBase;
}
#endif

// A lane adds every 16th product: 1,024 products of at most 127 * 128 stay below 2^24, so float holds them exactly.
constexpr int64_t kInt8Chunk = 1024 * kGemmLanes;

std::vector<float> padded(const float* from, int64_t rows, int64_t k, int64_t padded_rows, int64_t padded_k) {
  std::vector<float> to(static_cast<size_t>(padded_rows * padded_k), 0.0f);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * k, k, to.data() + r * padded_k);
  return to;
}

}  // namespace

void gemm_block(const float* x, int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, int64_t m, int64_t n,
                int64_t k) {
  kernels().dot({x, ldx, w, ldw, m, n, k}, {y, ldy});
}

void gemm_block_int8(const float* x, int64_t ldx, const float* w, int64_t ldw, int32_t* y, int64_t ldy, int64_t m,
                     int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i) std::fill_n(y + i * ldy, n, 0);
  for (int64_t p = 0; p < k; p += kInt8Chunk)
    kernels().dot_int8({x + p, ldx, w + p, ldw, m, n, std::min(kInt8Chunk, k - p)}, {y, ldy});
}

void gemm_block_nn(const float* p, int64_t ldp, const float* v, float* out, int64_t m, int64_t t, int64_t d) {
  kernels().weighted_sum({p, ldp, v, out, m, t, d});
}

void matmul_nt(const float* x, const float* w, float* y, int64_t m, int64_t n, int64_t k) {
  const int64_t kp = round_up(k, kGemmLanes);
  std::vector<float> x_copy;
  if (kp != k) {
    x_copy = padded(x, m, k, m, kp);
    x = x_copy.data();
  }
  // Blocks of 64 rows of w stay in the second-level cache while x passes by.
  parallel_for(n, 64, [&](int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    if (kp == k && rows % kGemmRows == 0) return gemm_block(x, kp, w + begin * k, kp, y + begin, n, m, rows, kp);
    const std::vector<float> block = padded(w + begin * k, rows, k, round_up(rows, kGemmRows), kp);
    gemm_block(x, kp, block.data(), kp, y + begin, n, m, rows, kp);
  });
}

}  // namespace qg
