#include "model/open_model.h"

#include "checkpoint/detect.h"
#include "checkpoint/hf_quantized.h"
#include "checkpoint/huggingface.h"
#include "checkpoint/strict_json.h"
#include "checkpoint/trtllm.h"
#include "core/error.h"
#include "model/architecture.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

std::string family_or_refuse(const std::string& architecture, const std::string& where) {
  if (const std::optional<std::string> family = family_of_architecture(architecture)) return *family;
  std::string known;
  for (const std::string& name : known_architectures()) known += (known.empty() ? "" : ", ") + name;
  throw Error("architecture \"" + architecture.substr(0, 100) + "\" is not supported", where, "supported are " + known);
}

TrtllmConfig read_trtllm_config(const fs::path& path) {
  TrtllmConfig config = parse_trtllm_config(read_strict_json(path), path.string());
  config.shape.family = family_or_refuse(config.architecture, path.string());
  return config;
}

ModelShape read_hf_shape(const fs::path& path) {
  const Json config = read_strict_json(path);
  const std::string family = family_or_refuse(hf_architecture(config, path.string()), path.string());
  return parse_hf_config(config, path.string(), hf_rules_of_family(family)).shape;
}

}  // namespace

std::unique_ptr<Checkpoint> open_model(const fs::path& folder) {
  const fs::path config = folder / "config.json";
  const Layout layout = detect_layout(folder);
  if (layout == Layout::trtllm) return open_trtllm(folder, read_trtllm_config(config), make_model_table);
  ModelTable table = make_model_table(read_hf_shape(config));
  if (layout == Layout::huggingface) return open_huggingface(folder, std::move(table));
  return open_hf_quantized(folder, hf_quant_layout(layout), read_strict_json(config), std::move(table));
}

ModelShape read_model_shape(const fs::path& folder) {
  const fs::path config = folder / "config.json";
  return detect_layout(folder) == Layout::trtllm ? read_trtllm_config(config).shape : read_hf_shape(config);
}

}  // namespace qg
