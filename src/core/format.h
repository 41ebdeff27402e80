#pragma once
// The words for what is stored and what the silicon does with it: one spelling in enums, flags, JSON and file names.
#include <array>
#include <optional>
#include <string_view>

namespace qg {

enum class WeightFormat { fp16, fp8, int4_awq, int8_sq };
enum class KvFormat { fp16, fp8, int8 };
// What really ran: set by the kernel that was chosen, never by the configuration.
enum class ComputePath { w16a16, w8a8_fp8, w8a8_int8, w4a16, w8a16_fp8, w16a16_bf16 };

inline constexpr std::array kWeightFormats{WeightFormat::fp16, WeightFormat::fp8, WeightFormat::int4_awq,
                                           WeightFormat::int8_sq};
inline constexpr std::array kKvFormats{KvFormat::fp16, KvFormat::fp8, KvFormat::int8};
inline constexpr std::array kComputePaths{ComputePath::w16a16, ComputePath::w8a8_fp8,  ComputePath::w8a8_int8,
                                          ComputePath::w4a16,  ComputePath::w8a16_fp8, ComputePath::w16a16_bf16};

std::string_view to_string(WeightFormat f);
std::string_view to_string(KvFormat f);
std::string_view to_string(ComputePath p);
std::optional<WeightFormat> parse_weight_format(std::string_view name);
std::optional<KvFormat> parse_kv_format(std::string_view name);
std::optional<ComputePath> parse_compute_path(std::string_view name);

// Bytes of one stored K or V element: 2 for fp16, 1 for fp8 and int8 (their scales are per layer, not per element).
int element_bytes(KvFormat f);

}  // namespace qg
