#include "core/format.h"

namespace qg {
namespace {

constexpr std::array<std::string_view, 4> kWeightNames{"fp16", "fp8", "int4_awq", "int8_sq"};
constexpr std::array<std::string_view, 3> kKvNames{"fp16", "fp8", "int8"};
constexpr std::array<std::string_view, 6> kPathNames{"w16a16", "w8a8_fp8",  "w8a8_int8",
                                                     "w4a16",  "w8a16_fp8", "w16a16_bf16"};

template <class Enum, size_t N>
std::optional<Enum> parse(const std::array<std::string_view, N>& names, std::string_view name) {
  for (size_t i = 0; i < N; ++i)
    if (names[i] == name) return static_cast<Enum>(i);
  return std::nullopt;
}

}  // namespace

std::string_view to_string(WeightFormat f) {
  return kWeightNames[static_cast<size_t>(f)];
}
std::string_view to_string(KvFormat f) {
  return kKvNames[static_cast<size_t>(f)];
}
std::string_view to_string(ComputePath p) {
  return kPathNames[static_cast<size_t>(p)];
}
std::optional<WeightFormat> parse_weight_format(std::string_view name) {
  return parse<WeightFormat>(kWeightNames, name);
}
std::optional<KvFormat> parse_kv_format(std::string_view name) {
  return parse<KvFormat>(kKvNames, name);
}
std::optional<ComputePath> parse_compute_path(std::string_view name) {
  return parse<ComputePath>(kPathNames, name);
}

int element_bytes(KvFormat f) {
  return f == KvFormat::fp16 ? 2 : 1;
}

}  // namespace qg
