// The scripts that Slurm gets: golden files for the 45 cases, their syntax, and what must not get into them.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "fleet/slurm.h"

namespace qg {
namespace {

const std::filesystem::path kSource = QG_SOURCE_DIR;

SlurmOptions options_of_test() {
  SlurmOptions options;
  options.program = "/shared/bin/quantgrid-cuda";
  options.grid = "/shared/grids/trt-llm-45.toml";
  options.out = "/shared/fleet";
  options.run_flags = {"--profile", "full", "--model-dir", "/shared/my models"};
  options.time_limit = "08:00:00";
  options.partition = "gpu";
  options.constraints = {{"a10", "a10&ib"}};
  options.gres = {{"h100", "gpu:hopper:1"}};
  options.more = {"--qos=long"};
  return options;
}

std::vector<SlurmArray> arrays_of_plan() {
  return slurm_arrays(load_grid(kSource / "grids/trt-llm-45.toml").cases);
}

void expect_golden(const std::string& name, const std::string& text) {
  const std::filesystem::path file = kSource / "tests/golden/fleet" / name;
  if (std::getenv("QG_UPDATE_GOLDEN")) write_file(file, text);
  EXPECT_EQ(text, read_file(file)) << "QG_UPDATE_GOLDEN=1 writes it anew";
}

bool bash_takes(const std::string& text) {
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "quantgrid-slurm-test.sh";
  write_file(file, text);
  const bool fine = std::system(("bash -n '" + file.string() + "'").c_str()) == 0;
  std::filesystem::remove(file);
  return fine;
}

TEST(Slurm, AnArrayForEachCardATaskForEachModel) {
  const std::vector<SlurmArray> arrays = arrays_of_plan();
  ASSERT_EQ(arrays.size(), 5u);
  size_t cases = 0;
  for (const SlurmArray& array : arrays) {
    EXPECT_EQ(array.tasks.size(), 3u) << array.card;
    for (const SlurmArray::Task& task : array.tasks) cases += task.numbers.size();
  }
  EXPECT_EQ(cases, 45u);
  EXPECT_EQ(arrays[2].card, "h100");
  EXPECT_EQ(arrays[2].tasks[1].model, "llama-3.1-8b");
  EXPECT_EQ(arrays[2].tasks[1].numbers, (std::vector<int>{15, 16, 32}));
}

TEST(Slurm, ScriptsAreTheGoldenOnes) {
  const SlurmOptions options = options_of_test();
  for (const SlurmArray& array : arrays_of_plan()) {
    const std::string text = array_script(array, options);
    EXPECT_TRUE(bash_takes(text)) << text;
    if (array.card == "h100" || array.card == "a10") expect_golden(array.card + ".sbatch", text);
  }
  expect_golden("merge.sbatch", merge_script(options));
  EXPECT_TRUE(bash_takes(merge_script(options)));
}

TEST(Slurm, NoTwoMeasurementsShareACard) {
  SlurmOptions options = options_of_test();
  for (const SlurmArray& array : arrays_of_plan()) {
    const std::string text = array_script(array, options);
    EXPECT_NE(text.find("#SBATCH --exclusive\n"), std::string::npos);
    EXPECT_NE(text.find("#SBATCH --gres=gpu:"), std::string::npos);
  }
  options.exclusive = false;  // the card alone is still asked for
  EXPECT_NE(array_script(arrays_of_plan()[0], options).find("#SBATCH --gres=gpu:a100:1\n"), std::string::npos);
}

TEST(Slurm, TheProcessorAsksForNoCard) {
  SlurmOptions options = options_of_test();
  options.gres.clear();
  options.on_processor = true;
  const std::string text = array_script(arrays_of_plan()[2], options);
  EXPECT_EQ(text.find("--gres"), std::string::npos);
  EXPECT_NE(text.find("--executor 'cpu')"), std::string::npos);
  options.on_processor = false;
  const std::string cpu = array_script({"cpu", {{"m", {1}}}}, options);
  EXPECT_EQ(cpu.find("--gres"), std::string::npos);
  EXPECT_NE(cpu.find("--executor 'cpu')"), std::string::npos);
}

TEST(Slurm, SignsThatSlurmReadsOtherwiseAreRefused) {
  const SlurmArray array = arrays_of_plan()[0];
  const auto refused = [&](auto change) {
    SlurmOptions options = options_of_test();
    change(options);
    try {
      array_script(array, options);
    } catch (const Error&) {
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refused([](SlurmOptions&) {}));
  EXPECT_TRUE(refused([](SlurmOptions& o) { o.out = "/my folder"; }));
  EXPECT_TRUE(refused([](SlurmOptions& o) { o.out = "/%j"; }));
  EXPECT_TRUE(refused([](SlurmOptions& o) { o.partition = "gpu\n#SBATCH --uid=0"; }));
  EXPECT_TRUE(refused([](SlurmOptions& o) { o.time_limit = "1 day"; }));
  EXPECT_TRUE(refused([](SlurmOptions& o) { o.gres["a100"] = "gpu:1 --x"; }));
  EXPECT_TRUE(refused([](SlurmOptions& o) { o.more = {"rm -rf"}; }));
  EXPECT_TRUE(refused([](SlurmOptions& o) { o.more = {"--wrap=a b"}; }));
  // Paths in the script itself may hold anything.
  SlurmOptions odd = options_of_test();
  odd.program = "/it's/quant grid";
  const std::string text = array_script(array, odd);
  EXPECT_NE(text.find(R"('/it'\''s/quant grid')"), std::string::npos);
  EXPECT_TRUE(bash_takes(text));
  Case implied;
  EXPECT_THROW(slurm_arrays({implied}), Error);
}

// The time is up just when the program ends by itself: its status must not be lost, or the task would not go on.
TEST(Slurm, ATaskThatEndsWhileItIsToldToStopGoesOn) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("quantgrid-slurm-task-" + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  SlurmOptions options = options_of_test();
  options.out = folder;
  options.program = folder / "program";
  std::filesystem::create_directories(folder);
  write_file(folder / "program", "#!/bin/sh\ntrap '' TERM\nkill -USR1 $PPID\nexit 75\n");
  std::filesystem::permissions(folder / "program", std::filesystem::perms::owner_all);
  // The trap is made slow, so that the program has ended when it is done.
  write_file(folder / "task.sh",
             "kill() { sleep 0.5; builtin kill \"$@\"; }\nscontrol() { echo \"$@\" > asked; }\n"
             "SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_JOB_ID=7\n" +
                 array_script(arrays_of_plan()[0], options));
  EXPECT_EQ(WEXITSTATUS(std::system(("bash '" + (folder / "task.sh").string() + "' >/dev/null 2>&1").c_str())), 75);
  EXPECT_TRUE(std::filesystem::exists(folder / "asked"));
  std::filesystem::remove_all(folder);
}

TEST(Slurm, JobNumbers) {
  EXPECT_EQ(parse_job_id("1234"), "1234");
  EXPECT_EQ(parse_job_id("1234;cluster\n"), "1234");
  EXPECT_EQ(parse_job_id("sbatch: error: invalid partition"), "");
  EXPECT_EQ(parse_job_id(""), "");
  EXPECT_EQ(parse_job_id("\n"), "");
  EXPECT_EQ(parse_job_id("billed to project x\n1234;cluster\n"), "1234");
  EXPECT_EQ(parse_job_id("1234\nand more"), "");
}

}  // namespace
}  // namespace qg
