#pragma once
// One quantized layer of one output, whatever computed it: what the checkpoint's writer takes and what the journal of
// finished layers keeps.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/model_shape.h"
#include "core/quant_spec.h"
#include "quantize/group.h"

namespace qg {

struct LayerResult {
  std::map<LinearRole, LinearWeights> linears;
  std::vector<float> attention_norm, mlp_norm;  // [hidden]
  // Of the groups of linear layers: relative errors of their outputs on sampled rows, and seconds spent.
  double error_sum = 0, worst_error = 0, seconds = 0;
  int64_t groups = 0;
  std::string worst_group;

  // Takes a group's layers. norm: the one that made its input and absorbs a scale of it, or null.
  void take(const std::vector<LinearRole>& roles, GroupResult result, std::vector<float>* norm,
            const std::string& group);
};

// The KV cache's calibration of one layer.
struct LayerKv {
  KvScale fp8, int8;
  KvShaping shaping;
  std::vector<float> value_max;  // [kv_rows]: largest magnitude of each channel of V
  std::vector<float> values;     // every kKvSampleStride-th element of V
};

// As tensors of a file, names beginning with `prefix`.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
void add_tensors(const LayerResult& result, const std::string& prefix, NamedTensors& to);
void add_tensors(const LayerKv& kv, NamedTensors& to);
// Throws Error when a tensor is missing. Views keep the file's map alive.
LayerResult read_layer_result(const SafetensorsFile& file, const std::string& prefix);
LayerKv read_layer_kv(const SafetensorsFile& file);

}  // namespace qg
