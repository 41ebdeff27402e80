#include "grid/plan_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "grid/formats.h"

namespace qg {
namespace {

constexpr size_t kNoteColumns = 140;

struct Column {
  std::string head;
  bool right = false;
};

// Columns as wide as their widest cell, two spaces apart, with a rule under the heads.
std::string table_text(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width;
  for (size_t i = 0; i < columns.size(); ++i) {
    size_t widest = columns[i].head.size();
    for (const auto& row : rows) widest = std::max(widest, row[i].size());
    width.push_back(widest);
  }
  const auto line = [&](auto cell) {
    std::string text;
    for (size_t i = 0; i < columns.size(); ++i) {
      if (i > 0) text += "  ";
      text += columns[i].right ? fmt::format("{:>{}}", cell(i), width[i]) : fmt::format("{:<{}}", cell(i), width[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text + "\n";
  };
  std::string text = line([&](size_t i) { return columns[i].head; });
  text += line([&](size_t i) { return std::string(width[i], '-'); });
  for (const auto& row : rows) text += line([&](size_t i) { return row[i]; });
  return text;
}

// Sentences that many rows share: each stands once, under a number.
class Notes {
 public:
  int number(const std::string& sentence) {
    const auto [it, is_new] = numbers_.try_emplace(sentence, static_cast<int>(order_.size()) + 1);
    if (is_new) order_.push_back(sentence);
    return it->second;
  }

  std::string text() const {
    std::string out;
    for (size_t i = 0; i < order_.size(); ++i) out += wrapped(fmt::format("[{}] ", i + 1), order_[i]);
    return out;
  }

 private:
  static std::string wrapped(const std::string& head, const std::string& sentence) {
    std::string out, line = head;
    const std::string indent(head.size(), ' ');
    size_t at = 0;
    while (at < sentence.size()) {
      const size_t end = std::min(sentence.find(' ', at), sentence.size());
      const std::string word = sentence.substr(at, end - at);
      if (line.size() > indent.size() && line.size() + word.size() + 1 > kNoteColumns) {
        out += line + "\n";
        line = indent;
      }
      line += (line.size() > indent.size() ? " " : "") + word;
      at = end + 1;
    }
    return out + line + "\n";
  }

  std::map<std::string, int> numbers_;
  std::vector<std::string> order_;
};

std::string gigabytes(const std::optional<int64_t>& bytes) {
  return bytes ? fmt::format("{:.2f}", static_cast<double>(*bytes) / 1e9) : "?";
}

template <class T>
std::string count_or_mark(const std::optional<T>& value) {
  return value ? count_text(static_cast<double>(*value)) : "?";
}

std::string seconds_or_mark(const std::optional<double>& value) {
  if (!value) return "?";
  return *value == 0 ? "-" : duration_text(*value);
}

// "A", ..., "Z", "AA": a letter for each checkpoint folder.
std::string letter(size_t index) {
  std::string text(1, static_cast<char>('A' + index % 26));
  return index < 26 ? text : letter(index / 26 - 1) + text;
}

std::string origin_text(CheckpointOrigin origin) {
  switch (origin) {
    case CheckpointOrigin::original:
      return "original model, loaded as it is";
    case CheckpointOrigin::converted:
      return "convert (nothing is quantized)";
    case CheckpointOrigin::quantized:
      return "quantize";
    case CheckpointOrigin::server:
      return "whatever the server loads";
  }
  return {};
}

std::string folder_remark(const PlanCheckpoint& f) {
  if (!f.is_needed) return "  (not needed: only unsupported cases)";
  return f.origin == CheckpointOrigin::original ? "  (the original model's folder)" : "";
}

// The folder's own name; for the original model the model's.
std::string folder_text(const PlanCheckpoint& f) {
  return f.origin == CheckpointOrigin::original ? f.stem : f.name;
}

std::string here_text(HereStatus status) {
  switch (status) {
    case HereStatus::yes:
      return "yes";
    case HereStatus::cross_target:
      return "cross-target";
    case HereStatus::accuracy_only:
      return "accuracy";
    case HereStatus::no:
      break;
  }
  return "no";
}

// Counts, and what all of it takes: folders once each, runs of supported cases, each on its own card.
std::string summary(const std::vector<PlanRow>& rows, const std::vector<PlanCheckpoint>& folders,
                    const PlanOptions& options) {
  std::map<SupportStatus, int> count;
  std::map<std::string, double> hours;
  for (const PlanRow& row : rows) {
    ++count[row.support.status];
    if (row.support.status != SupportStatus::unsupported) hours[row.c.gpu] += row.run_seconds.value_or(0);
  }
  double bytes = 0, seconds = 0;
  int to_make = 0;
  for (const PlanCheckpoint& f : folders) {
    const bool is_made = f.origin == CheckpointOrigin::quantized || f.origin == CheckpointOrigin::converted;
    if (!is_made || !f.is_needed) continue;
    ++to_make;
    bytes += static_cast<double>(f.disk_bytes.value_or(0));
    seconds += f.quantize_seconds.value_or(0);
  }
  std::string text =
      fmt::format("{} cases: {} native, {} emulated, {} unsupported.\n", rows.size(), count[SupportStatus::native],
                  count[SupportStatus::emulated], count[SupportStatus::unsupported]);
  if (to_make > 0)
    text +=
        fmt::format("{} folders to make: {:.1f} GB of disk, about {}.\n", to_make, bytes / 1e9, duration_text(seconds));
  text += fmt::format("To run (profile {}):", to_string(options.profile));
  for (const auto& [gpu, s] : hours)
    text += fmt::format(" {} {}{}", gpu, duration_text(s), gpu == hours.rbegin()->first ? ".\n" : ",");
  if (hours.empty()) text += " nothing.\n";
  return text;
}

// "rate/8        1024 in, 128 out, 8 requests/s, 480 of them; good: first token in 500 ms, then 30 ms a token"
std::string workload_text(const Workload& w) {
  std::string text = fmt::format("{} in, {} out", w.isl_tokens, w.osl_tokens);
  if (w.kind == WorkloadKind::rate) {
    text += fmt::format(", {:g} requests/s, {} of them", w.rate_per_s, w.requests);
    if (w.burstiness != 1) text += fmt::format(", burstiness {:g}", w.burstiness);
    if (w.max_ttft_ms > 0) text += fmt::format("; good: first token in {:g} ms", w.max_ttft_ms);
    if (w.max_tpot_ms > 0)
      text += fmt::format("{} {:g} ms a token", w.max_ttft_ms > 0 ? ", then" : "; good:", w.max_tpot_ms);
  } else if (w.kind == WorkloadKind::throughput) {
    text += fmt::format(", {} requests at once", throughput_requests(w));
  } else {
    text += fmt::format(", batch {}, {} rounds", w.batch, w.rounds);
  }
  return fmt::format("  {:<14}{}\n", w.name, text);
}

}  // namespace

std::string duration_text(double seconds) {
  if (seconds < 99.5) return fmt::format("{:.0f} s", std::max(1.0, seconds));
  if (seconds < 5970) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 360000) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.0f} d", seconds / 86400);
}

std::string count_text(double value) {
  if (value < 9999.5) return fmt::format("{:.0f}", value);
  if (value < 99950) return fmt::format("{:.1f}k", value / 1e3);
  if (value < 999500) return fmt::format("{:.0f}k", value / 1e3);
  return fmt::format("{:.1f}M", value / 1e6);
}

std::string ranges_text(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    if (!text.empty()) text += ", ";
    text += j > i ? fmt::format("{}-{}", numbers[i], numbers[j]) : fmt::format("{}", numbers[i]);
    i = j + 1;
  }
  return text;
}

std::string plan_table(const Grid& grid, const std::vector<PlanRow>& rows, const PlanOptions& options) {
  if (rows.empty()) return "No case is left.\n";
  const std::vector<PlanCheckpoint> folders = plan_checkpoints(grid, rows);
  const auto folder_letter = [&](const PlanRow& row) {
    for (size_t i = 0; i < folders.size(); ++i)
      if (folders[i].name == row.checkpoint) return letter(i);
    return std::string("-");
  };
  Notes notes;
  std::vector<std::vector<std::string>> cells;
  for (const PlanRow& row : rows)
    cells.push_back({fmt::format("{}", row.c.number), std::string(to_string(row.c.section)), row.c.model, row.c.gpu,
                     std::string(to_string(row.c.weights)), std::string(to_string(row.c.kv)),
                     fmt::format("{} [{}]", to_string(row.support.status), notes.number(row.support.reason)),
                     folder_letter(row), gigabytes(row.weights_bytes), count_or_mark(row.kv_bytes_per_token),
                     count_or_mark(row.max_batch), count_or_mark(row.roofline_tok_s),
                     count_or_mark(row.throughput_tok_s), seconds_or_mark(row.quantize_seconds),
                     seconds_or_mark(row.run_seconds),
                     fmt::format("{} [{}]", here_text(row.here.status), notes.number(row.here.reason))});
  std::string text = fmt::format("{}\nengine: {}; greatest batch at {} tokens each\n\n", grid.title,
                                 engine_spec(options.engine).label, options.context_tokens);
  text += table_text({{"#", true},
                      {"section"},
                      {"model"},
                      {"card"},
                      {"weights"},
                      {"kv"},
                      {"support"},
                      {"ckpt"},
                      {"GB", true},
                      {"kv B/tok", true},
                      {"batch", true},
                      {"roof b1", true},
                      {"1k/1k", true},
                      {"make", true},
                      {"run", true},
                      {"here"}},
                     cells);
  text +=
      "\nGB: weights in memory. roof b1: tokens/s that the card's bandwidth allows at batch 1 (512 tokens of context). "
      "1k/1k: output\ntokens/s of a model of continuous batching at 1000 in, 1000 out. make, run: estimates. ?: not "
      "known for this model or card.\n\n";
  text += notes.text() + "\nCheckpoint folders (ckpt):\n";
  for (size_t i = 0; i < folders.size(); ++i)
    text += fmt::format("  {}  {}{}\n", letter(i), folder_text(folders[i]), folder_remark(folders[i]));
  if (const auto workloads = grid.workloads_of(options.profile); !workloads.empty()) {
    text += fmt::format("\nWorkloads (profile {}):\n", to_string(options.profile));
    for (const Workload& w : workloads) text += workload_text(w);
  }
  return text + "\n" + summary(rows, folders, options);
}

std::string checkpoint_table(const std::vector<PlanCheckpoint>& checkpoints) {
  if (checkpoints.empty()) return "No case is left.\n";
  std::vector<std::vector<std::string>> cells;
  for (const PlanCheckpoint& f : checkpoints)
    cells.push_back({folder_text(f), f.layout, f.is_needed ? origin_text(f.origin) : "not needed: unsupported",
                     gigabytes(f.disk_bytes), f.is_needed ? seconds_or_mark(f.quantize_seconds) : "-",
                     ranges_text(f.cases)});
  return table_text({{"folder"}, {"layout"}, {"made by"}, {"GB on disk", true}, {"make", true}, {"serves cases"}},
                    cells);
}

std::string index_table(const std::vector<PlanIndexRow>& index) {
  if (index.empty()) return "No case is left.\n";
  const auto words = [](const PlanRow& row) {
    return fmt::format("{} + {} KV (#{})", weight_format_spec(row.c.weights).label, kv_format_spec(row.c.kv).label,
                       row.c.number);
  };
  size_t most = 0;
  for (const PlanIndexRow& row : index) most = std::max(most, row.must.size());
  std::vector<Column> columns{{"model"}, {"GPU"}};
  for (size_t i = 0; i < most; ++i) columns.push_back({fmt::format("case {}", i + 1)});
  columns.push_back({"optional"});
  std::vector<std::vector<std::string>> cells;
  for (const PlanIndexRow& row : index) {
    std::string gpu = row.gpu;
    std::transform(gpu.begin(), gpu.end(), gpu.begin(), [](unsigned char c) { return std::toupper(c); });
    std::vector<std::string> line{row.model_label, gpu};
    for (size_t i = 0; i < most; ++i) line.push_back(i < row.must.size() ? words(*row.must[i]) : "-");
    std::string others;
    for (const PlanRow* other : row.others) others += (others.empty() ? "" : ", ") + words(*other);
    line.push_back(others.empty() ? "-" : others);
    cells.push_back(std::move(line));
  }
  return table_text(columns, cells);
}

}  // namespace qg
