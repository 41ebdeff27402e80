#include "checkpoint/trtllm_linear.h"
#include "core/parallel.h"

namespace qg {

Tensor pack_trtllm_int4(const Tensor& canonical) {
  const int64_t n = canonical.shape.at(0), half_k = canonical.shape.at(1), k = 2 * half_k;
  NewTensor made = new_tensor(DType::i8, {n / 2, k});
  const uint8_t* from = canonical.as<uint8_t>();
  uint8_t* to = made.as<uint8_t>();
  parallel_for(n / 2, 16, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const uint8_t *even = from + 2 * j * half_k, *odd = even + half_k;
      uint8_t* out = to + j * k;
      for (int64_t c = 0; c < half_k; ++c) {
        // u - 8 in two's complement of four bits is u with its top bit turned.
        out[2 * c] = static_cast<uint8_t>(((even[c] & 15) | (odd[c] << 4)) ^ 0x88);
        out[2 * c + 1] = static_cast<uint8_t>(((even[c] >> 4) | (odd[c] & 0xf0)) ^ 0x88);
      }
    }
  });
  return made.tensor;
}

Tensor unpack_trtllm_int4(const Tensor& stored) {
  const int64_t half_n = stored.shape.at(0), k = stored.shape.at(1), half_k = k / 2;
  NewTensor made = new_tensor(DType::u8, {2 * half_n, half_k});
  const uint8_t* from = stored.as<uint8_t>();
  uint8_t* to = made.as<uint8_t>();
  parallel_for(half_n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const uint8_t* in = from + j * k;
      uint8_t *even = to + 2 * j * half_k, *odd = even + half_k;
      for (int64_t c = 0; c < half_k; ++c) {
        const uint8_t left = in[2 * c] ^ 0x88, right = in[2 * c + 1] ^ 0x88;
        even[c] = static_cast<uint8_t>((left & 15) | (right << 4));
        odd[c] = static_cast<uint8_t>((left >> 4) | (right & 0xf0));
      }
    }
  });
  return made.tensor;
}

}  // namespace qg
