// quantgrid doctor on what it can be shown: a folder that takes no files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <vector>

#include "core/json.h"
#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// /proc takes no files, also from root, whom permissions do not stop.
TEST(Doctor, SaysWhereNothingCanBeWritten) {
  const auto disk = [](const fs::path& folder) {
    const Outcome outcome = run_command("cd '" + folder.string() + "' && '" QG_BINARY "' doctor --json 2>/dev/null");
    const Json report = parse_json(outcome.out, "doctor");
    for (const Json& finding : report["findings"])
      if (finding["what"] == "disk here") return std::pair(outcome.exit_code, finding);
    return std::pair(outcome.exit_code, Json{{"verdict", "none"}, {"said", ""}, {"fix", ""}});
  };
  const fs::path open = fresh_folder("doctor");
  std::vector<fs::path> closed{"/proc"};
  if (geteuid() != 0) {
    closed.push_back(open / "closed");
    fs::create_directory(closed.back());
    fs::permissions(closed.back(), fs::perms::owner_read | fs::perms::owner_exec);
  }
  for (const fs::path& folder : closed) {
    const auto [exit_code, finding] = disk(folder);
    EXPECT_EQ(exit_code, 4) << folder;
    EXPECT_EQ(finding["verdict"], "bad") << folder;
    EXPECT_NE(finding["said"].get<std::string>().find(folder.string() + " cannot be written to"), std::string::npos)
        << finding;
    EXPECT_NE(finding["fix"].get<std::string>().find("work in a folder"), std::string::npos) << finding;
  }
  EXPECT_NE(disk(open).second["verdict"], "bad");
  for (const fs::path& folder : closed) fs::remove(folder == "/proc" ? open / "none" : folder);
  EXPECT_TRUE(fs::is_empty(open)) << "what was tried is left behind";
  fs::remove_all(open);
}

}  // namespace
}  // namespace qg
