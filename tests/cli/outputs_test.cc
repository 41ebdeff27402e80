// Where results go to: closed and full outputs, and names that are not UTF-8.
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/json.h"
#include "record/journal.h"
#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

class Outputs : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fresh_folder("outputs");
    fs::copy(fs::path(QG_SOURCE_DIR) / "tests/golden/models/llama-gqa4-llama3rope-bf16", folder_ / "model",
             fs::copy_options::recursive);
    write_text(folder_ / "grid.toml", R"(models_dir = "models"
[models.tiny]
folder = "model"
[[product]]
models = ["tiny"]
gpus = ["l4"]
weights = ["fp16"]
kv = ["fp16"]
[[workloads]]
name = "decode/b1"
kind = "decode"
isl = 8
osl = 8
batch = 1
)");
  }
  void TearDown() override { fs::remove_all(folder_); }
  // The program's outputs are those of `shell`, which is a redirection.
  int run_into(const std::string& arguments, const std::string& shell) {
    return run_command("cd '" + folder_.string() + "' && '" QG_BINARY "' " + arguments + " " + shell).exit_code;
  }
  fs::path folder_;
};

// The journal would be opened as file 1 or 2, and take what is printed.
TEST_F(Outputs, AJournalIsWholeWhenOutputAndErrorAreClosed) {
  for (const std::string& closed : {std::string("2>&-"), std::string(">&- 2>&-"), std::string("<&- >&- 2>&-")}) {
    EXPECT_EQ(run_into("run grid.toml --executor cpu --journal j.jsonl --rerun", closed), 0) << closed;
    EXPECT_NO_THROW(read_journal(folder_ / "j.jsonl")) << closed << "\n" << read_text(folder_ / "j.jsonl");
  }
}

TEST_F(Outputs, AFullOutputIsAnError) {
  for (const char* arguments : {"devices --json", "--help", "--version", "plan grid.toml",
                                "plan '" QG_SOURCE_DIR "/grids/trt-llm-45.toml' --json"}) {
    EXPECT_EQ(run_into(arguments, ">/dev/full 2>said"), 1) << arguments;
    const std::string said = read_text(folder_ / "said");
    EXPECT_NE(said.find("standard output: cannot be written"), std::string::npos) << arguments << "\n" << said;
    EXPECT_NE(said.find("when that disk is full"), std::string::npos) << arguments << "\n" << said;
  }
}

// Latin-1 names: JSON cannot hold them, and must not throw the work away.
TEST_F(Outputs, NamesNeedNotBeUtf8) {
  const std::string odd = "'caf\xe9'";
  std::string text;
  for (int i = 0; i < 600; ++i) text += "word " + std::to_string(i) + " ";
  write_text(folder_ / "caf\xe9/t\xe9.txt", text);
  const auto json_of = [&](const std::string& arguments) {
    const Outcome outcome = run_program(arguments + " --json", folder_);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.exit_code == 0 ? parse_json(outcome.out, arguments) : Json();
  };
  EXPECT_EQ(json_of("convert --model model --layout trtllm --out " + odd + "/made")["out"], "caf\xef\xbf\xbd/made");
  json_of("synth llama-3.2-3b " + odd +
          "/synth --layers 1 --hidden 64 --heads 4 --kv-heads 2 --head-dim 16 --ffn 64 --vocab 300");
  json_of("quantize --model model --weights fp8 --calib " + odd +
          "/t*.txt --calib-sequences 4 --calib-tokens 32 --out " + odd + "/q");
  EXPECT_TRUE(fs::exists(folder_ / "caf\xe9/q/config.json"));
  json_of("eval --model " + odd + "/q --base model --windows 1 --window 16 --text " + odd + "/t*.txt");
  EXPECT_EQ(run_program("run grid.toml --executor cpu --journal " + odd + "/j.jsonl", folder_).exit_code, 0);
  json_of("merge -o " + odd + "/all.db " + odd + "/j.jsonl");
}

TEST_F(Outputs, AnEmptyNameIsRefusedBeforeTheWork) {
  const Outcome outcome = run_program("convert --model model --layout trtllm --out ''", folder_);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("name of the folder to make is empty"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace qg
