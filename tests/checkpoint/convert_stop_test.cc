// A stop during a conversion, which takes minutes for a large model.
#include <csignal>
#include <cstdlib>

#include "checkpoint/convert.h"
#include "core/interrupt.h"
#include "model/open_model.h"
#include "tests/checkpoint/fixtures.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// 75 when the stop was obeyed and nothing is left in the folder.
int convert_after_a_signal(const fs::path& from, Layout layout, const fs::path& folder) {
  const auto checkpoint = open_model(from);
  ConvertOptions options;
  options.out = folder / "out";
  options.layout = layout;
  options.ranks = layout == checkpoint->layout() ? 2 : 0;
  options.architecture = architecture_of_family("llama");
  options.hf_rules = hf_rules_of_family("llama");
  watch_interrupts();
  std::raise(SIGINT);
  try {
    convert_checkpoint(*checkpoint, options);
  } catch (const Error& error) {
    return fs::is_empty(folder) ? static_cast<int>(error.code()) : 1;
  }
  return 0;
}

// In a process of its own, which begins the test anew and so has a folder of its own.
[[noreturn]] void end_with(int code, const TestFolder& folder) {
  fs::remove_all(folder.path());
  std::_Exit(code);
}

TEST(ConvertStop, LeavesNothing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TestFolder folder;
  const fs::path model = kGolden / "models/llama-gqa4-llama3rope-bf16";
  EXPECT_EXIT(end_with(convert_after_a_signal(model, Layout::trtllm, folder.path()), folder),
              testing::ExitedWithCode(75), "");
}

TEST(ConvertStop, LeavesNothingOfMoreRanks) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TestFolder folder;
  ConvertOptions options;
  options.out = folder / "from";
  options.layout = Layout::trtllm;
  options.architecture = architecture_of_family("llama");
  options.hf_rules = hf_rules_of_family("llama");
  convert_checkpoint(*open_model(kGolden / "models/llama-gqa4-llama3rope-bf16"), options);
  fs::create_directory(folder / "new");
  EXPECT_EXIT(end_with(convert_after_a_signal(folder / "from", Layout::trtllm, folder / "new"), folder),
              testing::ExitedWithCode(75), "");
}

}  // namespace
}  // namespace qg
