#include "core/file_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

namespace qg {
namespace {

TEST(FileLock, TheSecondWaitsForTheFirst) {
  const auto file = std::filesystem::temp_directory_path() / ("quantgrid-lock-" + std::to_string(getpid()));
  std::atomic<bool> held = false, saw_it_held = false, had_it = false;
  std::thread other;
  {
    const FileLock first(file, "testing");
    held = true;
    other = std::thread([&] {
      const FileLock second(file, "testing");
      saw_it_held = held.load();
      had_it = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    EXPECT_FALSE(had_it);
    held = false;
  }
  other.join();
  EXPECT_TRUE(had_it);
  EXPECT_FALSE(saw_it_held);
  std::filesystem::remove(file);
}

std::string refusal(const std::filesystem::path& output) {
  try {
    const OutputLock lock(output);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(OutputLock, TheSecondIsRefusedUntilTheFirstIsGone) {
  const auto folder = std::filesystem::temp_directory_path() / ("quantgrid-output-lock-" + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  const auto file = folder / "deep/out.partial.lock";
  {
    const OutputLock first(folder / "deep/out/");
    for (int i = 0; i < 2; ++i)
      EXPECT_NE(refusal(folder / "deep/out").find("another process is making it"), std::string::npos);
    EXPECT_TRUE(std::filesystem::exists(file)) << "who was refused took it away";
    EXPECT_EQ(refusal(folder / "deep/other"), "");
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder / "deep"));
  std::ofstream(file).close();  // a killed run's
  EXPECT_EQ(refusal(folder / "deep/out"), "");
  EXPECT_FALSE(std::filesystem::exists(file));
  std::ofstream(file) << "mine";
  EXPECT_NE(refusal(folder / "deep/out").find("no lock of a run"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(file));
  std::filesystem::remove_all(folder);
}

// The file comes and goes all the time; however the steps of many fall between each other, one has it.
TEST(OutputLock, OneOfManyHasIt) {
  const auto output = std::filesystem::temp_directory_path() / ("quantgrid-output-" + std::to_string(getpid()));
  std::atomic<int> holders = 0, most = 0, taken = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 2000; ++round) {
        try {
          const OutputLock lock(output);
          if (holders.fetch_add(1) > 0) most = 2;
          ++taken;
          std::this_thread::yield();
          --holders;
        } catch (const Error&) {  // another has it
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 0);
  EXPECT_GT(taken, 0);
  EXPECT_FALSE(std::filesystem::exists(output.string() + ".partial.lock"));
}

TEST(FileLock, AFolderThatIsNotThereIsAnError) {
  EXPECT_THROW(FileLock("/no/such/folder/lock", "testing"), Error);
}

}  // namespace
}  // namespace qg
