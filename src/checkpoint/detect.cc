#include "checkpoint/detect.h"

#include <algorithm>

#include "checkpoint/strict_json.h"
#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

bool has_file(const fs::path& folder, const std::string& name) {
  return fs::exists(folder / name);
}

// Name of the first file (in order of names) that ends so; empty when there is none.
std::string file_ending_with(const fs::path& folder, const std::string& ending) {
  std::string found;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(ending) && (found.empty() || name < found)) found = name;
  }
  return found;
}

void check_is_folder(const fs::path& path) {
  std::error_code code;
  if (fs::is_directory(path, code)) return;
  if (!fs::exists(path, code))
    throw Error("there is no such folder", path.string(),
                "give the folder of a model, or \"org/name\" of one in the "
                "Hugging Face cache");
  if (path.extension() == ".gguf")
    throw Error("is a GGUF file, which is not read", path.string(),
                "give a Hugging Face folder with safetensors weights");
  throw Error("is a file, not a folder", path.string(), "give the folder that holds config.json and the weights");
}

// A folder without safetensors weights of a layout that we read: say what is there instead.
[[noreturn]] void refuse_by_files(const fs::path& folder) {
  const std::string where = folder.string();
  if (const std::string gguf = file_ending_with(folder, ".gguf"); !gguf.empty())
    throw Error("holds GGUF weights (" + gguf + "), which are not read", where,
                "give a Hugging Face folder with safetensors weights");
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json"})
    if (has_file(folder, name))
      throw Error(std::string("holds PyTorch pickle weights (") + name + "), which are not read", where,
                  "save the model again with save_pretrained(..., safe_serialization=True)");
  if (const std::string bin = file_ending_with(folder, ".bin"); !bin.empty())
    throw Error("holds binary weights (" + bin + ") that are not safetensors", where,
                "give a folder with safetensors weights");
  for (const char* ending : {".pth", ".pt", ".ckpt"})
    if (const std::string name = file_ending_with(folder, ending); !name.empty())
      throw Error("holds PyTorch weights (" + name + "), which are not read", where,
                  "convert the model to a Hugging Face folder with safetensors weights");
  if (has_file(folder, "adapter_config.json"))
    throw Error("is an adapter (LoRA), not a model", where, "merge it into its base model and give that folder");
  if (has_file(folder, "params.json"))
    throw Error("is in its maker's own format (params.json), which is not read", where,
                "give the model's Hugging Face folder (config.json and model*.safetensors)");
  if (const std::string engine = file_ending_with(folder, ".engine"); !engine.empty())
    throw Error("is a built TensorRT engine (" + engine + "), not a checkpoint", where,
                "give the checkpoint folder that the engine was built from");
  if (!has_file(folder, "config.json"))
    throw Error("holds no config.json", where, "give the folder that holds config.json and the weights");
  throw Error("holds no safetensors weights", where,
              "a model folder holds model.safetensors, or shards with model.safetensors.index.json");
}

Layout quantized_layout(const Json& config, const fs::path& folder) {
  std::optional<std::string> method = hf_quant_method(config);
  if (!method && has_file(folder, "hf_quant_config.json")) method = "modelopt";
  if (!method) return Layout::huggingface;
  if (*method == "modelopt") return Layout::modelopt;
  if (*method == "compressed-tensors") return Layout::compressed_tensors;
  if (*method == "awq") return Layout::autoawq;
  throw Error("is quantized by a method that is not read (\"" + method->substr(0, 50) + "\")", folder.string(),
              "read are modelopt, compressed-tensors and awq; or give the unquantized model");
}

}  // namespace

Layout detect_layout(const fs::path& folder) {
  check_is_folder(folder);
  if (!has_file(folder, "config.json")) refuse_by_files(folder);
  const std::string where = (folder / "config.json").string();
  const Json config = read_strict_json(folder / "config.json");
  if (!config.is_object()) throw Error("should be a JSON object", where);
  if (config.contains("pretrained_config") && config.contains("build_config"))
    throw Error("is a built TensorRT engine, not a checkpoint", folder.string(),
                "give the checkpoint folder that the engine was built from");
  if (config.contains("architecture")) {
    if (!has_file(folder, "rank0.safetensors")) refuse_by_files(folder);
    return Layout::trtllm;
  }
  if (!config.contains("architectures"))
    throw Error("has neither \"architectures\" (a Hugging Face model) nor \"architecture\" (a TensorRT-LLM checkpoint)",
                where, "give the folder of a language model");
  const Layout layout = quantized_layout(config, folder);
  if (!has_file(folder, "model.safetensors") && !has_file(folder, "model.safetensors.index.json"))
    refuse_by_files(folder);
  return layout;
}

}  // namespace qg
