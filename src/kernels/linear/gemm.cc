#include "kernels/linear/gemm.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "core/multiversion.h"
#include "core/parallel.h"
#include "kernels/lanes.h"

namespace qg {
namespace {

// Without it GCC 12 keeps AVX2's partial sums in memory: 8 instead of 60 GFLOP/s a core.
#define QG_UNROLL _Pragma("GCC unroll 8")

typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float16 __attribute__((vector_size(64)));

// The sixteen partial sums as registers of one instruction set: 16 / (floats in V) of them.
template <class V>
struct Sums {
  static constexpr int kParts = static_cast<int>(kGemmLanes * sizeof(float) / sizeof(V));
  static constexpr int kFloats = static_cast<int>(sizeof(V) / sizeof(float));
  V part[kParts];
};

template <class V>
QG_INLINE void load(const float* from, Sums<V>& to) {
  QG_UNROLL for (int i = 0; i < Sums<V>::kParts; ++i) std::memcpy(&to.part[i], from + i * Sums<V>::kFloats, sizeof(V));
}

template <class V>
QG_INLINE void multiply_add(const Sums<V>& a, const Sums<V>& b, Sums<V>& sums) {
  QG_UNROLL for (int i = 0; i < Sums<V>::kParts; ++i) sums.part[i] += a.part[i] * b.part[i];
}

// Partial sums of MR rows of x with NR rows of w: sums [MR][NR].
template <class V, int MR, int NR>
QG_INLINE void dot_tile(const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t k, Sums<V> (&sums)[MR][NR]) {
  QG_UNROLL for (int i = 0; i < MR; ++i) QG_UNROLL for (int j = 0; j < NR; ++j) sums[i][j] = {};
  for (int64_t p = 0; p < k; p += kGemmLanes) {
    Sums<V> b[NR];
    QG_UNROLL for (int j = 0; j < NR; ++j) load(w + j * ldw + p, b[j]);
    QG_UNROLL for (int i = 0; i < MR; ++i) {
      Sums<V> a;
      load(x + i * ldx + p, a);
      QG_UNROLL for (int j = 0; j < NR; ++j) multiply_add(a, b[j], sums[i][j]);
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
  QG_INLINE void operator()(int64_t i, int64_t j, const float (&sums)[kGemmLanes]) const {
    y[i * ldy + j] = sum_of_16(sums);
  }
};

// Each lane holds an exact integer below 2^24 (see kInt8Chunk); their total need not, so it is taken in integers.
struct AddInt32 {
  int32_t* y;
  int64_t ldy;
  QG_INLINE void operator()(int64_t i, int64_t j, const float (&sums)[kGemmLanes]) const {
    int32_t total = 0;
    for (int lane = 0; lane < kGemmLanes; ++lane) total += static_cast<int32_t>(sums[lane]);
    y[i * ldy + j] += total;
  }
};

template <class V, int MR, int NR, class Store>
QG_INLINE void row_strip(const Operands& o, int64_t i, const Store& store) {
  static_assert(kGemmRows % NR == 0, "w is padded to a multiple of kGemmRows only");
  for (int64_t j = 0; j < o.n; j += NR) {
    Sums<V> sums[MR][NR];
    dot_tile(o.x + i * o.ldx, o.ldx, o.w + j * o.ldw, o.ldw, o.k, sums);
    QG_UNROLL for (int a = 0; a < MR; ++a) {
      for (int b = 0; b < NR && j + b < o.n; ++b) {
        float lanes[kGemmLanes];
        std::memcpy(lanes, &sums[a][b], sizeof lanes);
        store(i + a, j + b, lanes);
      }
    }
  }
}

template <class V, int MR, int NR, class Store>
QG_INLINE void walk_tiles(const Operands& o, const Store& store) {
  int64_t i = 0;
  for (; i + MR <= o.m; i += MR) row_strip<V, MR, NR>(o, i, store);
  for (; i < o.m; ++i) row_strip<V, 1, kGemmRows>(o, i, store);
}

struct WeightedSum {
  const float* p;
  int64_t ldp;
  const float* v;
  float* out;
  int64_t m, t, d;
};

// Rows [i, i + MR), columns [c, c + ND * kGemmLanes) of p * v.
template <class V, int MR, int ND>
QG_INLINE void weighted_sum_tile(const WeightedSum& o, int64_t i, int64_t c) {
  Sums<V> sums[MR][ND] = {};
  for (int64_t s = 0; s < o.t; ++s) {
    Sums<V> v[ND];
    QG_UNROLL for (int b = 0; b < ND; ++b) load(o.v + s * o.d + c + b * kGemmLanes, v[b]);
    QG_UNROLL for (int a = 0; a < MR; ++a) QG_UNROLL for (int b = 0; b < ND; ++b)
        QG_UNROLL for (int part = 0; part < Sums<V>::kParts; ++part) sums[a][b]
            .part[part] += o.p[(i + a) * o.ldp + s] * v[b].part[part];
  }
  QG_UNROLL for (int a = 0; a < MR; ++a) QG_UNROLL for (int b = 0; b < ND; ++b)
      std::memcpy(o.out + (i + a) * o.d + c + b * kGemmLanes, &sums[a][b], sizeof(Sums<V>));
}

template <class V, int MR, int ND>
QG_INLINE void weighted_sum_strip(const WeightedSum& o, int64_t i) {
  int64_t c = 0;
  for (; c + ND * kGemmLanes <= o.d; c += ND * kGemmLanes) weighted_sum_tile<V, MR, ND>(o, i, c);
  for (; c < o.d; c += kGemmLanes) weighted_sum_tile<V, MR, 1>(o, i, c);
}

template <class V, int MR, int ND>
QG_INLINE void walk_weighted_sums(const WeightedSum& o) {
  int64_t i = 0;
  for (; i + MR <= o.m; i += MR) weighted_sum_strip<V, MR, ND>(o, i);
  for (; i < o.m; ++i) weighted_sum_strip<V, 1, ND>(o, i);
}

// One instruction set's versions. The tile is the largest whose partial sums stay in registers: 32 of 64 bytes with
// AVX-512, 16 of 32 bytes with AVX2, 16 of 16 bytes otherwise. Tiles change the speed, never the sums.
struct Kernels {
  void (*dot)(const Operands&, const StoreFloat&);
  void (*dot_int8)(const Operands&, const AddInt32&);
  void (*weighted_sum)(const WeightedSum&);
};

void dot_base(const Operands& o, const StoreFloat& store) {
  walk_tiles<Float4, 1, 2>(o, store);
}
void dot_int8_base(const Operands& o, const AddInt32& store) {
  walk_tiles<Float4, 1, 2>(o, store);
}
void weighted_sum_base(const WeightedSum& o) {
  walk_weighted_sums<Float4, 1, 2>(o);
}
constexpr Kernels kBase{dot_base, dot_int8_base, weighted_sum_base};

#if defined(QG_HAS_MULTIVERSION)
#define QG_V3 __attribute__((target("arch=x86-64-v3")))
#define QG_V4 __attribute__((target("arch=x86-64-v4")))
QG_V3 void dot_v3(const Operands& o, const StoreFloat& store) {
  walk_tiles<Float8, 4, 1>(o, store);
}
QG_V3 void dot_int8_v3(const Operands& o, const AddInt32& store) {
  walk_tiles<Float8, 4, 1>(o, store);
}
QG_V3 void weighted_sum_v3(const WeightedSum& o) {
  walk_weighted_sums<Float8, 3, 2>(o);
}
constexpr Kernels kV3{dot_v3, dot_int8_v3, weighted_sum_v3};

QG_V4 void dot_v4(const Operands& o, const StoreFloat& store) {
  walk_tiles<Float16, 4, 4>(o, store);
}
QG_V4 void dot_int8_v4(const Operands& o, const AddInt32& store) {
  walk_tiles<Float16, 4, 4>(o, store);
}
QG_V4 void weighted_sum_v4(const WeightedSum& o) {
  walk_weighted_sums<Float16, 4, 4>(o);
}
constexpr Kernels kV4{dot_v4, dot_int8_v4, weighted_sum_v4};

#endif

// Those that this processor can run, the fastest last.
std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> all{&kBase};
#if defined(QG_HAS_MULTIVERSION)
  if (__builtin_cpu_supports("x86-64-v3")) all.push_back(&kV3);
  if (__builtin_cpu_supports("x86-64-v4")) all.push_back(&kV4);
#endif
  return all;
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels& kernels() {
  const Kernels* k = chosen.load(std::memory_order_relaxed);
  if (k) return *k;
  chosen = runnable().back();
  return *chosen;
}

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

int num_gemm_versions() {
  return static_cast<int>(runnable().size());
}

void use_gemm_version(int version) {
  chosen = runnable().at(static_cast<size_t>(version));
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
