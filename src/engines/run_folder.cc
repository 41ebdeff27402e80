#include "engines/run_folder.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

std::string kv_word(const Json& quantization) {
  if (!quantization.is_object() || !quantization.contains("kv_cache_quant_algo")) return "null";
  const Json& value = quantization.at("kv_cache_quant_algo");
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string trtllm_problem(const fs::path& folder, KvFormat kv) {
  const fs::path file = folder / "config.json";
  const Json config = read_json(file, kMaxConfigBytes);
  if (!config.is_object() || !config.contains("architecture"))
    return fmt::format("not in TensorRT-LLM's layout: {} names no architecture", file.string());
  const std::string word = config.contains("quantization") ? kv_word(config.at("quantization")) : "null";
  const std::string_view is = word == "FP8" ? "fp8" : word == "INT8" ? "int8" : word == "null" ? "fp16" : "another";
  if (is == to_string(kv)) return {};
  return fmt::format("{} fixes a {} cache, not {} (kv_cache_quant_algo)", file.string(), is, to_string(kv));
}

std::string modelopt_problem(const fs::path& folder) {
  const fs::path file = folder / "hf_quant_config.json";
  if (!fs::exists(file)) return fmt::format("not in the modelopt layout, there is no {}", file.string());
  const Json config = read_json(file, kMaxConfigBytes);
  const Json* quantization =
      config.is_object() && config.contains("quantization") ? &config.at("quantization") : nullptr;
  if (!quantization) return fmt::format("not in the modelopt layout, {} has no \"quantization\"", file.string());
  if (kv_word(*quantization) == "null") return {};
  return fmt::format("{} fixes a cache type (kv_cache_quant_algo); export the folder without", file.string());
}

std::string compressed_tensors_problem(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  const Json config = read_json(file, kMaxConfigBytes);
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (!config.is_object() || !config.contains(key) || !config.at(key).is_object()) continue;
    const Json& quantization = config.at(key);
    if (!quantization.contains("quant_method") || quantization.at("quant_method") != "compressed-tensors") continue;
    if (quantization.contains("kv_cache_scheme") && !quantization.at("kv_cache_scheme").is_null())
      return fmt::format("{} fixes a cache type (kv_cache_scheme); export the folder without", file.string());
    return {};
  }
  return fmt::format("not in the compressed-tensors layout: {}", file.string());
}

}  // namespace

std::string folder_problem(const EngineCase& e) {
  if (!fs::is_directory(e.original))
    return fmt::format("the model's folder {} is not here; put the Hugging Face folder there", e.original.string());
  if (e.checkpoint == e.original) return {};
  if (!fs::is_directory(e.checkpoint))
    return fmt::format("the checkpoint {} is not here, and the grid names no calibration text to make it with",
                       e.checkpoint.string());
  try {
    const std::string_view layout = engine_spec(e.engine).layout;
    if (layout == "trtllm") return trtllm_problem(e.checkpoint, e.c.kv);
    if (layout == "modelopt") return modelopt_problem(e.checkpoint);
    return compressed_tensors_problem(e.checkpoint);
  } catch (const Error& error) {
    return error.what();
  }
}

std::string printf_q(const std::string& word) {
  if (word.empty()) return "''";
  std::string text;
  for (char c : word) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("%+,-./:=@_").find(c) != std::string_view::npos;
    if (!plain) text += '\\';
    text += c;
  }
  return text;
}

}  // namespace qg
