// `quantgrid logits` as a script calls it: ids in, safetensors out, compared with transformers.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>

#include "tests/runtime/cpu_models.h"

namespace qg {
namespace {

using namespace test;

class LogitsVerb : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "quantgrid-logits-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path out() const { return folder_ / "logits.safetensors"; }

  // Exit code of the verb on a golden model with `ids` as the JSON text.
  int run(const std::string& ids, const std::string& flags = "") const {
    std::ofstream(folder_ / "ids.json") << ids;
    const std::string command = std::string(QG_BINARY) + " logits --model " + (golden_models() / kModel).string() +
                                " --tokens " + (folder_ / "ids.json").string() + " --out " + out().string() + " " +
                                flags + " 2> " + (folder_ / "error.txt").string();
    return WEXITSTATUS(std::system(command.c_str()));
  }

  std::vector<float> tensor(const std::string& name) const {
    const SafetensorsFile file(out());
    const StoredTensor* stored = file.find(name);
    return stored ? to_f32(file.view(*stored)) : std::vector<float>();
  }

  static std::string json_list(std::span<const int32_t> tokens) {
    std::string text;
    for (const int32_t token : tokens) text += (text.empty() ? "[" : ",") + std::to_string(token);
    return text + "]";
  }

  static constexpr const char* kModel = "mistral-window16-bf16";
  std::filesystem::path folder_;
};

TEST_F(LogitsVerb, OneListGivesOneTensorAsTransformersComputesIt) {
  const Golden golden = read_golden(kModel);
  ASSERT_EQ(run(json_list(golden.tokens)), 0);
  const std::vector<float> logits = tensor("logits");
  ASSERT_EQ(logits.size(), golden.logits.size());
  EXPECT_LT(relative_error(logits, golden.logits), 1e-5);
}

TEST_F(LogitsVerb, ListsGiveATensorEach) {
  const Golden golden = read_golden(kModel);
  const std::span<const int32_t> tokens = golden.tokens;
  ASSERT_EQ(run("[" + json_list(tokens.first(9)) + "," + json_list(tokens) + "]"), 0);
  ASSERT_EQ(tensor("logits.1").size(), golden.logits.size());
  EXPECT_LT(relative_error(tensor("logits.1"), golden.logits), 1e-5);
  std::vector<float> first(golden.logits.begin(),
                           golden.logits.begin() + 9 * static_cast<int64_t>(golden.logits.size() / tokens.size()));
  EXPECT_LT(relative_error(tensor("logits.0"), first), 1e-5);
}

TEST_F(LogitsVerb, KvChoosesTheCachesFormat) {
  const Golden golden = read_golden(kModel);
  ASSERT_EQ(run(json_list(golden.tokens), "--kv fp8"), 0);
  const auto executor = make_executor(golden_models() / kModel, KvFormat::fp8);
  EXPECT_EQ(tensor("logits"), run_chunked(*executor, golden.tokens, 16));
}

TEST_F(LogitsVerb, RefusesWrongIdsAndWritesNothing) {
  for (const char* ids :
       {"[1, -1]", "[1, 99999999]", "[1, 2.5]", "[]", "[[1], []]", "[[1], 2]", "{\"a\": 1}", "[1, 2", ""}) {
    EXPECT_EQ(run(ids), 1) << ids;
    EXPECT_FALSE(std::filesystem::exists(out())) << ids;
  }
  EXPECT_EQ(run("[1, 2]", "--kv int8"), 1) << "no calibrated scales";
}

}  // namespace
}  // namespace qg
