// Any bytes: a journal is read, or refused with an Error. What is read can be merged, stored and read back the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "record/results.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const qg::Journal journal = qg::parse_journal(text, "fuzz");
    if (journal.sound_bytes + journal.torn_bytes != static_cast<int64_t>(size)) std::abort();
    const qg::Journal again = qg::parse_journal(text.substr(0, static_cast<size_t>(journal.sound_bytes)), "fuzz");
    if (again.torn_bytes != 0 || !(again.runs == journal.runs)) std::abort();
    const qg::Results results = qg::merge_runs(journal.runs);
    std::vector<qg::JournalRun> backwards(journal.runs.rbegin(), journal.runs.rend());
    if (qg::merge_runs(backwards).attempts.size() != results.attempts.size()) std::abort();
  } catch (const qg::Error&) {
  }
  return 0;
}
