#include "runtime/compute_type.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace qg {
namespace {

TEST(ComputeType, Words) {
  EXPECT_EQ(parse_compute_type("fp16"), DType::f16);
  EXPECT_EQ(parse_compute_type("bf16"), DType::bf16);
  for (const char* word : {"", "f16", "BF16", "fp32", "auto"}) EXPECT_THROW(parse_compute_type(word), Error) << word;
}

// What is wrong, where, what to do.
std::string refusal(DType type, const std::string& executor, WeightFormat weights) {
  QuantSpec quant;
  quant.weights = weights;
  try {
    check_compute_type(type, executor, quant, "models/some");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::wrong_input);
    return e.what();
  }
  return "";
}

TEST(ComputeType, Bf16IsForUnquantizedWeightsOnAGpu) {
  for (const WeightFormat weights : kWeightFormats)
    for (const char* executor : {"cpu", "cuda"}) EXPECT_EQ(refusal(DType::f16, executor, weights), "");
  EXPECT_EQ(refusal(DType::bf16, "cuda", WeightFormat::fp16), "");
  for (const WeightFormat weights : {WeightFormat::fp8, WeightFormat::int4_awq, WeightFormat::int8_sq})
    for (const char* executor : {"cpu", "cuda"}) {
      const std::string text = refusal(DType::bf16, executor, weights);
      for (const std::string& part :
           {std::string(to_string(weights)), std::string("models/some"), std::string("--dtype")})
        EXPECT_NE(text.find(part), std::string::npos) << text;
    }
  EXPECT_NE(refusal(DType::bf16, "cpu", WeightFormat::fp16).find("float"), std::string::npos);
  EXPECT_NE(refusal(DType::f32, "cuda", WeightFormat::fp16), "");
}

}  // namespace
}  // namespace qg
