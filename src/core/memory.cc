#include "core/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
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

void reset_peak_rss() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

int64_t physical_memory_bytes() {
  return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
}

}  // namespace qg
