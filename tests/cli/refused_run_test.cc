// A run that is refused leaves the folder as it was: no empty journal, no folder for it, and nobody's file is taken
// away.
#include <gtest/gtest.h>

#include <set>

#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const char* const kGrid = R"(models_dir = "models"
[models.tiny]
folder = "models/tiny"
[cases]
baseline = [[1, "tiny", "cpu", "fp16", "fp16"], [2, "tiny", "cpu", "fp16", "fp8"]]
must = [[3, "tiny", "cpu", "fp8", "fp16"]]
[[workloads]]
name = "decode/b1"
kind = "decode"
isl = 8
osl = 8
batch = 1
rounds = 2
)";

class RefusedRunTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fresh_folder("refused-run");
    write_text(folder_ / "grid.toml", kGrid);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder_))
      names.insert(entry.path().lexically_relative(folder_).string());
    return names;
  }
  void make_model() {
    ASSERT_EQ(run_program("synth llama-3.2-3b models/tiny --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 "
                          "--ffn 256 --vocab 320 --seed 4",
                          folder_)
                  .exit_code,
              0);
  }
  fs::path folder_;
};

TEST_F(RefusedRunTest, LeavesNothing) {
  struct Refused {
    const char* flags;
    const char* says;
  };
  for (const Refused& refused :
       {Refused{"", "the model's folder is not here"}, Refused{"--filter 'wieghts=fp8'", "wieghts"},
        Refused{"--filter number=9", "no case is left"}, Refused{"--points decode/b9", "decode/b9"},
        Refused{"--journal new/deep/j.jsonl", "the model's folder is not here"},
        Refused{"--engine openai --journal new/j.jsonl --base-url http://127.0.0.1:1", "cases are chosen"},
        Refused{"--engine openai --filter number=1 --base-url nonsense", "--base-url"},
        Refused{"--engine openai --filter number=1 --base-url http://127.0.0.1:1 --server-name 'A B'",
                "--server-name"}}) {
    const std::set<std::string> before = files();
    const Outcome run = run_program("run grid.toml " + std::string(refused.flags), folder_);
    EXPECT_EQ(run.exit_code, 1) << refused.flags << "\n" << run.err;
    EXPECT_NE(run.err.find(refused.says), std::string::npos) << refused.flags << "\n" << run.err;
    EXPECT_EQ(files(), before) << refused.flags;
  }
}

// Checkpoints are missing and the grid names no text to calibrate on.
TEST_F(RefusedRunTest, LeavesNoJournalWhereCheckpointsCannotBeMade) {
  make_model();
  const Outcome run = run_program("run grid.toml --filter number=3", folder_);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("--calib"), std::string::npos) << run.err;
  EXPECT_FALSE(fs::exists(folder_ / "grid.jsonl"));
}

TEST_F(RefusedRunTest, KeepsWhatWasThere) {
  fs::create_directories(folder_ / "empty");
  write_text(folder_ / "empty.jsonl", "");  // somebody's
  ASSERT_EQ(run_program("run grid.toml --journal empty.jsonl", folder_).exit_code, 1);
  ASSERT_EQ(run_program("run grid.toml --journal empty/j.jsonl", folder_).exit_code, 1);
  EXPECT_TRUE(fs::exists(folder_ / "empty.jsonl"));
  EXPECT_TRUE(fs::exists(folder_ / "empty"));
  EXPECT_FALSE(fs::exists(folder_ / "empty/j.jsonl"));

  make_model();
  ASSERT_EQ(run_program("run grid.toml --filter number=1 --journal j.jsonl", folder_).exit_code, 0);
  const std::string journal = read_text(folder_ / "j.jsonl");
  EXPECT_NE(journal.find("case_done"), std::string::npos);
  ASSERT_EQ(run_program("run grid.toml --filter number=3 --journal j.jsonl", folder_).exit_code, 1);
  EXPECT_EQ(read_text(folder_ / "j.jsonl"), journal);
}

}  // namespace
}  // namespace qg
