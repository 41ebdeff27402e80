// `quantgrid plan --emit` as a person types it (the program is QG_BINARY): what it writes, and one clear message for
// each wrong use.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const std::string kPlan = "plan '" QG_SOURCE_DIR "/grids/trt-llm-45.toml' ";

size_t scripts_in(const fs::path& dir) {
  size_t n = 0;
  for (const auto& entry : fs::directory_iterator(dir))
    if (entry.path().extension() == ".sh") ++n;
  return n;
}

TEST(EmitProgram, WritesAScriptForEachModelAndCard) {
  const fs::path folder = fresh_folder("emit-program");
  for (const char* engine : {"tensorrt-llm --backend tensorrt", "tensorrt-llm --backend pytorch", "vllm"}) {
    const std::string command = kPlan + "--engine " + engine + " --emit 'o u t'";
    const Outcome first = run_program(command, folder);
    EXPECT_EQ(first.exit_code, 0) << first.err;
    EXPECT_NE(first.out.find("15 scripts in o u t"), std::string::npos) << first.out;
    EXPECT_EQ(scripts_in(folder / "o u t"), 15u);
    const Outcome again = run_program(command, folder);
    EXPECT_EQ(again.exit_code, 1);
    EXPECT_NE(again.err.find("--force"), std::string::npos) << again.err;
    const Outcome forced = run_program(command + " --force", folder);
    EXPECT_EQ(forced.exit_code, 0) << forced.err;
    fs::remove_all(folder / "o u t");
  }
  fs::remove_all(folder);
}

TEST(EmitProgram, TheNativeEngineHasAScriptForEachCase) {
  const fs::path folder = fresh_folder("emit-native");
  const Outcome outcome = run_program(kPlan + "--emit out", folder);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(scripts_in(folder / "out"), 45u);
  fs::remove_all(folder);
}

TEST(EmitProgram, WrongUseIsOneClearMessage) {
  struct Wrong {
    const char* arguments;
    const char* expected;
  };
  const Wrong kWrong[] = {
      {"--engine trt --emit out", "there is no engine \"trt\""},
      {"--engine tensorrt-llm --emit out", "none was named"},
      {"--engine tensorrt-llm --backend cpp --emit out", "no back end \"cpp\""},
      {"--engine vllm --backend pytorch --emit out", "no back ends"},
      {"--engine openai --emit out", "is not driven by commands"},
      {"--engine vllm --emit file", "is a file, not a folder"},
      {"--engine vllm --force --emit file", "is a file, not a folder"},
      {"--engine vllm --emit file/below", "cannot be"},
      {"--engine vllm --emit /proc/none", "cannot be"},
      {"--engine vllm --force", "--emit"},
  };
  const fs::path folder = fresh_folder("emit-wrong");
  write_text(folder / "file", "mine");
  for (const Wrong& wrong : kWrong) {
    const Outcome outcome = run_program(kPlan + wrong.arguments, folder);
    EXPECT_EQ(outcome.exit_code, 1) << wrong.arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(wrong.expected), std::string::npos) << wrong.arguments << "\n" << outcome.err;
    EXPECT_FALSE(fs::exists(folder / "out")) << wrong.arguments;
  }
  EXPECT_EQ(read_text(folder / "file"), "mine");
  fs::remove_all(folder);
}

}  // namespace
}  // namespace qg
