#include "runtime/cuda_model.h"

#include <fmt/format.h>

#include <atomic>
#include <cmath>

#include "core/error.h"
#include "core/float.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/progress.h"

namespace qg {
namespace {

const TensorSpec& spec_of(const Checkpoint& checkpoint, TensorRole role, int layer = -1) {
  const TensorSpec* spec = checkpoint.table().find(role, layer);
  if (!spec) throw Error(fmt::format("the model has no {}", to_string(role)), checkpoint.folder().string());
  return *spec;
}

std::unique_ptr<CudaLinear> load_linear(const Checkpoint& checkpoint, std::initializer_list<LinearRole> roles,
                                        int layer, CudaLinearContext& context, PartOrder order = PartOrder::joined) {
  std::vector<LinearWeights> parts;
  std::vector<const LinearWeights*> pointers;
  for (const LinearRole role : roles) parts.push_back(checkpoint.linear(checkpoint.table().linear(role, layer)));
  for (const LinearWeights& part : parts) pointers.push_back(&part);
  return std::make_unique<CudaLinear>(pointers, checkpoint.quant().activations, context, order);
}

DeviceBuffer upload(const void* from, size_t bytes) {
  DeviceBuffer buffer(bytes);
  QG_CUDA(cudaMemcpy(buffer.data(), from, bytes, cudaMemcpyHostToDevice));
  return buffer;
}

// What becomes of tensors that are stored in another type than they are computed in.
void tell_type(DType stored, DType computed) {
  if (stored == DType::bf16 && computed == DType::f16)
    info(
        "tensors stored in BF16 are computed in FP16: every value within its range is exact there down to 6e-5; a "
        "larger one than 65504 is refused (--dtype bf16 computes in BF16)");
  if (stored == DType::f16 && computed == DType::bf16)
    info("tensors stored in FP16 are computed in BF16: they are rounded from 11 bits to 8");
}

}  // namespace

DeviceBuffer upload_f32(std::span<const float> values) {
  return upload(values.data(), values.size_bytes());
}

DeviceBuffer upload_16(const Tensor& tensor, DType type, const std::string& name) {
  if (tensor.dtype == type) return upload(tensor.data, tensor.bytes());
  const float largest = type == DType::f16 ? 65504.0f : 3.3895314e38f;
  std::vector<uint16_t> bits(static_cast<size_t>(tensor.elements()));
  std::atomic<bool> overflow = false;
  parallel_for(tensor.elements(), 1 << 16, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(end - begin));
    f32_from_any(tensor.dtype, tensor.data + static_cast<size_t>(begin) * size_bytes(tensor.dtype), values.data(),
                 values.size());
    any_from_f32(type, values.data(), bits.data() + begin, values.size());
    for (const float value : values)
      if (!(std::fabs(value) <= largest)) overflow = true;
  });
  if (overflow && type == DType::f16)
    throw Error("a weight is beyond the range of fp16 (65504), in which the GPU engine computes", name,
                "use --dtype bf16 or --executor cpu, or convert the model with smaller weights");
  if (overflow)
    throw Error("a weight is beyond the range of bf16 (3.39e38), or not a number", name,
                "look for what is wrong with the model (`quantgrid inspect`)");
  return upload(bits.data(), bits.size() * sizeof(uint16_t));
}

CudaShaping upload_shaping(const KvShaping& shaping) {
  const auto half = [](const std::vector<float>& values, const char* name) {
    return upload_16(tensor_from_f32(values, {static_cast<int64_t>(values.size())}), DType::f16, name);
  };
  return {upload_f32(shaping.k_center), half(shaping.k_transform, "k_transform"),
          half(shaping.q_transform, "q_transform"), half(shaping.k_feedback, "k_feedback")};
}

CudaModel load_cuda_model(const Checkpoint& checkpoint, CudaLinearContext& context) {
  const ModelShape& shape = checkpoint.table().shape;
  tell_type(checkpoint.dtype(), context.type());
  CudaModel model;
  model.type = context.type();
  Progress progress("load", shape.layers + 2, "layers");
  for (int layer = 0; layer < shape.layers; ++layer) {
    stop_if_interrupted("from the start: loading was not finished");
    CudaLayer loaded;
    loaded.attention_norm =
        upload_f32(to_f32(checkpoint.tensor(spec_of(checkpoint, TensorRole::attention_norm, layer))));
    loaded.mlp_norm = upload_f32(to_f32(checkpoint.tensor(spec_of(checkpoint, TensorRole::mlp_norm, layer))));
    loaded.qkv = load_linear(checkpoint, {LinearRole::qkv}, layer, context);
    loaded.attention_output = load_linear(checkpoint, {LinearRole::attention_output}, layer, context);
    loaded.gate_up =
        load_linear(checkpoint, {LinearRole::gate, LinearRole::up}, layer, context, PartOrder::alternating);
    loaded.down = load_linear(checkpoint, {LinearRole::down}, layer, context);
    model.bytes += static_cast<int64_t>(loaded.attention_norm.bytes() + loaded.mlp_norm.bytes()) + loaded.qkv->bytes() +
                   loaded.attention_output->bytes() + loaded.gate_up->bytes() + loaded.down->bytes();
    model.layers.push_back(std::move(loaded));
    progress.advance();
  }
  const TensorSpec& embedding = spec_of(checkpoint, TensorRole::embedding);
  const Tensor table = checkpoint.tensor(embedding);
  if (table.dtype == model.type) {
    model.embedding = DeviceBuffer(table.bytes());
    context.upload().bytes(model.embedding.data(), table.data, table.bytes());
  } else {
    model.embedding = upload_16(table, model.type, embedding.hf_name);
  }
  progress.advance();
  model.final_norm = upload_f32(to_f32(checkpoint.tensor(spec_of(checkpoint, TensorRole::final_norm))));
  const TensorSpec* head = checkpoint.table().find(TensorRole::lm_head);
  LinearWeights lm_head;
  lm_head.weight = head ? checkpoint.tensor(*head) : table;
  lm_head.n = shape.vocab;
  lm_head.k = shape.hidden;
  const LinearWeights* part = &lm_head;
  model.lm_head = std::make_unique<CudaLinear>(std::span(&part, 1), ActivationScaling::none, context);
  model.bytes += static_cast<int64_t>(model.embedding.bytes() + model.final_norm.bytes()) + model.lm_head->bytes();
  progress.advance();
  model.bytes_read = context.upload().bytes_sent();
  context.upload().release();
  return model;
}

}  // namespace qg
