#pragma once
// Makes the matrices by which one layer's keys are shaped before an 8-bit cache rounds them. What is minimized and why
// these matrices do it: docs/kv-cache-notes.md.
#include <cstdint>
#include <vector>

#include "core/model_shape.h"
#include "core/quant_spec.h"
#include "quantize/small_matrix.h"

namespace qg {

// What calibration knows about one KV head.
struct KeyStatistics {
  explicit KeyStatistics(int64_t head_dim);
  SmallMatrix query_gram;         // sum of weight * q q^T over queries of the head's group
  SmallMatrix key_moment;         // sum of weight * k k^T
  std::vector<double> key_sum;    // sum of weight * k
  double key_weight = 0;          // sum of weights
  std::vector<double> plain_sum;  // sum of k
};

// What of the activations is looked at, the same for every executor.
inline constexpr int64_t kSampledQueries =
    64;                                   // of a sequence: attention weights of all would take longer than the layer
inline constexpr int64_t kFirstKeys = 4;  // of each sequence, always sampled: the attention sink is an outlier
// Every so manieth key is sampled, beside those; the largest element of the sample sets the scales.
int64_t key_sample_stride(int64_t total_rows);

// L with L L^T = gram, where gram [head_dim, head_dim] = Wo^T Wo for the columns of one query head: |x L| is how far a
// change x of the head's output moves the layer's.
std::vector<float> output_factor(const SmallMatrix& gram);
// The matrices from the sums over `rows` keys of a layer's KV heads, without scales, for any place in the model's
// context (position_mean.h). Throws Error when sums of the activations overflowed.
KvShaping shaping_of(const std::vector<KeyStatistics>& calibrated, int64_t rows, const ModelShape& shape);
// largest: magnitude of a shaped key's element in the sample; 0: scales stay 1.
void set_shaped_scales(KvShaping& shaping, float largest);

// Sees one layer's queries, keys and values.
class KvShapingCollector {
 public:
  // attention_output: the layer's output matrix [hidden, q_rows]. total_rows: how many will come.
  KvShapingCollector(const ModelShape& shape, const std::vector<float>& attention_output, int64_t total_rows);

  // One whole sequence: qkv [rows, qkv_rows], q and k after RoPE. Throws Error when it holds NaN or infinity.
  void add(const float* qkv, int64_t rows);
  // Throws Error when sums of the activations overflowed.
  KvShaping finish() const;
  const std::vector<KeyStatistics>& statistics() const { return heads_; }  // of each KV head, so far

 private:
  // Adds to the statistics of one KV head what query head `head` tells; column_weights [rows] collects how much each
  // key matters.
  void add_queries(const float* qkv, int64_t rows, int64_t head, std::vector<float>& column_weights);
  void add_keys(const float* qkv, int64_t rows, int64_t kv_head, const std::vector<float>& weights);
  void keep_sample(const float* qkv, int64_t rows);

  ModelShape shape_;
  std::vector<std::vector<float>> output_factor_;  // of each query head
  std::vector<KeyStatistics> heads_;
  int64_t sample_stride_, rows_seen_ = 0;
  std::vector<float> sample_;  // keys, [sampled, kv_rows]
};

}  // namespace qg
