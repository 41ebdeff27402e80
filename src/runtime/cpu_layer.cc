#include "runtime/cpu_layer.h"

#include <fmt/format.h>

#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/attention/run.h"
#include "kernels/kvcache/run.h"
#include "kernels/kvcache/shaping.h"
#include "runtime/cpu_forward.h"

namespace qg {
namespace {

std::vector<float> load_norm(const Checkpoint& checkpoint, TensorRole role, int layer) {
  const TensorSpec* spec = checkpoint.table().find(role, layer);
  if (!spec)
    throw Error(fmt::format("the model has no {}", to_string(role)), checkpoint.folder().string(),
                "the architecture's table must name it");
  return to_f32(checkpoint.tensor(*spec));
}

// K or V of all rows, stored in the cache's format and read back.
void through_cache(KvFormat format, float scale, float* x, int64_t stride, int64_t rows, int64_t width) {
  std::vector<std::byte> stored(static_cast<size_t>(width * element_bytes(format)));
  for (int64_t i = 0; i < rows; ++i) {
    kv_encode(format, scale, x + i * stride, stored.data(), width);
    kv_decode(format, scale, stored.data(), x + i * stride, width);
  }
}

// Shaped keys of all rows, stored and read back: they stay in the space of the shaped queries.
void shaped_through_cache(const ModelShape& shape, KvFormat format, const KvLayerStorage& storage, float* k,
                          int64_t stride, int64_t rows) {
  parallel_for(rows, 32, [&](int64_t begin, int64_t end) {
    std::vector<std::byte> stored(static_cast<size_t>(shape.head_dim));
    std::vector<float> scratch(stored.size());
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t head = 0; head < shape.kv_heads; ++head) {
        float* x = k + i * stride + head * shape.head_dim;
        store_shaped_key(*storage.shaping, format, storage.scale.k, head, shape.head_dim, x, stored.data(),
                         scratch.data());
        kv_decode(format, storage.scale.k, stored.data(), x, shape.head_dim);
      }
    }
  });
}

std::vector<int64_t> positions_of(std::span<const int64_t> lengths) {
  std::vector<int64_t> positions;
  for (const int64_t length : lengths)
    for (int64_t i = 0; i < length; ++i) positions.push_back(i);
  return positions;
}

AttentionDesc dense_desc(const ModelShape& shape) {
  AttentionDesc desc;
  desc.heads = shape.heads;
  desc.kv.kv_heads = shape.kv_heads;
  desc.kv.head_dim = shape.head_dim;
  desc.sliding_window = shape.sliding_window;
  desc.score_scale = attention_score_scale(shape);
  return desc;
}

}  // namespace

ComputePath CpuLinear::run(const float* x, int64_t m, float* y, const InputJudge& judge) const {
  return run_linear_reference(describe_linear(weights, activations, m), linear_params(weights, x, y), judge);
}

std::vector<float> CpuLinear::dequantized() const {
  std::vector<float> out(static_cast<size_t>(weights.n * weights.k));
  dequantize_rows(describe_linear(weights, activations, 0), linear_params(weights, nullptr, nullptr), 0, weights.n,
                  out.data());
  return out;
}

int64_t CpuLinear::bytes() const {
  int64_t total = 0;
  for (const Tensor* t :
       {&weights.weight, &weights.weight_scale, &weights.zero_point, &weights.input_scale, &weights.prequant_scale})
    if (!t->empty()) total += static_cast<int64_t>(t->bytes());
  return total;
}

const CpuLinear& CpuLayer::linear(LinearRole role) const {
  switch (role) {
    case LinearRole::qkv:
      return qkv;
    case LinearRole::attention_output:
      return attention_output;
    case LinearRole::gate:
      return gate;
    case LinearRole::up:
      return up;
    case LinearRole::down:
      return down;
  }
  throw Error("unknown linear layer");
}

CpuLinear& CpuLayer::linear(LinearRole role) {
  return const_cast<CpuLinear&>(std::as_const(*this).linear(role));
}

int64_t CpuLayer::bytes() const {
  const int64_t norms = static_cast<int64_t>((attention_norm.size() + mlp_norm.size()) * sizeof(float));
  return norms + qkv.bytes() + attention_output.bytes() + gate.bytes() + up.bytes() + down.bytes();
}

std::vector<KvScale> kv_scales_for(const Checkpoint& checkpoint, KvFormat format) {
  const size_t layers = static_cast<size_t>(checkpoint.table().shape.layers);
  if (format == KvFormat::fp16) return std::vector<KvScale>(layers);
  const std::vector<KvScale>& calibrated = checkpoint.kv_scales().of(format);
  if (calibrated.empty() && format == KvFormat::int8)
    throw Error("this checkpoint has no calibrated scales for an int8 KV cache", checkpoint.folder().string(),
                "make it with `quantgrid quantize`, which calibrates them, or use --kv fp16 or fp8");
  if (calibrated.empty()) return std::vector<KvScale>(layers);
  if (calibrated.size() != layers)
    throw Error(fmt::format("KV scales for {} layers, the model has {}", calibrated.size(), layers),
                checkpoint.folder().string(), "calibrate the KV scales again");
  return calibrated;
}

std::vector<KvLayerStorage> kv_storage_for(const Checkpoint& checkpoint, KvFormat format) {
  std::vector<KvLayerStorage> storage;
  for (const KvScale& scale : kv_scales_for(checkpoint, format)) storage.push_back({scale, nullptr});
  const std::vector<KvShaping>& shaping = checkpoint.kv_scales().shaping;
  if (format == KvFormat::fp16 || shaping.empty()) return storage;
  if (shaping.size() != storage.size())
    throw Error(fmt::format("KV shaping for {} layers, the model has {}", shaping.size(), storage.size()),
                checkpoint.folder().string(), "calibrate the KV scales again");
  for (size_t i = 0; i < storage.size(); ++i)
    storage[i] = {{shaping[i].k_scale(format), storage[i].scale.v}, &shaping[i]};
  return storage;
}

CpuLinear load_cpu_linear(const Checkpoint& checkpoint, const LinearSpec& spec) {
  CpuLinear linear;
  linear.weights = checkpoint.linear(spec);
  const WeightFormat format = linear.weights.format;
  if (format == WeightFormat::fp8 || format == WeightFormat::int8_sq)
    linear.activations = checkpoint.quant().activations;
  linear_reference_path(describe_linear(linear.weights, linear.activations, 0));  // throws when it cannot be run
  return linear;
}

CpuLayer load_cpu_layer(const Checkpoint& checkpoint, int layer) {
  CpuLayer loaded;
  loaded.attention_norm = load_norm(checkpoint, TensorRole::attention_norm, layer);
  loaded.mlp_norm = load_norm(checkpoint, TensorRole::mlp_norm, layer);
  for (const LinearRole role :
       {LinearRole::qkv, LinearRole::attention_output, LinearRole::gate, LinearRole::up, LinearRole::down})
    loaded.linear(role) = load_cpu_linear(checkpoint, checkpoint.table().linear(role, layer));
  return loaded;
}

void embed_tokens(const Checkpoint& checkpoint, std::span<const int32_t> tokens, float* out) {
  const ModelShape& shape = checkpoint.table().shape;
  for (const int32_t token : tokens)
    if (token < 0 || token >= shape.vocab)
      throw Error(fmt::format("token {} is not in the vocabulary of {} tokens", token, shape.vocab), "",
                  "use the tokenizer of this model");
  const TensorSpec* spec = checkpoint.table().find(TensorRole::embedding);
  if (!spec) throw Error("the model has no embedding", checkpoint.folder().string());
  const Tensor table = checkpoint.tensor(*spec);
  embedding(table.dtype, table.data, tokens, out, shape.hidden);
}

void run_layer(const ModelShape& shape, const CpuLayer& layer, int layer_index, std::span<const int64_t> lengths,
               float* hidden, const Tap& tap, std::optional<KvFormat> kv, const KvLayerStorage& storage) {
  const int64_t rows = std::accumulate(lengths.begin(), lengths.end(), int64_t{0}), stride = shape.qkv_rows();
  const RopeTable rope = make_rope_table(rope_frequencies(shape), positions_of(lengths));
  const auto attention = [&](float* qkv, float* attended) {
    float *k = qkv + shape.q_rows(), *v = k + shape.kv_rows();
    if (kv && storage.shaping) {
      shape_queries(*storage.shaping, shape.heads, shape.kv_heads, shape.head_dim, qkv, stride, rows);
      shaped_through_cache(shape, *kv, storage, k, stride, rows);
    } else if (kv) {
      through_cache(*kv, storage.scale.k, k, stride, rows, shape.kv_rows());
    }
    if (kv) through_cache(*kv, storage.scale.v, v, stride, rows, shape.kv_rows());
    run_dense_attention(dense_desc(shape), {qkv, k, v, stride, stride, lengths, attended});
  };
  LayerBuffers buffers;
  forward_layer({shape, layer, layer_index, rows, rope, tap, attention, nullptr}, buffers, hidden);
}

CpuHead load_cpu_head(const Checkpoint& checkpoint) {
  const ModelTable& table = checkpoint.table();
  const TensorSpec* spec = table.find(TensorRole::lm_head);
  if (!spec) spec = table.find(TensorRole::embedding);  // tied
  if (!spec) throw Error("the model has neither lm_head nor embedding", checkpoint.folder().string());
  CpuHead head;
  head.final_norm = load_norm(checkpoint, TensorRole::final_norm, -1);
  head.lm_head.weights.weight = checkpoint.tensor(*spec);
  head.lm_head.weights.n = table.shape.vocab;
  head.lm_head.weights.k = table.shape.hidden;
  return head;
}

void run_head(const ModelShape& shape, const CpuHead& head, const float* hidden, int64_t m, float* logits) {
  std::vector<float> normed(static_cast<size_t>(m * shape.hidden));
  rms_norm(hidden, head.final_norm.data(), shape.norm_epsilon, normed.data(), m, shape.hidden);
  head.lm_head.run(normed.data(), m, logits);
}

}  // namespace qg
