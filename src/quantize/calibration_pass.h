#pragma once
// One layer over the whole calibration set, stage by stage, so that only one stage's activations are in memory at a
// time.
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/model_shape.h"
#include "runtime/cpu_layer.h"

namespace qg {

class CalibrationPass {
 public:
  // rows: a piece of the rows of one activation, [rows, width], in order.
  using Visitor = std::function<void(std::span<const float> values, int64_t rows)>;

  // hidden [sum(lengths), hidden]: the layer's input; becomes its output.
  CalibrationPass(const ModelShape& shape, const CpuLayer& layer, std::span<const int64_t> lengths,
                  std::vector<float>& hidden);

  void visit_attention_in(const Visitor& visitor) const;
  // One whole sequence: qkv [rows, qkv_rows], q and k after RoPE.
  using SequenceVisitor = std::function<void(const float* qkv, int64_t rows)>;
  // Runs qkv and attention; what attention reads goes to the visitor (may be empty).
  void attend(const SequenceVisitor& visitor);
  void visit_attention_out(const Visitor& visitor) const;
  void add_attention();  // hidden += attention_output(attention)
  void visit_mlp_in(const Visitor& visitor) const;
  void run_gate();
  void visit_mlp_act(const Visitor& visitor) const;
  void add_mlp();  // hidden += down(act)

 private:
  void each_sequence(const std::function<void(int64_t first_row, int64_t rows)>& fn) const;
  std::vector<float> normed(const std::vector<float>& weight, int64_t first_row, int64_t rows) const;
  std::vector<float> gated(int64_t first_row, int64_t rows) const;

  const ModelShape& shape_;
  const CpuLayer& layer_;
  std::span<const int64_t> lengths_;
  std::vector<float>& hidden_;
  std::vector<float> attention_;  // [rows, q_rows]
  std::vector<float> act_;        // [rows, ffn], or empty when it would be large: then it is computed again
};

}  // namespace qg
