#pragma once
// y = x * w^T in float, the matrix product under every CPU reference and the quantizers' searches.
//
// Both operands are contiguous along k, so a product is a set of dot products: no packing, 16 partial sums a dot
// product (element i goes to partial sum i mod 16), added up in a fixed tree, multiply and add rounded apart. The order
// of additions is thereby a function of k alone: a row's result is the same to the bit whatever the other rows, the
// number of threads and the processor's vector width. cblas_sgemm promises none of that: with OpenBLAS a row's result
// differs between 1, 4 and 16 rows, which makes batched and chunked runs differ.
#include <cstdint>

namespace qg {

// x [m, k], w [n, k], y [m, n], row-major; parallel over blocks of n (or m). Any k.
void matmul_nt(const float* x, const float* w, float* y, int64_t m, int64_t n, int64_t k);

inline constexpr int64_t kGemmLanes = 16;  // k is padded to a multiple of this
inline constexpr int64_t kGemmRows = 4;    // rows of w are padded to a multiple of this

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// One thread's product of padded operands: x [m, k] and w [round_up(n, kGemmRows), k] with row strides ldx and ldw,
// k a multiple of kGemmLanes (pad with zeros). y [m, n] with row stride ldy.
void gemm_block(const float* x, int64_t ldx, const float* w, int64_t ldw, float* y, int64_t ldy, int64_t m, int64_t n,
                int64_t k);

// The same for operands that hold integers of magnitude <= 127 (128 on one side): exact for any k below 2^31 / 127^2.
void gemm_block_int8(const float* x, int64_t ldx, const float* w, int64_t ldw, int32_t* y, int64_t ldy, int64_t m,
                     int64_t n, int64_t k);

// out [m, d] = p [m, t] * v [t, d], one thread; d a multiple of kGemmLanes; rows of p have stride ldp, of v and out d.
// Sums run over t in order.
void gemm_block_nn(const float* p, int64_t ldp, const float* v, float* out, int64_t m, int64_t t, int64_t d);

// For tests: versions for different instruction sets, those that this processor can run; the last one is used unless
// another is asked for. All compute the same bits.
int num_gemm_versions();
void use_gemm_version(int version);

}  // namespace qg
