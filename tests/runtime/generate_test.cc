// The verb `generate`, run as a person runs it.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/json.h"

namespace qg {
namespace {

struct CommandResult {
  int code = -1;
  std::string out;  // standard output; standard error too with "2>&1"
};

const std::string kModel = std::string(QG_SOURCE_DIR) + "/tests/golden/models/llama-gqa3-tied-fp16";

CommandResult generate(const std::string& arguments, const std::string& model = kModel) {
  const std::string command = std::string(QG_BINARY) + " generate --model '" + model + "' " + arguments;
  CommandResult run;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return run;
  char buffer[4096];
  for (size_t n = 0; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) run.out.append(buffer, n);
  const int status = pclose(pipe);
  run.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return run;
}

TEST(Generate, JsonHoldsTheReplyAndTextIsTheSame) {
  const CommandResult json = generate("--prompt 'hello there' --max-tokens 7 --ignore-stop --json -q");
  ASSERT_EQ(json.code, 0);
  const Json reply = parse_json(json.out, "generate");
  EXPECT_EQ(reply.at("tokens").size(), 7u);
  EXPECT_EQ(reply.at("finish"), "length");
  EXPECT_EQ(reply.at("executor"), "cpu");
  EXPECT_EQ(reply.at("kv"), "fp16");
  EXPECT_GT(reply.at("prompt_tokens").get<int>(), 0);
  const CommandResult text = generate("--prompt 'hello there' --max-tokens 7 --ignore-stop -q");
  EXPECT_EQ(text.out, reply.at("text").get<std::string>() + "\n");
}

TEST(Generate, SeedDecidesAndPromptFileIsAPrompt) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "qg_generate_prompt.txt";
  std::ofstream(file) << "hello there";
  const auto drawn = [&](const std::string& prompt, int seed) {
    const CommandResult run =
        generate(prompt + " --max-tokens 12 --ignore-stop --temperature 3 --json -q --seed " + std::to_string(seed));
    EXPECT_EQ(run.code, 0);
    return run.code == 0 ? parse_json(run.out, "generate").at("tokens") : Json();
  };
  const Json first = drawn("--prompt 'hello there'", 1);
  EXPECT_EQ(first, drawn("--prompt-file '" + file.string() + "'", 1));
  EXPECT_NE(first, drawn("--prompt 'hello there'", 2));
  std::filesystem::remove(file);
}

TEST(Generate, SpeedGoesToStandardError) {
  const CommandResult quiet = generate("--prompt hello --max-tokens 3 2>/dev/null");
  EXPECT_EQ(quiet.out.find("tokens/s"), std::string::npos);
  EXPECT_NE(generate("--prompt hello --max-tokens 3 2>&1").out.find("tokens/s"), std::string::npos);
}

TEST(Generate, SaysWhatIsWrong) {
  const auto expect = [](const std::string& arguments, int code, const std::string& words) {
    const CommandResult run = generate(arguments + " 2>&1");
    EXPECT_EQ(run.code, code) << arguments;
    EXPECT_NE(run.out.find(words), std::string::npos) << arguments << " says: " << run.out;
  };
  expect("--prompt hi --executor cuda", 4, "no CUDA executor");
  expect("--prompt hi --gpu 0", 1, "--gpu");
  expect("", 1, "--prompt");
  expect("--prompt hi --max-tokens 1000000", 1, "max-tokens");
  expect("--prompt hi --kv int8", 1, "int8");
  expect("--prompt hi --kv fp7", 1, "--kv");
  expect("--prompt-file /nowhere/at/all", 1, "/nowhere/at/all");
  expect("--prompt hi --tokenizer /nowhere/at/all", 1, "/nowhere/at/all");
  expect("--chat --prompt hi", 1, "chat template");
  expect("--prompt hi --system x", 1, "--chat");
}

}  // namespace
}  // namespace qg
