#pragma once
// Multiple-choice questions that a user brings: one JSON object a line,
//   {"id": "...", "prompt": "...", "choices": [" A", " B"], "answer": 0, "group": "subject"}
// scored by the log-probability of each choice after the prompt, as accuracy; paired against the base.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "eval/bootstrap.h"
#include "runtime/executor.h"
#include "tokenizer/tokenizer.h"

namespace qg {

struct ChoiceItem {
  std::string id, prompt, group;
  std::vector<std::string> choices;
  int64_t answer = 0;
};

// Throws Error naming file and line.
std::vector<ChoiceItem> read_choices(const std::filesystem::path& path);

struct ChoiceResult {
  Interval accuracy, base_accuracy;  // share of items; intervals by bootstrap over items
  double flip_rate = 0;              // items whose correctness changed, either way
  double mcnemar_p = 1;              // two-sided exact McNemar test on the items that flipped
  int64_t items = 0;
};

// 1 where the most likely choice is the answer, per item. on_item is called after each item; it may throw.
std::vector<double> score_choices(Executor& executor, const Tokenizer& tokenizer, std::span<const ChoiceItem> items,
                                  const std::function<void()>& on_item);
ChoiceResult compare_choices(const std::vector<double>& base, const std::vector<double>& candidate);
// Two-sided exact McNemar test: b items lost, c items gained.
double mcnemar_exact(int64_t lost, int64_t gained);

}  // namespace qg
