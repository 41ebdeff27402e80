#pragma once
// Element types as safetensors spells them.
#include <cstddef>
#include <optional>
#include <string_view>

namespace qg {

enum class DType { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u8, boolean };

size_t size_bytes(DType t);
std::string_view to_string(DType t);                      // "F16", "F8_E4M3", ...: the safetensors spelling
std::optional<DType> parse_dtype(std::string_view name);  // inverse of to_string; empty when unknown

}  // namespace qg
