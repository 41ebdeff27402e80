#include "checkpoint/int4_packing.h"

#include <array>
#include <bit>

#include "core/error.h"
#include "core/parallel.h"

namespace qg {
namespace {

// An int32's bytes are its bits from low to high, as the formats' files have them.
static_assert(std::endian::native == std::endian::little);

constexpr std::array<int, 8> kAwqOrder{0, 2, 4, 6, 1, 3, 5, 7};

void require_multiple(int64_t value, int64_t of, const char* what) {
  if (value % of != 0)
    throw Error(std::string("this int4 packing needs ") + what + " that are a multiple of " + std::to_string(of) +
                ", not " + std::to_string(value));
}

uint32_t code_at(const uint8_t* row, int64_t column) {
  return column % 2 == 0 ? row[column / 2] & 15u : row[column / 2] >> 4;
}

Tensor viewed_as(const Tensor& tensor, DType dtype, Shape shape) {
  return {dtype, std::move(shape), tensor.data, tensor.owner};
}

}  // namespace

Tensor pack_compressed_int4(const Tensor& codes) {
  const int64_t n = codes.shape.at(0), k = 2 * codes.shape.at(1);
  require_multiple(k, 8, "input features");
  return viewed_as(codes, DType::i32, {n, k / 8});
}

Tensor unpack_compressed_int4(const Tensor& packed) {
  return viewed_as(packed, DType::u8, {packed.shape.at(0), 4 * packed.shape.at(1)});
}

Tensor pack_compressed_zeros(const Tensor& zeros) {
  const int64_t n = zeros.shape.at(0), groups = zeros.shape.at(1), packed_rows = (n + 7) / 8;
  const NewTensor made = new_tensor(DType::i32, {packed_rows, groups});
  for (int64_t j = 0; j < packed_rows; ++j)
    for (int64_t g = 0; g < groups; ++g) {
      uint32_t word = 0;
      for (int64_t i = 0; i < 8 && 8 * j + i < n; ++i)
        word |= (zeros.as<uint8_t>()[(8 * j + i) * groups + g] & 15u) << (4 * i);
      made.as<uint32_t>()[j * groups + g] = word;
    }
  return made.tensor;
}

Tensor unpack_compressed_zeros(const Tensor& packed, int64_t n) {
  const int64_t groups = packed.shape.at(1);
  const NewTensor made = new_tensor(DType::u8, {n, groups});
  for (int64_t r = 0; r < n; ++r)
    for (int64_t g = 0; g < groups; ++g)
      made.as<uint8_t>()[r * groups + g] =
          static_cast<uint8_t>((packed.as<uint32_t>()[r / 8 * groups + g] >> (4 * (r % 8))) & 15u);
  return made.tensor;
}

Tensor pack_awq_int4(const Tensor& codes) {
  const int64_t n = codes.shape.at(0), k = 2 * codes.shape.at(1), words = n / 8;
  require_multiple(n, 8, "output features");
  const NewTensor made = new_tensor(DType::i32, {k, words});
  const uint8_t* from = codes.as<uint8_t>();
  parallel_for(words, 8, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      for (int64_t c = 0; c < k; ++c) {
        uint32_t word = 0;
        for (size_t i = 0; i < 8; ++i) word |= code_at(from + (8 * j + kAwqOrder[i]) * (k / 2), c) << (4 * i);
        made.as<uint32_t>()[c * words + j] = word;
      }
  });
  return made.tensor;
}

Tensor unpack_awq_int4(const Tensor& packed) {
  const int64_t k = packed.shape.at(0), words = packed.shape.at(1), n = 8 * words;
  require_multiple(k, 2, "input features");
  const NewTensor made = new_tensor(DType::u8, {n, k / 2});
  const uint32_t* from = packed.as<uint32_t>();
  parallel_for(words, 8, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      for (int64_t c = 0; c < k / 2; ++c) {
        const uint32_t even = from[2 * c * words + j], odd = from[(2 * c + 1) * words + j];
        for (size_t i = 0; i < 8; ++i)
          made.as<uint8_t>()[(8 * j + kAwqOrder[i]) * (k / 2) + c] =
              static_cast<uint8_t>(((even >> (4 * i)) & 15u) | (((odd >> (4 * i)) & 15u) << 4));
      }
  });
  return made.tensor;
}

Tensor pack_awq_zeros(const Tensor& zeros) {
  const int64_t n = zeros.shape.at(0), groups = zeros.shape.at(1), words = n / 8;
  require_multiple(n, 8, "output features");
  const NewTensor made = new_tensor(DType::i32, {groups, words});
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t j = 0; j < words; ++j) {
      uint32_t word = 0;
      for (size_t i = 0; i < 8; ++i)
        word |= (zeros.as<uint8_t>()[(8 * j + kAwqOrder[i]) * groups + g] & 15u) << (4 * i);
      made.as<uint32_t>()[g * words + j] = word;
    }
  return made.tensor;
}

Tensor unpack_awq_zeros(const Tensor& packed) {
  const int64_t groups = packed.shape.at(0), words = packed.shape.at(1);
  const NewTensor made = new_tensor(DType::u8, {8 * words, groups});
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t j = 0; j < words; ++j)
      for (size_t i = 0; i < 8; ++i)
        made.as<uint8_t>()[(8 * j + kAwqOrder[i]) * groups + g] =
            static_cast<uint8_t>((packed.as<uint32_t>()[g * words + j] >> (4 * i)) & 15u);
  return made.tensor;
}

Tensor transposed_f32(const Tensor& matrix) {
  const int64_t rows = matrix.shape.at(0), columns = matrix.shape.at(1);
  const NewTensor made = new_tensor(DType::f32, {columns, rows});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) made.as<float>()[c * rows + r] = matrix.as<float>()[r * columns + c];
  return made.tensor;
}

}  // namespace qg
