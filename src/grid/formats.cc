#include "grid/formats.h"

#include "core/error.h"

namespace qg {
namespace {

// fp8: one F32 scale for the weights and one for the activations of each linear layer. int4_awq: FP16 group scales in
// memory (F32 on disk) and an FP16 pre-quantization scale per input. int8_sq: an F32 scale per output channel, and an
// F32 smoothing factor per input where it cannot be folded into a norm (counted everywhere: 0.02 % too much).
constexpr std::array kWeightRows{
    WeightFormatSpec{WeightFormat::fp16, "FP16", "16-bit floating point, not quantized", 2, 0, 0, 0, 0, 0, false,
                     ComputePath::w16a16},
    WeightFormatSpec{WeightFormat::fp8, "FP8", "8-bit floating point (e4m3), weights and activations", 1, 8, 0, 0, 0, 0,
                     true, ComputePath::w8a8_fp8},
    WeightFormatSpec{WeightFormat::int4_awq, "W4A16 AWQ",
                     "4-bit integer weights in groups, unpacked to 16 bits for the multiplication", 0.5, 0, 0, 2, 2, 4,
                     false, ComputePath::w4a16},
    WeightFormatSpec{WeightFormat::int8_sq, "INT8 SmoothQuant", "8-bit integer weights and activations (W8A8)", 1, 0, 4,
                     0, 4, 0, true, ComputePath::w8a8_int8},
};

constexpr std::array kKvRows{
    KvFormatSpec{KvFormat::fp16, "FP16", "16-bit floating point"},
    KvFormatSpec{KvFormat::fp8, "FP8", "8-bit floating point (e4m3), one scale for K and one for V of each layer"},
    KvFormatSpec{KvFormat::int8, "INT8", "8-bit integer, one scale for K and one for V of each layer"},
};

}  // namespace

const WeightFormatSpec& weight_format_spec(WeightFormat format) {
  for (const WeightFormatSpec& row : kWeightRows)
    if (row.format == format) return row;
  throw Error("unknown weight format");
}

const KvFormatSpec& kv_format_spec(KvFormat format) {
  for (const KvFormatSpec& row : kKvRows)
    if (row.format == format) return row;
  throw Error("unknown KV format");
}

int64_t int4_group_size(const ModelShape& shape) {
  for (int64_t group : {128, 64, 32})
    if (shape.hidden % group == 0 && shape.q_rows() % group == 0 && shape.ffn % group == 0) return group;
  return 0;
}

}  // namespace qg
