#include "record/results.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "core/error.h"
#include "record/store.h"

namespace qg {
namespace {

using AttemptId = std::tuple<std::string, std::string, int64_t>;  // run_id, case_key, attempt

AttemptId id_of(const Record& subject) {
  return {subject.run_id, subject.case_key, subject.attempt};
}

bool usable(const Attempt& attempt) {
  const Record& subject = attempt.done.subject;
  return subject.status == "ok" && subject.valid;
}

bool same_measurement(const Record& a, const Record& b) {
  return a.metric == b.metric && a.workload == b.workload && a.context_len == b.context_len && a.round == b.round &&
         a.rep == b.rep;
}

// Whether two measurements of one thing are further apart than chance: 3 % and outside both intervals, or 10 % where an
// interval is not known.
bool disagree(const Record& a, const Record& b) {
  const double scale = std::max(std::abs(*a.value), std::abs(*b.value));
  const double apart = std::abs(*a.value - *b.value);
  const bool intervals = a.ci_lo && a.ci_hi && b.ci_lo && b.ci_hi;
  if (!intervals) return apart > 0.10 * scale;
  return apart > 0.03 * scale && (*a.ci_lo > *b.ci_hi || *b.ci_lo > *a.ci_hi);
}

bool disagree(const Attempt& chosen, const Attempt& other) {
  for (const Record& a : chosen.rows) {
    if (a.round || a.rep || a.suite == "quantize") continue;  // single samples spread; times to quantize are no verdict
    for (const Record& b : other.rows)
      if (same_measurement(a, b) && disagree(a, b)) return true;
  }
  return false;
}

// first..last: all attempts at one case_key, oldest first.
void choose(std::vector<StoredAttempt>::iterator first, std::vector<StoredAttempt>::iterator last) {
  auto best = std::prev(last);
  for (auto it = first; it != last; ++it)
    if (usable(it->attempt)) best = it;
  best->chosen = true;
  for (auto it = first; it != last; ++it)
    if (it != best && usable(it->attempt) && usable(best->attempt))
      it->disagrees = disagree(best->attempt, it->attempt);
}

}  // namespace

const Environment& Results::run(const std::string& run_id) const {
  const auto found = std::find_if(runs.begin(), runs.end(), [&](const Environment& e) { return e.run_id == run_id; });
  if (found == runs.end()) throw Error("there is no run " + run_id + " in these results");
  return *found;
}

std::vector<const Attempt*> Results::chosen() const {
  std::vector<const Attempt*> list;
  for (const StoredAttempt& stored : attempts)
    if (stored.chosen) list.push_back(&stored.attempt);
  return list;
}

Results merge_runs(std::vector<JournalRun> runs) {
  std::map<std::string, Environment> environments;
  std::map<AttemptId, Attempt> unique;
  for (JournalRun& run : runs) {
    const auto [known, is_new] = environments.emplace(run.environment.run_id, run.environment);
    if (!is_new && !(known->second == run.environment))
      throw Error("two of the files describe run " + run.environment.run_id + " differently", "",
                  "one of them was changed after it was written; leave it out");
    for (Attempt& attempt : run.attempts) {
      const AttemptId id = id_of(attempt.done.subject);
      const auto [there, inserted] = unique.emplace(id, attempt);
      if (!inserted && !(there->second == attempt))
        throw Error("two of the files hold different results for case " + std::get<1>(id) + ", attempt " +
                        std::to_string(std::get<2>(id)) + " of run " + std::get<0>(id),
                    "", "one of them was changed after it was written; leave it out");
    }
  }

  Results results;
  for (auto& [id, environment] : environments) results.runs.push_back(std::move(environment));
  for (auto& [id, attempt] : unique) results.attempts.push_back({std::move(attempt), false, false});
  const auto order = [](const StoredAttempt& stored) {
    const Record& s = stored.attempt.done.subject;
    return std::tie(s.case_id, s.case_key, s.ended_at, s.run_id, s.attempt);
  };
  std::sort(results.attempts.begin(), results.attempts.end(),
            [&](const StoredAttempt& a, const StoredAttempt& b) { return order(a) < order(b); });
  for (auto first = results.attempts.begin(); first != results.attempts.end();) {
    const std::string key = first->attempt.done.subject.case_key, id = first->attempt.done.subject.case_id;
    auto last = std::find_if(first, results.attempts.end(), [&](const StoredAttempt& stored) {
      return stored.attempt.done.subject.case_key != key || stored.attempt.done.subject.case_id != id;
    });
    choose(first, last);
    first = last;
  }
  return results;
}

Results load_results(const std::vector<std::filesystem::path>& files) {
  std::vector<JournalRun> runs;
  for (const auto& file : files) {
    std::vector<JournalRun> more = is_store(file) ? read_store(file) : read_journal(file).runs;
    runs.insert(runs.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return merge_runs(std::move(runs));
}

}  // namespace qg
