#pragma once
// Programs that stand in for engines: small shell scripts in a folder of their own, put first on the PATH.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "core/file.h"

namespace qg {

class StandIns {
 public:
  explicit StandIns(const std::string& name)
      : folder_(std::filesystem::temp_directory_path() / ("quantgrid-" + name + "-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(bin());
    const char* path = std::getenv("PATH");
    old_path_ = path ? path : "";
    setenv("PATH", (bin().string() + ":" + old_path_).c_str(), 1);
  }
  ~StandIns() {
    setenv("PATH", old_path_.c_str(), 1);
    std::filesystem::remove_all(folder_);
  }
  StandIns(const StandIns&) = delete;
  StandIns& operator=(const StandIns&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path bin() const { return folder_ / "bin"; }
  void add(const std::string& name, const std::string& script) {
    const std::filesystem::path file = bin() / name;
    std::ofstream(file, std::ios::binary) << (script.starts_with("#!") ? "" : "#!/bin/bash\n") << script;
    std::filesystem::permissions(file, std::filesystem::perms::owner_all);
  }
  std::string text(const std::string& name) const {
    return std::filesystem::exists(folder_ / name) ? read_file(folder_ / name) : "";
  }
  // Process ids that scripts wrote with `echo $$ >> FILE`, one a line.
  std::vector<pid_t> pids(const std::string& name) const {
    std::vector<pid_t> list;
    std::ifstream file(folder_ / name);
    for (pid_t pid; file >> pid;) list.push_back(pid);
    return list;
  }

 private:
  std::filesystem::path folder_;
  std::string old_path_;
};

// Waits a little: a killed process is seen until its parent has reaped it.
inline bool is_gone(pid_t pid, double seconds = 5) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (kill(pid, 0) == 0) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

inline bool wait_for_file(const std::filesystem::path& file, double seconds = 20) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!std::filesystem::exists(file) || std::filesystem::file_size(file) == 0) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

}  // namespace qg
