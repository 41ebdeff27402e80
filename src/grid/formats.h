#pragma once
// What a weight format or a KV format is in words and in bytes: one row each.
#include <cstdint>
#include <string_view>

#include "core/format.h"
#include "core/model_shape.h"

namespace qg {

struct WeightFormatSpec {
  WeightFormat format;
  std::string_view label;        // "W4A16 AWQ"
  std::string_view description;  // one line for people
  double weight_bytes;           // bytes of one weight of a linear layer, scales apart
  double tensor_scale_bytes;     // bytes of scale for each linear layer
  double channel_scale_bytes;    // bytes of scale for each output channel of a linear layer
  double group_scale_bytes;      // bytes of scale for each group of inputs of each output channel; 0: no groups
  double input_scale_bytes;  // bytes of scale for each input channel (AWQ's and SmoothQuant's pre-quantization scale)
  double disk_group_scale_bytes;  // as group_scale_bytes, in the TensorRT-LLM layout (F32 there, FP16 in memory)
  bool eight_bit_activations;     // W8A8
  ComputePath native_path;        // on a card that has the arithmetic
};
const WeightFormatSpec& weight_format_spec(WeightFormat format);

struct KvFormatSpec {
  KvFormat format;
  std::string_view label;  // "FP8"
  std::string_view description;
};
const KvFormatSpec& kv_format_spec(KvFormat format);

// The greatest of 128, 64, 32 that divides the inputs of every linear layer; 0 when none does.
int64_t int4_group_size(const ModelShape& shape);

}  // namespace qg
