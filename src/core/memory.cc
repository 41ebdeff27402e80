#include "core/memory.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

namespace qg {
namespace {

int64_t status_kib(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, key.size(), key) == 0) return std::stoll(line.substr(key.size()));
  return 0;
}

}  // namespace

int64_t peak_rss_bytes() {
  const int64_t kib = status_kib("VmHWM:");  // unlike getrusage, this can be reset
  if (kib > 0) return kib * 1024;
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * int64_t{1024};
}

int64_t anonymous_rss_bytes() {
  return status_kib("RssAnon:") * 1024;
}

bool reset_peak_rss() {
  malloc_trim(0);
  if (status_kib("VmHWM:") == 0) return false;  // peak_rss_bytes() falls back to what cannot be reset
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

double process_seconds() {
  // Field 22 of stat is the start, in clock ticks since boot; the name before it, in parentheses, may hold anything.
  std::ifstream stat("/proc/self/stat"), uptime("/proc/uptime");
  std::string text;
  std::getline(stat, text);
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  double since_boot = 0;
  uptime >> since_boot;
  return since_boot - std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t physical_memory_bytes() {
  return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
}

}  // namespace qg
