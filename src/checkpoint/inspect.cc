#include "checkpoint/inspect.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/float.h"

namespace qg {
namespace {

enum class Kind { embedding, lm_head, norm, linear, scale };

// Which kind each stored tensor is; what the table does not name is a scale.
std::map<std::string, Kind> kinds_of(const Checkpoint& checkpoint) {
  const bool hf = checkpoint.layout() != Layout::trtllm;
  std::map<std::string, Kind> kinds;
  for (const TensorSpec& spec : checkpoint.table().tensors) {
    const Kind kind = spec.role == TensorRole::embedding ? Kind::embedding
                      : spec.role == TensorRole::lm_head ? Kind::lm_head
                                                         : Kind::norm;
    kinds[hf ? spec.hf_name : spec.trtllm_name] = kind;
  }
  kinds["lm_head.weight"] = Kind::lm_head;  // a second copy of a tied embedding
  for (const LinearSpec& spec : checkpoint.table().linears) {
    kinds[spec.trtllm_name + ".weight"] = Kind::linear;
    for (const LinearSpec::Part& part : spec.parts)
      for (const char* suffix : {".weight", ".weight_packed", ".qweight"}) kinds[part.hf_name + suffix] = Kind::linear;
  }
  return kinds;
}

// "rank1/lm_head.weight" → "lm_head.weight"
std::string without_rank(const std::string& name) {
  return name.starts_with("rank") ? name.substr(name.find('/') + 1) : name;
}

bool is_float(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 ||
         dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2;
}

// True when a sampled element is infinite or not a number.
bool sample_is_broken(const Tensor& tensor) {
  constexpr int64_t kPieces = 64, kPiece = 1024;
  const int64_t count = tensor.elements(), pieces = std::min(kPieces, (count + kPiece - 1) / kPiece);
  std::vector<float> values(kPiece);
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t last_begin = std::max<int64_t>(count - kPiece, 0);
    const int64_t begin =
        pieces == 1 ? 0 : last_begin / (pieces - 1) * i + (i == pieces - 1 ? last_begin % (pieces - 1) : 0);
    const auto length = static_cast<size_t>(std::min(kPiece, count - begin));
    f32_from_any(tensor.dtype, tensor.data + static_cast<size_t>(begin) * size_bytes(tensor.dtype), values.data(),
                 length);
    for (size_t j = 0; j < length; ++j)
      if (!std::isfinite(values[j])) return true;
  }
  return false;
}

// Of many weight scales some may be 0, where a row or a group of weights is: the readers take it.
bool may_be_zero(const std::string& name, const Tensor& scales) {
  if (scales.elements() == 1) return false;
  constexpr std::string_view kEndings[] = {".weight_scale", ".scales", ".weights_scaling_factor", ".per_channel_scale"};
  return std::any_of(std::begin(kEndings), std::end(kEndings), [&](std::string_view e) { return name.ends_with(e); });
}

void check_scales(const std::string& name, const Tensor& tensor, std::vector<std::string>& problems) {
  if (!is_float(tensor.dtype)) return;
  for (float value : to_f32(tensor))
    if (!std::isfinite(value) || value < 0 || (value == 0 && !may_be_zero(name, tensor))) {
      problems.push_back("tensor " + name + " holds the scale " + std::to_string(value) +
                         ", should be finite and above 0");
      return;
    }
}

void add_bytes(Inspection& inspection, Kind kind, int64_t bytes) {
  switch (kind) {
    case Kind::embedding:
      inspection.embedding_bytes += bytes;
      break;
    case Kind::lm_head:
      inspection.lm_head_bytes += bytes;
      break;
    case Kind::norm:
      inspection.norm_bytes += bytes;
      break;
    case Kind::linear:
      inspection.linear_bytes += bytes;
      break;
    case Kind::scale:
      inspection.scale_bytes += bytes;
      break;
  }
}

std::string_view word(WeightScaling scaling) {
  constexpr std::string_view kWords[] = {"none", "tensor", "channel", "group"};
  return kWords[static_cast<size_t>(scaling)];
}

std::string_view word(ActivationScaling scaling) {
  constexpr std::string_view kWords[] = {"none", "static_tensor", "dynamic_token"};
  return kWords[static_cast<size_t>(scaling)];
}

Json shape_json(const ModelShape& s) {
  return {{"family", s.family},
          {"layers", s.layers},
          {"hidden", s.hidden},
          {"heads", s.heads},
          {"kv_heads", s.kv_heads},
          {"head_dim", s.head_dim},
          {"ffn", s.ffn},
          {"vocab", s.vocab},
          {"tied_embeddings", s.tied_embeddings},
          {"rope_theta", s.rope_theta},
          {"rope_scaling", make_rope_scaling(s.rope_scaling)},
          {"norm_epsilon", s.norm_epsilon},
          {"max_position", s.max_position},
          {"sliding_window", s.sliding_window ? Json(*s.sliding_window) : Json(nullptr)}};
}

Json quant_json(const QuantSpec& q) {
  return {{"weights", to_string(q.weights)},
          {"weight_scaling", word(q.weight_scaling)},
          {"activations", word(q.activations)},
          {"group_size", q.group_size > 0 ? Json(q.group_size) : Json(nullptr)},
          {"zero_points", q.zero_points},
          {"prequant_scales", q.prequant_scales},
          {"fixed_kv", q.fixed_kv ? Json(std::string(to_string(*q.fixed_kv))) : Json(nullptr)},
          {"exclude", q.exclude}};
}

Json lineage_json(const std::optional<Lineage>& lineage) {
  if (!lineage) return nullptr;
  return {{"base_model", lineage->base_model},
          {"base_hash", lineage->base_hash},
          {"recipe", lineage->recipe},
          {"recipe_hash", lineage->recipe_hash()},
          {"calibration_hash", lineage->calibration_hash},
          {"seed", lineage->seed},
          {"tool_version", lineage->tool_version},
          {"tool_commit", lineage->tool_commit},
          {"created", lineage->created}};
}

}  // namespace

Inspection inspect_checkpoint(const Checkpoint& checkpoint) {
  Inspection inspection;
  const TensorSet* stored = checkpoint.stored();
  if (!stored) return inspection;
  const std::map<std::string, Kind> kinds = kinds_of(checkpoint);
  for (const std::string& name : stored->names()) {
    const Tensor tensor = stored->get(name);
    const auto found = kinds.find(without_rank(name));
    const Kind kind = found == kinds.end() ? Kind::scale : found->second;
    add_bytes(inspection, kind, static_cast<int64_t>(tensor.bytes()));
    ++inspection.tensors;
    if (kind == Kind::scale)
      check_scales(name, tensor, inspection.problems);
    else if (is_float(tensor.dtype) && sample_is_broken(tensor))
      inspection.problems.push_back("tensor " + name + " holds values that are infinite or not a number");
  }
  return inspection;
}

Json to_json(const Checkpoint& checkpoint, const Inspection& inspection) {
  const KvScales& scales = checkpoint.kv_scales();
  const Json bytes{{"embedding", inspection.embedding_bytes}, {"lm_head", inspection.lm_head_bytes},
                   {"norms", inspection.norm_bytes},          {"linear_weights", inspection.linear_bytes},
                   {"scales", inspection.scale_bytes},        {"files", checkpoint.stored_bytes()}};
  return {{"folder", checkpoint.folder().string()},
          {"layout", to_string(checkpoint.layout())},
          {"shape", shape_json(checkpoint.table().shape)},
          {"dtype", to_string(checkpoint.dtype())},
          {"quantization", quant_json(checkpoint.quant())},
          {"kv_scales",
           {{"fp8", !scales.fp8.empty()}, {"int8", !scales.int8.empty()}, {"shaped", !scales.shaping.empty()}}},
          {"tensors", inspection.tensors},
          {"bytes", bytes},
          {"lineage", lineage_json(checkpoint.lineage())},
          {"sound", inspection.sound()},
          {"problems", inspection.problems}};
}

}  // namespace qg
