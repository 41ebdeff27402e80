#include "core/file_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

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

TEST(FileLock, AFolderThatIsNotThereIsAnError) {
  EXPECT_THROW(FileLock("/no/such/folder/lock", "testing"), Error);
}

}  // namespace
}  // namespace qg
