#pragma once
// The steps of one layer, shared by the executor (paged cache) and by run_layer (whole sequences): they differ only in
// how attention finds K and V.
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kernels/pointwise/run.h"
#include "runtime/cpu_layer.h"
#include "runtime/rounding_judge.h"

namespace qg {

// What ran, for the record.
struct KernelsRan {
  std::set<std::string> names;
  std::map<ComputePath, int64_t> linear_weights;  // weights that went through each path, lm_head left out
};

// Buffers of a step, kept between layers.
struct LayerBuffers {
  std::vector<float> normed;     // [m, hidden]
  std::vector<float> qkv;        // [m, qkv_rows]
  std::vector<float> attended;   // [m, q_rows]
  std::vector<float> projected;  // [m, hidden]
  std::vector<float> gate, up;   // [m, ffn]
};

struct LayerPass {
  const ModelShape& shape;
  const CpuLayer& layer;
  int index;
  int64_t m;              // rows
  const RopeTable& rope;  // row r of the table is row r's position
  const Tap& tap;         // may be empty
  // Attention over the rows: qkv [m, qkv_rows], q and k after RoPE; may change them. Fills attended [m, q_rows].
  std::function<void(float* qkv, float* attended)> attention;
  KernelsRan* ran = nullptr;  // may be null
  RoundingJudge judge = {};   // may be empty
};

// hidden [m, hidden], in place.
void forward_layer(const LayerPass& pass, LayerBuffers& buffers, float* hidden);

// The score scale of attention: 1 / sqrt(head_dim).
double attention_score_scale(const ModelShape& shape);

}  // namespace qg
