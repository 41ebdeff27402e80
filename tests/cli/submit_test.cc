// quantgrid submit without a cluster: the scripts, and a stand-in for sbatch.
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/json.h"
#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;
const std::string kGrid = "'" QG_SOURCE_DIR "/grids/trt-llm-45.toml'";

class Submit : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fresh_folder("submit");
    path_ = std::getenv("PATH");
  }
  void TearDown() override {
    setenv("PATH", path_.c_str(), 1);
    fs::remove_all(folder_);
  }
  void stand_in(const std::string& text) {
    write_text(folder_ / "bin/sbatch", "#!/bin/sh\n" + text);
    fs::permissions(folder_ / "bin/sbatch", fs::perms::owner_all);
    setenv("PATH", ((folder_ / "bin").string() + ":" + path_).c_str(), 1);
  }
  fs::path folder_;
  std::string path_;
};

TEST_F(Submit, DryRunWritesTheScripts) {
  const Outcome outcome =
      run_program("submit " + kGrid + " --slurm --dry-run --out fleet --filter 'gpu=h100,l4' --profile full", folder_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(fs::exists(folder_ / "fleet/h100.sbatch"));
  EXPECT_TRUE(fs::exists(folder_ / "fleet/l4.sbatch"));
  EXPECT_TRUE(fs::exists(folder_ / "fleet/merge.sbatch"));
  EXPECT_FALSE(fs::exists(folder_ / "fleet/a10.sbatch"));
  const std::string text = read_text(folder_ / "fleet/h100.sbatch");
  EXPECT_NE(text.find("#SBATCH --gres=gpu:h100:1"), std::string::npos);
  EXPECT_NE(text.find(QG_BINARY), std::string::npos);
  EXPECT_NE(text.find("--profile 'full'"), std::string::npos);
}

TEST_F(Submit, OtherEngines) {
  const std::string submit = "submit " + kGrid + " --slurm --dry-run --out fleet --filter gpu=h100 ";
  Outcome outcome = run_program(submit + "--engine tensorrt-llm --backend tensorrt --served --attempt", folder_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string text = read_text(folder_ / "fleet/h100.sbatch");
  EXPECT_NE(text.find(" --served --attempt --engine 'tensorrt-llm' --backend 'tensorrt'"), std::string::npos) << text;
  EXPECT_NE(text.find("--engine-dir \"engines/h100-$task\")"), std::string::npos) << text;
  EXPECT_NE(text.find("#SBATCH --gres=gpu:h100:1"), std::string::npos);
  EXPECT_EQ(std::system(("bash -n '" + (folder_ / "fleet/h100.sbatch").string() + "'").c_str()), 0);
  for (const auto& [flags, says] : {std::pair{"--engine tensorrt-llm", "none was named"},
                                    {"--engine openai", "needs no jobs"},
                                    {"--engine vllm --executor cpu", "native engine's"},
                                    {"--engine vllm --weights-from synth", "native engine's"},
                                    {"--attempt", "--attempt"},
                                    {"--engine sglang", "there is no engine"}}) {
    outcome = run_program(submit + flags, folder_);
    EXPECT_EQ(outcome.exit_code, 1) << flags;
    EXPECT_NE(outcome.err.find(says), std::string::npos) << flags << "\n" << outcome.err;
  }
}

TEST_F(Submit, JobsAndTheirMerge) {
  stand_in("echo \"$@\" >> '" + (folder_ / "asked").string() + "'\nn=$(wc -l < '" + (folder_ / "asked").string() +
           "')\necho $((100 + n))\n");
  const Outcome outcome = run_program("submit " + kGrid + " --slurm --out fleet --filter gpu=h100,l4 --json", folder_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["jobs"].dump(), R"({"h100":"101","l4":"102","merge":"103"})");
  EXPECT_NE(read_text(folder_ / "asked").find("--parsable --dependency=afterany:101:102 "), std::string::npos)
      << read_text(folder_ / "asked");
}

// Clusters have sbatch tell which account is billed, or that a partition is slow, while it takes the job.
TEST_F(Submit, WhatSbatchTellsBesideTheNumberIsNoFailure) {
  stand_in("echo 'sbatch: billed to project x' >&2\necho 'mind the maintenance on Monday'\necho 100\n");
  const Outcome outcome = run_program("submit " + kGrid + " --slurm --out fleet --filter gpu=h100 --json", folder_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["jobs"].dump(), R"({"h100":"100","merge":"100"})");
  EXPECT_NE(outcome.err.find("billed to project x"), std::string::npos) << outcome.err;
}

TEST_F(Submit, JobsThatAreInTheQueueAlreadyAreNamed) {
  const std::string asked = "'" + (folder_ / "asked").string() + "'";
  stand_in(
      "echo x >> " + asked + "\nn=$(wc -l < " + asked +
      ")\n[ $n -lt 3 ] || { echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }\necho $((100 + n))\n");
  const Outcome outcome = run_program("submit " + kGrid + " --slurm --out fleet --json", folder_);
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_NE(outcome.err.find("QOSMaxSubmitJobPerUserLimit"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("scancel 101 102,"), std::string::npos) << outcome.err;
}

// Options of a card that no task would have are a slip: the tasks of the card that was meant would ask for another.
TEST_F(Submit, OptionsOfACardWithoutCasesAreRefused) {
  const std::string submit = "submit " + kGrid + " --slurm --dry-run --out fleet --filter gpu=h100,l4 ";
  for (const auto& [flags, says] : {std::pair{"--gres a10=gpu:ampere:1", "--gres a10=gpu:ampere:1"},
                                    {"--gres h100=none --gres h200=gpu:hopper:1", "--gres h200=gpu:hopper:1"},
                                    {"--constraint a10=ib", "--constraint a10=ib"},
                                    {"--target l4 --gres h100=none", "--gres h100=none"}}) {
    const Outcome outcome = run_program(submit + flags, folder_);
    EXPECT_EQ(outcome.exit_code, 1) << flags;
    EXPECT_NE(outcome.err.find(says), std::string::npos) << flags << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find("no case"), std::string::npos) << flags << "\n" << outcome.err;
    EXPECT_FALSE(fs::exists(folder_ / "fleet")) << flags;
  }
  const Outcome fine = run_program(submit + "--gres h100=none --constraint l4=ib", folder_);
  EXPECT_EQ(fine.exit_code, 0) << fine.err;
}

TEST_F(Submit, WhatIsWrongIsSaid) {
  Outcome outcome = run_program("submit " + kGrid + " --out fleet", folder_);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("add --slurm"), std::string::npos) << outcome.err;
  outcome = run_program("submit " + kGrid + " --slurm --out 'my fleet'", folder_);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_FALSE(fs::exists(folder_ / "my fleet"));
  EXPECT_EQ(run_program("submit " + kGrid + " --slurm --out f --gres h200x=gpu:1", folder_).exit_code, 1);
  EXPECT_EQ(run_program("submit " + kGrid + " --slurm --out f --filter gpu=cpu", folder_).exit_code, 1);
  stand_in("echo 'sbatch: error: invalid partition specified: nope' >&2\nexit 1\n");
  outcome = run_program("submit " + kGrid + " --slurm --out fleet --partition nope", folder_);
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_NE(outcome.err.find("invalid partition specified: nope"), std::string::npos) << outcome.err;
  stand_in("exit 127\n");
  outcome = run_program("submit " + kGrid + " --slurm --out fleet", folder_);
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_NE(outcome.err.find("sbatch is not installed here"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace qg
