#include "record/environment.h"

#include <sched.h>
#include <sys/utsname.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <random>

#include "core/memory.h"
#include "core/version.h"

namespace qg {
namespace {

// The value of the first line "KEY<separator>VALUE" of a small text file; quotes and spaces around it are dropped.
std::string value_in(const char* file, std::string_view key, char separator) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const size_t at = line.find(separator);
    if (at == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t\"", at + 1), last = line.find_last_not_of(" \t\"");
    if (first != std::string::npos) return line.substr(first, last - first + 1);
  }
  return {};
}

int64_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

std::string system_name() {
  std::string name = value_in("/etc/os-release", "PRETTY_NAME", '=');
  utsname kernel{};
  if (uname(&kernel) == 0) name += (name.empty() ? "" : ", ") + std::string(kernel.sysname) + " " + kernel.release;
  return name;
}

bool may_precede_path(char c) {
  return c == ' ' || c == '"' || c == '\'' || c == '(' || c == '=' || c == ':' || c == ',';
}
bool ends_path(char c) {
  return c == ' ' || c == '"' || c == '\'' || c == ')' || c == ',' || c == ';' || c == ':' || c == '\n';
}

}  // namespace

Environment this_environment() {
  Environment e;
  e.run_id = new_run_id();
  e.started_at = utc_now();
  e.cpu = value_in("/proc/cpuinfo", "model name", ':');
  e.cores = usable_cores();
  e.memory_bytes = physical_memory_bytes();
  e.machine = "CPU, " + std::to_string(*e.cores) + (*e.cores == 1 ? " core" : " cores");
  e.os = system_name();
  e.version = version();
  e.commit = build_commit();
  e.build = build_options();
  e.kernels_hash = kernels_hash();
  return e;
}

std::string new_run_id() {
  // RFC 9562, version 7: 48 bits of milliseconds, then random bits.
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto ms = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
  std::random_device random;
  const auto bits = [&random] { return (static_cast<uint64_t>(random()) << 32) | random(); };
  const uint64_t high = (ms << 16) | 0x7000 | (bits() & 0x0fff);
  const uint64_t low = (bits() & 0x3fffffffffffffffull) | 0x8000000000000000ull;
  char text[40];
  std::snprintf(text, sizeof text, "%08x-%04x-%04x-%04x-%012llx", static_cast<unsigned>(high >> 32),
                static_cast<unsigned>(high >> 16 & 0xffff), static_cast<unsigned>(high & 0xffff),
                static_cast<unsigned>(low >> 48), static_cast<unsigned long long>(low & 0xffffffffffffull));
  return text;
}

std::string without_host_paths(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const bool starts = text[i] == '/' && (i == 0 || may_precede_path(text[i - 1]));
    if (!starts) {
      out += text[i++];
      continue;
    }
    size_t end = i;
    while (end < text.size() && !ends_path(text[end])) ++end;
    std::string_view path = text.substr(i, end - i);
    while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
    const size_t slash = path.rfind('/');
    out += path.substr(slash + 1);
    i = end;
  }
  return out;
}

}  // namespace qg
