// scripts/mend_flashinfer.py on the text that it knows and on others, and the headers that lie here.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHeader = "include/flashinfer/attention/hopper/epilogue.cuh";
constexpr const char* kMark = "#define QG_FLASHINFER_MENDED 1\n";
const std::string kBefore = "  store();\n", kBetween = "  other();\n", kAfter = "  write();\n";
const std::string kArrival =
    "    cutlass::arch::NamedBarrier::arrive(NUM_MMA_THREADS,\n"
    "                                        cutlass::arch::ReservedNamedBarriers::EpilogueBarrier);\n";
const std::string kWait =
    "    cutlass::arch::NamedBarrier::sync(NUM_MMA_THREADS,\n"
    "                                      cutlass::arch::ReservedNamedBarriers::EpilogueBarrier);\n";

class MendFlashinfer : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fresh_folder("mend-flashinfer-" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
  }
  void TearDown() override { fs::remove_all(folder_); }

  Outcome mend() const {
    return run_command("python3 '" QG_SOURCE_DIR "/scripts/mend_flashinfer.py' '" + folder_.string() + "' 2>&1");
  }
  void write(const std::string& text) const {
    fs::create_directories((folder_ / kHeader).parent_path());
    write_text(folder_ / kHeader, text);
  }

  fs::path folder_;
};

TEST_F(MendFlashinfer, TakesTheArrivalOutAndNothingElse) {
  write(kBefore + kArrival + kBetween + kWait + kAfter);
  const Outcome outcome = mend();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  EXPECT_EQ(read_text(folder_ / kHeader), kMark + kBefore + kBetween + kWait + kAfter);
}

TEST_F(MendFlashinfer, LeavesATextThatItDoesNotKnowAlone) {
  for (const std::string& text : {kBefore + kBetween + kWait, kBefore + kArrival + kAfter, kWait + kArrival,
                                  kArrival + kArrival + kWait, kArrival + kWait + kWait, std::string()}) {
    write(text);
    const Outcome outcome = mend();
    EXPECT_EQ(outcome.exit_code, 1) << text;
    EXPECT_NE(outcome.out.find("is not the text"), std::string::npos) << outcome.out;
    EXPECT_EQ(read_text(folder_ / kHeader), text);
  }
}

TEST_F(MendFlashinfer, SaysThatThereIsNoHeader) {
  const Outcome outcome = mend();
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.out.find("setup.sh --data"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find("Traceback"), std::string::npos) << outcome.out;
}

TEST(MendedFlashinfer, IsWhatLiesHere) {
  const fs::path header = fs::path(QG_SOURCE_DIR) / "third_party/extracted/flashinfer" / kHeader;
  ASSERT_TRUE(fs::exists(header)) << header << ": run scripts/setup.sh --data";
  const std::string text = read_text(header);
  EXPECT_TRUE(text.starts_with(kMark));
  EXPECT_EQ(text.find(kArrival), std::string::npos);
  EXPECT_NE(text.find(kWait), std::string::npos);
}

}  // namespace
}  // namespace qg
