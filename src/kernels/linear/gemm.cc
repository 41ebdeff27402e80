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

// Calls store(i, j, sum) for each element, walking x in strips of MR rows and w in strips of NR (a divisor of
// kGemmRows, or the padding would not be enough).
template <int MR, int NR, class Store>
QG_INLINE void walk_tiles(const Operands& o, const Store& store) {
  static_assert(kGemmRows % NR == 0);
  int64_t i = 0;
  for (; i + MR <= o.m; i += MR) {
    for (int64_t j = 0; j < o.n; j += NR) {
      Lanes sums[MR][NR];
      dot_tile<MR, NR>(o.x + i * o.ldx, o.ldx, o.w + j * o.ldw, o.ldw, o.k, sums);
      for (int a = 0; a < MR; ++a)
        for (int b = 0; b < NR && j + b < o.n; ++b) store(i + a, j + b, sums[a][b]);
    }
  }
  for (; i < o.m; ++i) {
    for (int64_t j = 0; j < o.n; j += NR) {
      Lanes sums[1][NR];
      dot_tile<1, NR>(o.x + i * o.ldx, o.ldx, o.w + j * o.ldw, o.ldw, o.k, sums);
      for (int b = 0; b < NR && j + b < o.n; ++b) store(i, j + b, sums[0][b]);
    }
  }
}

template <int MR, int NR>
QG_INLINE void float_tiles(const Operands& o, float* y, int64_t ldy) {
  walk_tiles<MR, NR>(o, [&](int64_t i, int64_t j, const Lanes& sums) { y[i * ldy + j] = sum_lanes(sums); });
}

// Each lane holds an exact integer below 2^24 (see kInt8Chunk); their sum need not, so it is taken in integers.
template <int MR, int NR>
QG_INLINE void int_tiles(const Operands& o, int32_t* y, int64_t ldy) {
  walk_tiles<MR, NR>(o, [&](int64_t i, int64_t j, const Lanes& sums) {
    int32_t total = 0;
    for (int lane = 0; lane < kGemmLanes; ++lane) total += static_cast<int32_t>(sums[lane]);
    y[i * ldy + j] += total;
  });
}

// [rows, lanes of d] of p * v: the innermost loop of gemm_block_nn.
template <int MR, int ND>
QG_INLINE void weighted_sum_tile(const float* p, int64_t ldp, const float* v, float* out, int64_t t, int64_t d) {
  Lanes sums[MR][ND];
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < ND; ++j) sums[i][j] = Lanes{};
  for (int64_t s = 0; s < t; ++s) {
    Lanes b[ND];
    for (int j = 0; j < ND; ++j) load_lanes(v + s * d + j * kGemmLanes, b[j]);
    for (int i = 0; i < MR; ++i)
      for (int j = 0; j < ND; ++j) sums[i][j] += p[i * ldp + s] * b[j];
  }
  for (int i = 0; i < MR; ++i)
    for (int j = 0; j < ND; ++j) store_lanes(sums[i][j], out + i * d + j * kGemmLanes);
}

template <int MR, int ND>
QG_INLINE void weighted_sums(const float* p, int64_t ldp, const float* v, float* out, int64_t m, int64_t t, int64_t d) {
  const auto columns = [&](auto rows, int64_t i) QG_INLINE_LAMBDA {
    constexpr int kRows = decltype(rows)::value;
    int64_t c = 0;
    for (; c + ND * kGemmLanes <= d; c += ND * kGemmLanes)
      weighted_sum_tile<kRows, ND>(p + i * ldp, ldp, v + c, out + i * d + c, t, d);
    for (; c < d; c += kGemmLanes) weighted_sum_tile<kRows, 1>(p + i * ldp, ldp, v + c, out + i * d + c, t, d);
  };
  int64_t i = 0;
  for (; i + MR <= m; i += MR) columns(std::integral_constant<int, MR>{}, i);
  for (; i < m; ++i) columns(std::integral_constant<int, 1>{}, i);
}

}  // namespace
}  // namespace qg
