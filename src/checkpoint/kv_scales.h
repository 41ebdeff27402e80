#pragma once
// The sidecar of calibrated KV-cache scales, `kv_scales.safetensors` beside the weights: F32 [layers] tensors `fp8.k`,
// `fp8.v`, `int8.k`, `int8.v`, both of a pair or none. stored = round(x / scale), one scale a layer for K and one for
// V.
#include <filesystem>

#include "core/quant_spec.h"

namespace qg {

inline constexpr const char* kKvScalesFile = "kv_scales.safetensors";

KvScales read_kv_scales(const std::filesystem::path& folder, int64_t layers);  // empty lists when there is no file
// Writes nothing when both lists are empty. Throws Error when a list has not one entry per layer.
void write_kv_scales(const std::filesystem::path& folder, const KvScales& scales, int64_t layers);
void check_kv_scales(const KvScales& scales, int64_t layers, const std::string& where);

}  // namespace qg
