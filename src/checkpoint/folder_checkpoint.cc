#include "checkpoint/folder_checkpoint.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>

#include "checkpoint/kv_scales.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"
#include "core/file.h"
#include "core/float.h"
#include "core/parallel.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

std::string names_of(const std::vector<DType>& dtypes) {
  std::string text;
  for (DType dtype : dtypes) text += (text.empty() ? "" : " or ") + std::string(to_string(dtype));
  return text;
}

}  // namespace

void TensorCheck::expect(const std::string& name, const Shape& shape, const std::vector<DType>& dtypes) {
  known_.insert(name);
  const StoredTensor* stored = tensors_.find(name);
  if (!stored) {
    problem("tensor " + name + " is missing");
    return;
  }
  if (stored->shape != shape)
    problem("tensor " + name + " has shape " + to_string(stored->shape) + ", config.json asks for " + to_string(shape));
  if (std::find(dtypes.begin(), dtypes.end(), stored->dtype) == dtypes.end())
    problem("tensor " + name + " is " + std::string(to_string(stored->dtype)) + ", should be " + names_of(dtypes));
}

void TensorCheck::finish(const std::string& folder) {
  for (const std::string& name : tensors_.names())
    if (!known_.contains(name)) problem("tensor " + name + " is not part of this architecture");
  if (problems_.empty()) return;
  std::string text = problems_.front();
  if (problems_.size() > 1) text += " (and " + std::to_string(problems_.size() - 1) + " more problems)";
  throw Error(text, folder, "config.json and weights must belong together: fetch or make the folder again");
}

void FolderCheckpoint::check_tied_head(TensorCheck& check) const {
  constexpr const char* kHead = "lm_head.weight";
  const std::string& embedding = table_.find(TensorRole::embedding)->hf_name;
  check.allow(kHead);
  if (!tensors_.find(kHead) || !tensors_.find(embedding)) return;
  const Tensor head = tensors_.get(kHead), shared = tensors_.get(embedding);
  if (head.dtype != shared.dtype || head.shape != shared.shape ||
      std::memcmp(head.data, shared.data, head.bytes()) != 0)
    check.problem("config.json ties lm_head to the embedding, but lm_head.weight is stored and differs");
}

void FolderCheckpoint::allow_rope_frequencies(TensorCheck& check) const {
  for (int64_t layer = 0; layer < table_.shape.layers; ++layer)
    check.allow("model.layers." + std::to_string(layer) + ".self_attn.rotary_emb.inv_freq");
}

Tensor convert_dtype(const Tensor& tensor, DType to, const std::string& where) {
  if (tensor.dtype == to) return tensor;
  const size_t from_size = size_bytes(tensor.dtype), to_size = size_bytes(to);
  NewTensor made = new_tensor(to, tensor.shape);
  std::atomic<bool> overflow = false;
  constexpr int64_t kPiece = 1 << 16;
  parallel_for(tensor.elements(), kPiece, [&](int64_t begin, int64_t end) {
    const auto count = static_cast<size_t>(end - begin);
    std::vector<float> before(count), after(count);
    std::byte* out = made.data + static_cast<size_t>(begin) * to_size;
    f32_from_any(tensor.dtype, tensor.data + static_cast<size_t>(begin) * from_size, before.data(), count);
    any_from_f32(to, before.data(), out, count);
    f32_from_any(to, out, after.data(), count);
    for (size_t i = 0; i < count; ++i)
      if (std::isfinite(before[i]) && !std::isfinite(after[i])) overflow = true;
  });
  if (overflow)
    throw Error("holds values that overflow " + std::string(to_string(to)), where, "store the model as BF16 or F32");
  return made.tensor;
}

Tensor row_range(const Tensor& matrix, int64_t begin, int64_t rows) {
  const size_t row_bytes = static_cast<size_t>(matrix.shape.at(1)) * size_bytes(matrix.dtype);
  return {matrix.dtype, {rows, matrix.shape[1]}, matrix.data + static_cast<size_t>(begin) * row_bytes, matrix.owner};
}

void write_index_beside_kv_scales(const fs::path& folder, const std::vector<TensorEntry>& entries) {
  if (!fs::exists(folder / kKvScalesFile)) return;
  std::map<std::string, std::string> names;
  size_t bytes = 0;
  for (const TensorEntry& entry : entries) {
    names[entry.name] = "model.safetensors";
    bytes += static_cast<size_t>(num_elements(entry.shape)) * size_bytes(entry.dtype);
  }
  const Json index{{"metadata", {{"total_size", bytes}}}, {"weight_map", names}};
  write_file(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

Json token_ids_of(const fs::path& folder) {
  Json ids = Json::object();
  for (const char* file : {"config.json", "generation_config.json"}) {
    if (!fs::is_regular_file(folder / file)) continue;
    Json config;
    try {
      config = read_strict_json(folder / file);
    } catch (const Error&) {  // not worth the loss of what was computed: generation_config.json is copied as it is
      continue;
    }
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
      if (!config.is_object() || !config.contains(key) || ids.contains(key)) continue;
      const Json& value = config[key];
      const auto number = [](const Json& one) { return one.is_number_integer(); };
      if (number(value) || (value.is_array() && !value.empty() && std::all_of(value.begin(), value.end(), number)))
        ids[key] = value;
    }
  }
  return ids;
}

void copy_side_files(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                           "tokenizer.model", "generation_config.json", "chat_template.jinja", "chat_template.json"}) {
    if (!fs::is_regular_file(from / name)) continue;
    write_file(to / name, read_file(from / name));
  }
}

}  // namespace qg
