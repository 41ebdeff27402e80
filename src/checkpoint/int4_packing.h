#pragma once
// How layouts pack 4-bit codes, to and from Quantgrid's own form: codes U8 [n, k/2], two columns a byte, the low nibble
// the even one, a nibble u = 0..15; zero points U8 [n, groups], one a byte. n and k as in LinearWeights.
#include "core/tensor.h"

namespace qg {

// compressed-tensors "pack-quantized": codes I32 [n, k/8], column 8j + i in bits 4i of element j; zero points
// I32 [ceil(n/8), groups], row 8j + i in bits 4i. Codes are u itself there (its q + 8), so both are views or copies.
Tensor pack_compressed_int4(const Tensor& codes);  // k must be a multiple of 8
Tensor unpack_compressed_int4(const Tensor& packed);
Tensor pack_compressed_zeros(const Tensor& zeros);
Tensor unpack_compressed_zeros(const Tensor& packed, int64_t n);

// AutoAWQ "gemm": transposed, codes I32 [k, n/8] and zero points I32 [groups, n/8]; of eight columns (out features),
// bits 4i hold number 0, 2, 4, 6, 1, 3, 5, 7 for i = 0..7. n must be a multiple of 8.
Tensor pack_awq_int4(const Tensor& codes);
Tensor unpack_awq_int4(const Tensor& packed);
Tensor pack_awq_zeros(const Tensor& zeros);
Tensor unpack_awq_zeros(const Tensor& packed);

// [a, b] → [b, a] of F32.
Tensor transposed_f32(const Tensor& matrix);

}  // namespace qg
