#include "report/standing.h"

#include <algorithm>
#include <tuple>

#include "report/comparable.h"

namespace qg {
namespace {

bool is_usable(const Record& subject) {
  return subject.valid && subject.status == "ok";
}

// Whether one would have stood in the other's place: another card's failure says nothing of a card's own figure, nor a
// failed window of a whole run.
bool same_measurement(const Record& a, const Record& b) {
  const auto in_window = [](const Record& r) { return method_of(r).value_or(Method{}).window; };
  return a.workload == b.workload && a.measured_on == b.measured_on && a.synthetic == b.synthetic &&
         in_window(a) == in_window(b);
}

bool is_newer(const Record& a, const Record& b) {
  return std::tie(a.ended_at, a.run_id, a.attempt) > std::tie(b.ended_at, b.run_id, b.attempt);
}

bool is_skipped(const Record& subject) {
  return subject.status.starts_with("skipped_");
}

}  // namespace

void note_failures(Cell& cell, const std::vector<const Attempt*>& attempts) {
  for (const Attempt* attempt : attempts) {
    const Record& failed = attempt->done.subject;
    if (is_usable(failed) || failed.status == "skipped_unsupported") continue;
    const bool mended = std::any_of(attempts.begin(), attempts.end(), [&](const Attempt* other) {
      const Record& later = other->done.subject;
      return is_usable(later) && same_measurement(later, failed) && is_newer(later, failed);
    });
    if (mended) continue;
    if (!is_skipped(failed))
      for (const auto& [key, row] : cell.rows)
        if (same_measurement(*row, failed) && is_newer(failed, *row)) cell.overtaken.insert(row);
    const auto known = std::find_if(cell.failures.begin(), cell.failures.end(),
                                    [&](const Record* each) { return same_measurement(*each, failed); });
    if (known == cell.failures.end())
      cell.failures.push_back(&failed);
    else if (is_newer(failed, **known))
      *known = &failed;
  }
  std::sort(cell.failures.begin(), cell.failures.end(), [](const Record* a, const Record* b) {
    return std::tuple(is_skipped(*a), a->workload, a->ended_at) < std::tuple(is_skipped(*b), b->workload, b->ended_at);
  });
}

void keep_one_accuracy(Cell& cell) {
  const Record* newest = cell.row("accuracy", "ppl");
  if (!newest) return;
  std::erase_if(cell.rows, [&](const auto& entry) {
    return entry.second->suite == "accuracy" && !same_checkpoint(*entry.second, *newest);
  });
}

void borrow_accuracy(std::vector<Cell>& cells) {
  for (Cell& cell : cells) {
    if (cell.engine == "native" || cell.row("accuracy", "ppl")) continue;
    // How a cache of fewer bits is scaled and shaped is each engine's own; behind our server it is ours.
    if (cell.about.kv != KvFormat::fp16 && !cell.engine.starts_with("native/")) continue;
    const auto native = std::find_if(cells.begin(), cells.end(), [&](const Cell& other) {
      return other.engine == "native" && other.about.id() == cell.about.id();
    });
    const Record* ppl = native == cells.end() ? nullptr : native->row("accuracy", "ppl");
    if (!ppl || native->overtaken.contains(ppl)) continue;
    // Where nothing says how a checkpoint was made, nothing says that two are the same.
    if (ppl->base_ckpt_sha.empty() || (cell.about.weights != WeightFormat::fp16 && ppl->recipe_sha.empty())) continue;
    if (std::any_of(cell.rows.begin(), cell.rows.end(),
                    [&](const auto& entry) { return same_checkpoint(*entry.second, *ppl); }))
      cell.accuracy_from = &*native;
  }
}

}  // namespace qg
