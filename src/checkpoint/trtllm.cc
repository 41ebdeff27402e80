#include "checkpoint/trtllm.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/kv_scales.h"
#include "checkpoint/trtllm_linear.h"
#include "checkpoint/trtllm_stored.h"
#include "checkpoint/trtllm_tensors.h"
#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// Whether lm_head is the embedding: it is not stored, or stored a second time.
bool lm_head_is_embedding(const TensorSet& tensors, const TrtllmConfig& config) {
  constexpr const char *kHead = "lm_head.weight", *kEmbedding = "transformer.vocab_embedding.weight";
  if (!tensors.find(rank_tensor_name(kHead, config.ranks, 0))) return true;
  if (!tensors.find(rank_tensor_name(kEmbedding, config.ranks, 0))) return false;
  RankRule head_rule, embedding_rule;
  head_rule.axis = 0;
  if (config.parallel_embedding) embedding_rule.axis = config.embedding_axis;
  const Tensor head = joined_tensor(tensors, kHead, head_rule, config.shape, config.ranks);
  const Tensor embedding = joined_tensor(tensors, kEmbedding, embedding_rule, config.shape, config.ranks);
  if (head.dtype != embedding.dtype || head.shape.size() != 2 || embedding.shape.size() != 2) return false;
  // Either may have rows of padding.
  const int64_t rows = std::min({head.shape[0], embedding.shape[0], config.shape.vocab});
  return head.shape[1] == embedding.shape[1] && rows == config.shape.vocab &&
         std::memcmp(head.data, embedding.data, row_range(head, 0, rows).bytes()) == 0;
}

ModelTable table_of(const TensorSet& tensors, TrtllmConfig& config,
                    const std::function<ModelTable(const ModelShape&)>& make_table) {
  if (lm_head_is_embedding(tensors, config))
    config.shape.tied_embeddings = true;
  else if (config.shape.tied_embeddings)
    throw Error("config.json says share_embedding_table, but lm_head.weight is stored and differs",
                tensors.where(rank_tensor_name("lm_head.weight", config.ranks, 0)));
  return make_table(config.shape);
}

class TrtllmCheckpoint final : public TrtllmStored {
 public:
  TrtllmCheckpoint(fs::path folder, ModelTable table, TensorSet tensors, const TrtllmConfig& config)
      : TrtllmStored(std::move(folder), std::move(table), std::move(tensors), config) {
    for (const TrtllmTensor& tensor : trtllm_tensors(table_, config_)) rules_[tensor.entry.name] = tensor.rule;
    check_tensors();
    kv_scales_ = fixes_kv(quant_) ? inner_kv_scales() : read_kv_scales(folder_, table_.shape);
  }

  Layout layout() const override { return Layout::trtllm; }

  Tensor tensor(const TensorSpec& spec) const override {
    const Tensor stored = whole(spec.trtllm_name);
    if (is_vocabulary(spec) && stored.shape.size() == 2 && stored.shape[0] > spec.shape[0])
      return row_range(stored, 0, spec.shape[0]);
    return stored;
  }

  LinearWeights linear(const LinearSpec& spec) const override {
    return decode_trtllm_linear(spec, quant_, [&](const std::string& name) { return whole(name); });
  }

  Tensor whole(const std::string& name) const override {
    const auto rule = rules_.find(name);
    return joined_tensor(tensors_, name, rule == rules_.end() ? RankRule() : rule->second, table_.shape, config_.ranks);
  }

 private:
  void check_tensors() {
    TensorCheck check(tensors_);
    const std::vector<TrtllmTensor> all = trtllm_tensors(table_, config_);
    for (int64_t rank = 0; rank < config_.ranks; ++rank) {
      const auto stored = [&](const std::string& name) { return rank_tensor_name(name, config_.ranks, rank); };
      for (const TrtllmTensor& tensor : all) {
        if (tensor.entry.name.ends_with(".kv_cache_scaling_factor")) continue;
        check.expect(stored(tensor.entry.name), with_padding(tensor, rank),
                     allowed_types(tensor.entry, quant_.weights));
      }
      if (table_.shape.tied_embeddings) check.allow(stored("lm_head.weight"));
      for (int layer = 0; layer < table_.shape.layers; ++layer) check_kv_tensors(layer, rank, check);
    }
    check.finish(folder_.string());
  }

  // The stored shape where the entry may be padded along its rows, else the entry's own.
  Shape with_padding(const TrtllmTensor& tensor, int64_t rank) const {
    const Shape wanted = rank_shape(tensor.rule, tensor.entry.shape, table_.shape, config_.ranks);
    const StoredTensor* stored = tensors_.find(rank_tensor_name(tensor.entry.name, config_.ranks, rank));
    if (!tensor.spec || !is_vocabulary(*tensor.spec) || !stored || stored->shape.size() != 2) return wanted;
    const int64_t shares = tensor.rule.axis == 0 ? config_.ranks : 1, vocab = tensor.entry.shape[0];
    const int64_t step = 64 * shares, rows = stored->shape[0] * shares;
    const bool fits = rows >= vocab && rows <= (vocab + step - 1) / step * step;
    return fits ? Shape{stored->shape[0], wanted[1]} : wanted;
  }

  // Writers differ: the bytes of e4m3 as I8, packed int4 as U8, scales in another float type.
  static std::vector<DType> allowed_types(const TensorEntry& entry, WeightFormat weights) {
    if (entry.dtype == DType::f8_e4m3) return {DType::f8_e4m3, DType::i8};
    if (entry.dtype == DType::i8 && weights == WeightFormat::int4_awq) return {DType::i8, DType::u8};
    return entry.dtype == DType::i8 || entry.name.ends_with(".weight") ? std::vector{entry.dtype} : kPlainTypes;
  }

  // The layer's scale, in one tensor or (newer writers) one for K and one for V.
  void check_kv_tensors(int layer, int64_t rank, TensorCheck& check) const {
    if (!fixes_kv(quant_)) return;
    const auto stored = [&](const std::string& name) { return rank_tensor_name(name, config_.ranks, rank); };
    const std::string prefix = parent_module(kv_scale_name(table_, layer));
    const bool pair = tensors_.find(stored(prefix + ".k_cache_scaling_factor")) != nullptr;
    check.allow(stored(prefix + ".kv_cache_rcp_scaling_factor"));  // 1 / scale, stored by some writers
    if (!pair || tensors_.find(stored(kv_scale_name(table_, layer))))
      check.expect(stored(kv_scale_name(table_, layer)), {1}, {DType::f32});
    for (const char* name : {".k_cache_scaling_factor", ".v_cache_scaling_factor"})
      if (pair) check.expect(stored(prefix + name), {1}, {DType::f32});
  }

  KvScales inner_kv_scales() const {
    std::vector<KvScale> list;
    const auto value = [&](const std::string& name) { return to_f32(whole(name)).at(0); };
    for (int layer = 0; layer < table_.shape.layers; ++layer) {
      const std::string prefix = parent_module(kv_scale_name(table_, layer));
      if (tensors_.find(rank_tensor_name(kv_scale_name(table_, layer), config_.ranks, 0)))
        list.push_back({value(kv_scale_name(table_, layer)), value(kv_scale_name(table_, layer))});
      else
        list.push_back({value(prefix + ".k_cache_scaling_factor"), value(prefix + ".v_cache_scaling_factor")});
    }
    KvScales scales;
    (quant_.fixed_kv == KvFormat::int8 ? scales.int8 : scales.fp8) = std::move(list);
    check_kv_scales(scales, table_.shape, folder_.string());
    return scales;
  }

  std::map<std::string, RankRule> rules_;
};

}  // namespace

std::string trtllm_weights_file(int64_t rank) {
  return "rank" + std::to_string(rank) + ".safetensors";
}

std::string rank_tensor_name(const std::string& name, int64_t ranks, int64_t rank) {
  return ranks == 1 ? name : "rank" + std::to_string(rank) + "/" + name;
}

Tensor joined_tensor(const TensorSet& tensors, const std::string& name, const RankRule& rule, const ModelShape& shape,
                     int64_t ranks) {
  if (ranks == 1) return tensors.get(name);
  std::vector<Tensor> parts;
  for (int64_t rank = 0; rank < ranks; ++rank) parts.push_back(tensors.get(rank_tensor_name(name, ranks, rank)));
  return join_ranks(rule, parts, shape, tensors.where(rank_tensor_name(name, ranks, 0)));
}

std::unique_ptr<Checkpoint> open_trtllm(const fs::path& folder, TrtllmConfig config,
                                        const std::function<ModelTable(const ModelShape&)>& make_table) {
  check_ranks(config.shape, config.quant, config.ranks);
  TensorSet tensors;
  for (int64_t rank = 0; rank < config.ranks; ++rank)
    tensors.add_file(folder / trtllm_weights_file(rank), rank_tensor_name("", config.ranks, rank));
  ModelTable table = table_of(tensors, config, make_table);
  return std::make_unique<TrtllmCheckpoint>(folder, std::move(table), std::move(tensors), config);
}

}  // namespace qg
