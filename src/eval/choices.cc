#include "eval/choices.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/file.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "eval/fidelity.h"

namespace qg {
namespace {

ChoiceItem parse_item(const Json& json, const std::string& where) {
  const JsonReader reader(json, where);
  ChoiceItem item;
  item.prompt = reader.get_string("prompt");
  item.id = reader.get_string("id", where);
  item.group = reader.get_string("group", std::string());
  const Json& choices = reader.get("choices");
  if (!choices.is_array() || choices.size() < 2)
    throw Error("\"choices\" should be a list of at least two strings", where);
  for (const Json& choice : choices) {
    if (!choice.is_string() || choice.get<std::string>().empty())
      throw Error("a choice is not a string, or empty", where);
    item.choices.push_back(choice.get<std::string>());
  }
  item.answer = reader.get_int("answer", {}, 0, static_cast<int64_t>(choices.size()) - 1);
  return item;
}

// Sum of log p over the tokens of a choice; the choice is tokenized together with the prompt so that the split between
// them is the tokenizer's own, and what differs from the prompt's tokens is scored.
double choice_log_prob(Executor& executor, const Tokenizer& tokenizer, const std::string& prompt,
                       const std::string& choice, const std::string& where) {
  const std::vector<int32_t> context = tokenizer.encode(prompt, true), all = tokenizer.encode(prompt + choice, true);
  size_t shared = 0;
  while (shared < context.size() && shared < all.size() && context[shared] == all[shared]) ++shared;
  if (shared == all.size()) throw Error("a choice adds no token to its prompt", where);
  if (shared == 0) throw Error("the prompt is empty", where);
  const auto count = static_cast<int64_t>(all.size());
  if (count > executor.num_pages() * executor.page_tokens() || count > executor.max_rows())
    throw Error("prompt and choice have " + std::to_string(count) + " tokens, more than the KV cache holds", where);

  std::vector<int32_t> pages(static_cast<size_t>((count + executor.page_tokens() - 1) / executor.page_tokens()));
  std::iota(pages.begin(), pages.end(), 0);
  SequencePiece piece;
  piece.num_tokens = count;
  piece.pages = pages;
  StepInput input{all, std::span(&piece, 1), LogitsWanted::all};
  StepOutput out;
  executor.step(input, out);
  const auto vocab = static_cast<size_t>(executor.table().shape.vocab);
  double sum = 0;
  for (size_t i = shared; i < all.size(); ++i) {
    const auto row = std::span<const float>(out.logits).subspan((i - 1) * vocab, vocab);
    sum += static_cast<double>(row[static_cast<size_t>(all[i])]) - log_sum_exp(row);
  }
  if (std::isnan(sum))  // which compares as neither more nor less: the first choice would be taken
    throw Error("the model's logits are not finite (NaN or infinity)", where);
  return sum;
}

}  // namespace

std::vector<ChoiceItem> read_choices(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::vector<ChoiceItem> items;
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = path.string() + ", line " + std::to_string(line);
    items.push_back(parse_item(parse_json(row, where), where));
  }
  if (items.empty()) throw Error("holds no questions", path.string(), "one JSON object a line; see docs/measuring.md");
  return items;
}

std::vector<double> score_choices(Executor& executor, const Tokenizer& tokenizer, std::span<const ChoiceItem> items,
                                  const std::function<void()>& on_item) {
  std::vector<double> correct;
  for (const ChoiceItem& item : items) {
    stop_if_interrupted("the tasks start again");
    std::vector<double> scores;
    for (const std::string& choice : item.choices)
      scores.push_back(choice_log_prob(executor, tokenizer, item.prompt, choice, item.id));
    const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
    correct.push_back(best == item.answer ? 1 : 0);
    on_item();
  }
  return correct;
}

double mcnemar_exact(int64_t lost, int64_t gained) {
  const int64_t n = lost + gained, least = std::min(lost, gained);
  if (n == 0) return 1;
  double tail = 0;  // P(X <= least), X ~ Binomial(n, 1/2)
  for (int64_t i = 0; i <= least; ++i) {
    const auto nd = static_cast<double>(n), id = static_cast<double>(i);
    tail += std::exp(std::lgamma(nd + 1) - std::lgamma(id + 1) - std::lgamma(nd - id + 1) - nd * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

ChoiceResult compare_choices(const std::vector<double>& base, const std::vector<double>& candidate) {
  const std::vector<std::vector<double>> columns{base, candidate};
  BootstrapOptions options;
  options.block = 1;
  ChoiceResult r;
  r.base_accuracy = block_bootstrap(
      columns, [](auto m) { return m[0]; }, options);
  r.accuracy = block_bootstrap(
      columns, [](auto m) { return m[1]; }, options);
  int64_t lost = 0, gained = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    lost += base[i] > candidate[i];
    gained += base[i] < candidate[i];
  }
  r.items = static_cast<int64_t>(base.size());
  r.flip_rate = static_cast<double>(lost + gained) / static_cast<double>(base.size());
  r.mcnemar_p = mcnemar_exact(lost, gained);
  return r;
}

}  // namespace qg
