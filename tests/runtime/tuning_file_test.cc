#include "runtime/tuning_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "core/file.h"

namespace qg {
namespace {

const TuningIdentity kCard{"NVIDIA L4", "sm89", 58, 130000, "abcdef"};

TuningTable table() {
  TuningTable t;
  t.products.push_back({"e4m3", "F16", 512, 4096, 14336, 14336, 4096, std::string(128, 'a'), 12.5});
  t.routes.push_back({"w4a16 4096x4096", 64, "wide", {{"wide", 20.0}, {"skinny", 31.0}}});
  t.routes.push_back({"w4a16 4096x4096", 8, "skinny", {{"wide", 18.0}, {"skinny", 9.0}}});
  return t;
}

class TuningFile : public ::testing::Test {
 protected:
  // Of this process: ctest runs each test in one of its own, several at once.
  std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / ("tuning_file_test-" + std::to_string(getpid()));
  std::filesystem::path file_ = folder_ / "deep" / "tuning.json";
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string problem_of(const std::string& from, const std::string& to) {
    write_tuning(file_, kCard, table());
    std::string text = read_file(file_);
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    std::ofstream(file_) << text;
    const TuningRead read = read_tuning(file_, kCard);
    EXPECT_TRUE(read.table.empty()) << to;
    return read.problem;
  }
};

TEST_F(TuningFile, WhatIsWrittenIsRead) {
  write_tuning(file_, kCard, table());
  const TuningRead read = read_tuning(file_, kCard);
  EXPECT_EQ(read.problem, "");
  EXPECT_EQ(read.table.products, table().products);
  ASSERT_EQ(read.table.routes.size(), 2u);
  EXPECT_EQ(read.table.routes[1], table().routes[0]);  // by layer and m
}

TEST_F(TuningFile, NewEntriesJoinTheOldOnes) {
  write_tuning(file_, kCard, table());
  TuningTable more;
  more.routes.push_back({"w4a16 4096x4096", 64, "skinny", {{"skinny", 5.0}}});
  more.routes.push_back({"w16a16 8x8", 64, "library", {{"library", 5.0}}});
  write_tuning(file_, kCard, more);
  const TuningTable all = read_tuning(file_, kCard).table;
  EXPECT_EQ(all.products.size(), 1u);
  ASSERT_EQ(all.routes.size(), 3u);
  EXPECT_EQ(all.routes[0].layer, "w16a16 8x8");
  EXPECT_EQ(all.routes[2].route, "skinny");
}

TEST_F(TuningFile, NoFileIsNoProblem) {
  EXPECT_EQ(read_tuning(file_, kCard).problem, "");
  EXPECT_EQ(read_tuning({}, kCard).problem, "");
}

TEST_F(TuningFile, ANameWithoutAFolderIsOneHere) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::create_directories(folder_);
  std::filesystem::current_path(folder_);
  EXPECT_NO_THROW(write_tuning("tuned.json", kCard, table()));
  std::filesystem::current_path(before);
  EXPECT_EQ(read_tuning(folder_ / "tuned.json", kCard).table.products, table().products);
}

TEST_F(TuningFile, WhereNothingCanBeWrittenIsAnError) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "file") << "no folder";
  EXPECT_THROW(write_tuning(folder_ / "file" / "deep" / "tuning.json", kCard, table()), Error);
}

TEST_F(TuningFile, AnotherCardLibraryOrKernelsTableIsNotUsed) {
  write_tuning(file_, kCard, table());
  for (TuningIdentity other : {TuningIdentity{"NVIDIA L40", "sm89", 58, 130000, "abcdef"},
                               TuningIdentity{"NVIDIA L4", "sm80", 58, 130000, "abcdef"},
                               TuningIdentity{"NVIDIA L4", "sm89", 57, 130000, "abcdef"},
                               TuningIdentity{"NVIDIA L4", "sm89", 58, 130001, "abcdef"},
                               TuningIdentity{"NVIDIA L4", "sm89", 58, 130000, "abcdee"}}) {
    const TuningRead read = read_tuning(file_, other);
    EXPECT_TRUE(read.table.empty());
    EXPECT_NE(read.problem, "");
  }
  // Writing for another card starts anew.
  write_tuning(file_, {"NVIDIA L40", "sm89", 58, 130000, "abcdef"}, {});
  EXPECT_TRUE(read_tuning(file_, kCard).table.empty());
}

TEST_F(TuningFile, EveryFieldIsChecked) {
  EXPECT_NE(problem_of("\"version\": 1", "\"version\": 2"), "");
  EXPECT_NE(problem_of("\"version\"", "\"Version\""), "");
  EXPECT_NE(problem_of("{", "["), "");
  EXPECT_NE(problem_of(std::string(128, 'a'), std::string(127, 'a')), "");
  EXPECT_NE(problem_of(std::string(128, 'a'), std::string(127, 'a') + "g"), "");
  EXPECT_NE(problem_of("\"m\": 512", "\"m\": 0"), "");
  EXPECT_NE(problem_of("\"m\": 512", "\"m\": \"512\""), "");
  EXPECT_NE(problem_of("\"route\": \"skinny\"", "\"route\": \"other\""), "");
  EXPECT_NE(problem_of("\"wide\": 18.0", "\"wide\": null"), "");
}

TEST_F(TuningFile, CrossoversAreTold) {
  const std::string text = describe_tuning(table());
  EXPECT_NE(text.find("    64 rows  wide"), std::string::npos) << text;
  EXPECT_NE(text.find("<- wide from here on"), std::string::npos) << text;
  EXPECT_EQ(text.find("<- skinny"), std::string::npos) << text;
}

}  // namespace
}  // namespace qg
