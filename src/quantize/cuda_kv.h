#pragma once
// The KV cache's calibration of one layer on a GPU: KvCollector and KvShapingCollector on device memory.
#include <future>
#include <span>
#include <vector>

#include "core/model_shape.h"
#include "kernels/quantize/cuda_kv_statistics.h"
#include "quantize/kv_shaping.h"
#include "quantize/layer_result.h"

namespace qg {

// What attention read of one chunk of whole sequences.
struct CudaKvChunk {
  const __half* q = nullptr;     // [rows, q_rows], after RoPE
  const __half* keys = nullptr;  // [rows, kv_rows], after RoPE
  const __half* values = nullptr;
  int64_t value_stride = 0;  // elements from row to row, of which values are the last
  int64_t first_row = 0;     // of the chunk, among all calibration rows
  std::span<const int64_t> lengths;
};

class CudaKvCollector {
 public:
  // Takes its device memory now. lengths: of all sequences.
  CudaKvCollector(const ModelShape& shape, const std::vector<int64_t>& lengths, const CudaQueue& queue);

  // attention_output: half [hidden, q_rows], of the layer that begins. Waits for the device.
  void begin_layer(const __half* attention_output);
  void add(const CudaKvChunk& chunk);  // in order; does not wait
  // The layer's matrices are computed on the host beside what the caller does next; finish() waits for them. Nothing
  // may be added in between.
  void start_shaping();
  LayerKv finish();
  const std::vector<KeyStatistics>& statistics() const { return heads_; }  // of each KV head, since start_shaping()

 private:
  void read_sums();
  int64_t sampled_elements() const;  // of K or of V
  KvScale read_scale(KvFormat format);

  ModelShape shape_;
  CudaQueue queue_;
  int64_t rows_ = 0;
  std::vector<int32_t> sampled_rows_;  // whose keys are kept, of all rows
  DeviceBuffer sampled_list_, kept_;   // int32, half [sampled, kv_rows]
  DeviceBuffer sums_;                  // doubles of KvSums, one after the other
  KvSums view_;
  DeviceBuffer grams_, factors_;  // of the attention output, double and float [heads, head_dim, head_dim]
  DeviceBuffer scratch_;
  KvScratch parts_;
  DeviceBuffer key_values_, value_values_;  // float: every 61st element
  DeviceBuffer scalars_;                    // float: amax of K and V, largest shaped element
  DeviceBuffer column_max_, column_sums_;   // float and double [qkv_rows]: magnitudes, of which V's are read
  DeviceBuffer column_scratch_;
  DeviceBuffer errors_;              // double [kInt8ScaleSteps]
  DeviceBuffer center_, transform_;  // float, for the largest shaped element
  std::vector<KeyStatistics> heads_;
  std::future<KvShaping> shaping_;
};

}  // namespace qg
