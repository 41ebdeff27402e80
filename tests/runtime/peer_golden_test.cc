// Quantized folders that other people's libraries made, run by the CPU executor: the logits that transformers (or the
// library itself) computes from them. scripts/golden/make_peer_golden.py made both.
#include <gtest/gtest.h>

#include "tests/runtime/cpu_models.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

struct PeerCase {
  const char* name;
  Layout layout;
  double error;  // allowed, of the largest logit
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
  const auto executor = test::make_executor(folder, fp8_cache ? KvFormat::fp8 : KvFormat::fp16);
  const double error = test::relative_error(test::run_chunked(*executor, tokens, 64), wanted);
  RecordProperty("relative_error", std::to_string(error));
  EXPECT_LT(error, GetParam().error);
}

INSTANTIATE_TEST_SUITE_P(Cases, PeerGolden,
                         testing::Values(PeerCase{"compressed-fp8", Layout::compressed_tensors, 2e-3},
                                         PeerCase{"compressed-fp8-kv", Layout::compressed_tensors, 2e-3},
                                         PeerCase{"compressed-fp8-dynamic", Layout::compressed_tensors, 2e-3},
                                         PeerCase{"compressed-int8", Layout::compressed_tensors, 2e-3},
                                         PeerCase{"compressed-int4", Layout::compressed_tensors, 2e-3},
                                         PeerCase{"compressed-int4-zeros", Layout::compressed_tensors, 2e-3},
                                         PeerCase{"modelopt-fp8", Layout::modelopt, 2e-3},
                                         PeerCase{"modelopt-fp8-kv", Layout::modelopt, 2e-3},
                                         PeerCase{"modelopt-int4-awq", Layout::modelopt, 2e-3},
                                         PeerCase{"modelopt-int8", Layout::modelopt, 2e-3},
                                         PeerCase{"trtllm-fp8-kv", Layout::trtllm, 2e-3},
                                         PeerCase{"trtllm-fp8-tp2", Layout::trtllm, 2e-3},
                                         PeerCase{"trtllm-int4-awq-tp2", Layout::trtllm, 2e-3},
                                         PeerCase{"trtllm-int8", Layout::trtllm, 2e-3}),
                         [](const auto& test) {
                           std::string name = test.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace qg
