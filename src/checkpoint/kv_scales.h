#pragma once
// Calibrated scales of the KV cache and the shaping of its keys: `kv_scales.safetensors` beside the weights, or a file
// of its own for a model that has none. F32 [layers] tensors `fp8.k`, `fp8.v`, `int8.k`, `int8.v`, both of a pair or
// none: stored = round(x / scale). All of the `shaped.` tensors or none (KvShaping): `shaped.fp8.k`, `shaped.int8.k`
// F32 [layers], `shaped.k_center` F32 [layers, kv_heads, head_dim], `shaped.k_transform`, `shaped.q_transform`,
// `shaped.k_feedback` F16 [layers, kv_heads, head_dim, head_dim].
#include <filesystem>
#include <memory>

#include "checkpoint/checkpoint.h"
#include "core/model_shape.h"
#include "core/quant_spec.h"

namespace qg {

inline constexpr const char* kKvScalesFile = "kv_scales.safetensors";

// Throws Error on a tensor that is unknown, missing, of another dtype or shape, or with values that cannot be.
KvScales read_kv_scales(const std::filesystem::path& folder, const ModelShape& shape);  // empty when there is no file
// Writes nothing when all lists are empty. Throws Error when a list has not one entry per layer.
void write_kv_scales(const std::filesystem::path& folder, const KvScales& scales, const ModelShape& shape);
void check_kv_scales(const KvScales& scales, const ModelShape& shape, const std::string& where);

// A file of its own, which says whose it is. base_hash: Checkpoint::weights_hash() of the model that was calibrated.
void write_kv_scales_file(const std::filesystem::path& file, const KvScales& scales, const ModelShape& shape,
                          const std::string& base_hash);
// The same checkpoint with the scales of such a file instead of its own. Throws Error when the file is of another
// model: by the hash of its base where the checkpoint's lineage or `base_hash` (may be empty) tells it, else by shape.
std::shared_ptr<const Checkpoint> with_kv_scales(std::shared_ptr<const Checkpoint> checkpoint,
                                                 const std::filesystem::path& file, const std::string& base_hash = {});

}  // namespace qg
