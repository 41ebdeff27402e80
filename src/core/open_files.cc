#include "core/open_files.h"

#include <sys/resource.h>

#include <algorithm>

namespace qg {

int64_t room_for_open_files(int64_t wanted) {
  constexpr int64_t kOthers = 64;  // the model's files, a listener, the log
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  const rlim_t needed = static_cast<rlim_t>(wanted + kOthers);
  if (limit.rlim_cur < needed) {
    limit.rlim_cur = std::min(needed, limit.rlim_max);
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur >= needed) return wanted;
  return std::max<int64_t>(1, static_cast<int64_t>(limit.rlim_cur) - kOthers);
}

}  // namespace qg
