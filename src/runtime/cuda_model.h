#pragma once
// A checkpoint's weights on the device, repacked for the kernels. The file's own bytes are not kept.
#include <cuda_fp16.h>

#include <memory>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "kernels/kvcache/cuda.h"
#include "kernels/linear/cuda.h"

namespace qg {

struct CudaLayer {
  DeviceBuffer attention_norm, mlp_norm;  // float [hidden]
  std::unique_ptr<CudaLinear> qkv, attention_output, gate_up, down;
};

struct CudaModel {
  DType type = DType::f16;  // F16 or BF16: of the embedding, and of activations where they have 16 bits
  DeviceBuffer embedding;   // [vocab, hidden]
  std::vector<CudaLayer> layers;
  DeviceBuffer final_norm;
  std::unique_ptr<CudaLinear> lm_head;  // logits
  int64_t bytes = 0;                    // on the device
  int64_t bytes_read = 0;               // that went to the device, before repacking
};

// Layer by layer, with progress, in the context's type. Throws Error when a weight overflows it, when no kernel can run
// a layer, when there is not enough memory.
CudaModel load_cuda_model(const Checkpoint& checkpoint, CudaLinearContext& context);

// One layer's KvShaping on the device.
struct CudaShaping {
  DeviceBuffer k_center, k_transform, q_transform, k_feedback;
  CudaKvShaping view() const {
    return {k_center.as<float>(), k_transform.as<__half>(), q_transform.as<__half>(), k_feedback.as<__half>()};
  }
};
CudaShaping upload_shaping(const KvShaping& shaping);

// A tensor of floats on the device; a tensor of any float type as F16 or BF16 (throws Error when a value overflows).
DeviceBuffer upload_f32(std::span<const float> values);
DeviceBuffer upload_16(const Tensor& tensor, DType type, const std::string& name);

}  // namespace qg
