#pragma once
#include <cstdint>

namespace qg {

int64_t peak_rss_bytes();       // largest resident set of this process so far (getrusage)
int64_t anonymous_rss_bytes();  // resident memory that is not a mapped file (/proc/self/status, RssAnon)
void reset_peak_rss();          // where the kernel allows (/proc/self/clear_refs)
int64_t physical_memory_bytes();
double process_seconds();  // since this process was started, libraries loaded and all

}  // namespace qg
