// What writing a file does to what is there already.
#include "core/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>

#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

class WriteFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("quantgrid-file-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(WriteFile, ALinkStaysAndItsFileIsReplaced) {
  fs::create_directory(folder_ / "elsewhere");
  write_file(folder_ / "elsewhere/page", "old");
  fs::create_symlink("elsewhere/page", folder_ / "link");
  write_file(folder_ / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read_file(folder_ / "elsewhere/page"), "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "elsewhere"), {}), 1);
}

TEST_F(WriteFile, ADeviceStaysADevice) {
  fs::create_symlink("/dev/null", folder_ / "null");  // never the device itself: a mistake would take it away
  write_file(folder_ / "null", "text");
  EXPECT_TRUE(fs::is_symlink(folder_ / "null"));
  EXPECT_THROW(AtomicFile(folder_ / "null"), Error);
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST_F(WriteFile, APipeGetsTheText) {
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  std::string got;
  std::thread reader([&] { std::getline(std::ifstream(folder_ / "pipe"), got); });
  write_file(folder_ / "pipe", "through the pipe\n");
  const bool is_pipe = fs::is_fifo(folder_ / "pipe");
  if (!is_pipe) {  // the reader waits at the pipe that lost its name
    reader.detach();
    FAIL() << "the pipe was replaced by a file";
  }
  reader.join();
  EXPECT_EQ(got, "through the pipe");
}

TEST_F(WriteFile, AFolderIsRefusedBeforeAnythingIsWritten) {
  fs::create_directory(folder_ / "taken");
  try {
    AtomicFile file(folder_ / "taken");
    FAIL() << "a folder was taken for a file";
  } catch (const Error& error) {
    EXPECT_EQ(error.problem(), "is a folder");
    EXPECT_FALSE(error.fix().empty());
  }
}

TEST(AtomicFolder, AnEmptyNameIsRefusedAtOnce) {
  EXPECT_THROW(AtomicFolder(""), Error);
  EXPECT_FALSE(fs::exists(".partial"));
}

}  // namespace
}  // namespace qg
