// Quantized folders that other people's libraries made, run by the CPU executor: the logits that transformers (or the
// library itself) computes from them. scripts/golden/make_peer_golden.py made both.
#include <gtest/gtest.h>

#include "tests/runtime/cpu_models.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// Two implementations add in another order, so now and then a value is rounded to the neighbouring code, and what
// follows differs by what a code is worth. Up to there they agree to float precision.
struct PeerCase {
  const char* name;
  Layout layout;
  double first_tokens = 1e-5;  // allowed error of the first five tokens, of the largest logit
  double all_tokens = 1e-5;    // of all 40
};

std::ostream& operator<<(std::ostream& out, const PeerCase& c) {
  return out << c.name;
}

class PeerGolden : public testing::TestWithParam<PeerCase> {};

TEST_P(PeerGolden, ComputesTheSameLogits) {
  const fs::path folder = fs::path(QG_SOURCE_DIR) / "tests/golden/peers" / GetParam().name;
  const SafetensorsFile golden(folder / "golden.safetensors");
  const Tensor ids = golden.view(*golden.find("token_ids"));
  const std::vector<int32_t> tokens(ids.as<int32_t>(), ids.as<int32_t>() + ids.elements());
  const std::vector<float> wanted = to_f32(golden.view(*golden.find("logits")));
  const bool fp8_cache = golden.metadata().at("kv") == "fp8";
  EXPECT_EQ(open_model(folder)->layout(), GetParam().layout);
  EXPECT_EQ(open_model(folder)->quant().fixed_kv.has_value(), fp8_cache);
  // Without an 8-bit cache K and V stay in float, as they do there.
  std::vector<float> logits = fp8_cache ? test::run_chunked(*test::make_executor(folder, KvFormat::fp8), tokens, 64)
                                        : test::run_dense(folder, tokens);
  ASSERT_EQ(logits.size(), wanted.size());
  const double all = test::relative_error(logits, wanted);
  std::copy(wanted.begin() + static_cast<int64_t>(5 * wanted.size() / tokens.size()), wanted.end(),
            logits.begin() + static_cast<int64_t>(5 * wanted.size() / tokens.size()));
  const double first = test::relative_error(logits, wanted);
  RecordProperty("errors", std::to_string(first) + " " + std::to_string(all));
  EXPECT_LT(first, GetParam().first_tokens);
  EXPECT_LT(all, GetParam().all_tokens);
}

// compressed-tensors takes a token's largest value for 127.5 of a step where vLLM's kernels and ours take it for 127:
// the same format, other steps. Its zero points are read by transformers through F16.
INSTANTIATE_TEST_SUITE_P(
    Cases, PeerGolden,
    testing::Values(PeerCase{"compressed-fp8", Layout::compressed_tensors},
                    PeerCase{"compressed-fp8-kv", Layout::compressed_tensors},
                    PeerCase{"compressed-fp8-dynamic", Layout::compressed_tensors},
                    PeerCase{"compressed-int8", Layout::compressed_tensors, 0.06, 0.1},
                    PeerCase{"compressed-int4", Layout::compressed_tensors},
                    PeerCase{"compressed-int4-zeros", Layout::compressed_tensors, 1e-3, 2e-3},
                    PeerCase{"modelopt-fp8", Layout::modelopt}, PeerCase{"modelopt-fp8-kv", Layout::modelopt},
                    PeerCase{"modelopt-int4-awq", Layout::modelopt},
                    PeerCase{"modelopt-int8", Layout::modelopt, 1e-5, 0.05}, PeerCase{"trtllm-fp8-kv", Layout::trtllm},
                    PeerCase{"trtllm-fp8-tp2", Layout::trtllm, 1e-5, 0.06},
                    PeerCase{"trtllm-int4-awq-tp2", Layout::trtllm}, PeerCase{"trtllm-int8", Layout::trtllm}),
    [](const auto& test) {
      std::string name = test.param.name;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace qg
