// Our own server as a child: it is read while it is loaded, and what it says is kept.
#include "engines/serve_child.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "core/error.h"
#include "tests/engines/stand_in.h"

namespace qg {
namespace {

ServeChildSpec stand_in(const StandIns& programs) {
  ServeChildSpec spec;
  spec.program = programs.folder() / "bin" / "server";
  spec.start_limit_s = 60;
  return spec;
}

// More than a pipe holds, with nobody asking for it: the server goes on to its end all the same.
TEST(ServeChild, IsReadWhileNobodyAsks) {
  StandIns programs("serve-child-talks");
  programs.add("server", R"sh(
here=$(dirname "$(dirname "$0")")
echo "cpu executor, w8a8_fp8"
echo "listening on http://127.0.0.1:1 with a model"
sleep 0.5  # the constructor reads on for a moment
head -c 300000 /dev/zero | tr '\0' 'x' | fold -w 100
echo "the last line"
touch "$here/said"
sleep 300
)sh");
  ServeChild child(stand_in(programs));
  EXPECT_EQ(child.url(), "http://127.0.0.1:1");
  EXPECT_EQ(child.compute_path(), "w8a8_fp8");
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!std::filesystem::exists(programs.folder() / "said") && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(std::filesystem::exists(programs.folder() / "said")) << "it stands still: its pipe is full";
  EXPECT_TRUE(child.alive());
  EXPECT_NE(child.last_words().find("the last line"), std::string::npos) << child.last_words();
}

TEST(ServeChild, ItsEndAndItsLastWordsAreKnown) {
  StandIns programs("serve-child-ends");
  programs.add("server", "echo 'listening on http://127.0.0.1:1 now'; echo 'no memory is left'; exit 4");
  ServeChild child(stand_in(programs));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (child.alive() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(child.alive());
  EXPECT_NE(child.last_words().find("no memory is left"), std::string::npos) << child.last_words();

  programs.add("server", "echo 'cannot read the model'; exit 1");
  try {
    ServeChild never(stand_in(programs));
    FAIL() << "it never listened";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("cannot read the model"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace qg
