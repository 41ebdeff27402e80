#pragma once
#include <cstdint>

namespace qg {

int64_t peak_rss_bytes();       // largest resident set of this process, since its start or the last reset
int64_t anonymous_rss_bytes();  // resident memory that is not a mapped file (/proc/self/status, RssAnon)
// Gives back what was freed and lets the peak begin anew. False where the kernel does not allow it
// (/proc/self/clear_refs): the peak is still that of the whole process then.
[[nodiscard]] bool reset_peak_rss();
int64_t physical_memory_bytes();
double process_seconds();  // since this process was started, libraries loaded and all

}  // namespace qg
