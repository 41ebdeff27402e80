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

// Sees one layer's queries, keys and values.
class KvShapingCollector {
 public:
  // attention_output: the layer's output matrix [hidden, q_rows]. total_rows: how many will come.
  KvShapingCollector(const ModelShape& shape, const std::vector<float>& attention_output, int64_t total_rows);

  // One whole sequence: qkv [rows, qkv_rows], q and k after RoPE. Throws Error when it holds NaN or infinity.
  void add(const float* qkv, int64_t rows);
  // Throws Error when sums of the activations overflowed.
  KvShaping finish() const;

 private:
  // Adds to the statistics of one KV head what query head `head` tells; column_weights [rows] collects how much each
  // key matters.
  void add_queries(const float* qkv, int64_t rows, int64_t head, std::vector<float>& column_weights);
  void add_keys(const float* qkv, int64_t rows, int64_t kv_head, const std::vector<float>& weights);
  void keep_sample(const float* qkv, int64_t rows);

  ModelShape shape_;
  // Per query head: L with L L^T = Wo^T Wo, [head_dim, head_dim]: |x L| is how far a change x of the head's output
  // moves the layer's.
  std::vector<std::vector<float>> output_factor_;
  std::vector<KeyStatistics> heads_;
  int64_t sample_stride_, rows_seen_ = 0;
  std::vector<float> sample_;  // keys, [sampled, kv_rows]
};

}  // namespace qg
