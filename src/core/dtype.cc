#include "core/dtype.h"

#include <array>

namespace qg {
namespace {

struct Row {
  DType type;
  std::string_view name;
  size_t bytes;
};

constexpr std::array<Row, 12> kRows{{{DType::f64, "F64", 8},
                                     {DType::f32, "F32", 4},
                                     {DType::f16, "F16", 2},
                                     {DType::bf16, "BF16", 2},
                                     {DType::f8_e4m3, "F8_E4M3", 1},
                                     {DType::f8_e5m2, "F8_E5M2", 1},
                                     {DType::i64, "I64", 8},
                                     {DType::i32, "I32", 4},
                                     {DType::i16, "I16", 2},
                                     {DType::i8, "I8", 1},
                                     {DType::u8, "U8", 1},
                                     {DType::boolean, "BOOL", 1}}};

}  // namespace

size_t size_bytes(DType t) {
  return kRows[static_cast<size_t>(t)].bytes;
}
std::string_view to_string(DType t) {
  return kRows[static_cast<size_t>(t)].name;
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (const Row& row : kRows)
    if (row.name == name) return row.type;
  return std::nullopt;
}

}  // namespace qg
