#pragma once
// Runs the program as a person would and keeps what it said.
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

namespace qg {

struct Outcome {
  int exit_code = -1;  // -1: ended by a signal
  std::string out, err;
};

// A shell's command and what it prints; standard error where the command sends it.
inline Outcome run_command(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return outcome;
  std::array<char, 4096> buffer{};
  for (size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) outcome.out.append(buffer.data(), got);
  const int status = pclose(pipe);
  if (WIFEXITED(status) && WEXITSTATUS(status) < 126) outcome.exit_code = WEXITSTATUS(status);
  return outcome;
}

// Arguments as a shell would take them; runs in `folder`.
inline Outcome run_program(const std::string& arguments, const std::filesystem::path& folder) {
  const std::filesystem::path err_file = folder / ".stderr";
  const std::string command =
      "cd '" + folder.string() + "' && '" + QG_BINARY + "' " + arguments + " 2>'" + err_file.string() + "' </dev/null";
  Outcome outcome = run_command(command);
  std::ifstream err(err_file);
  outcome.err.assign(std::istreambuf_iterator<char>(err), {});
  std::filesystem::remove(err_file);
  return outcome;
}

inline std::filesystem::path fresh_folder(const std::string& name) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("quantgrid-test-" + name + "-" + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace qg
