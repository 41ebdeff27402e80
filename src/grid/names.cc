#include "grid/names.h"

#include <algorithm>
#include <cctype>
#include <numeric>

namespace qg {
namespace {

constexpr std::string_view kCheckpointMark = "-trtllm-ckpt-wq_";
constexpr std::string_view kKvMark = "-kv_";
constexpr size_t kMaxNameLength = 64;

// Letters to insert, delete or exchange to turn a into b.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

std::string case_id(std::string_view model, std::string_view gpu, WeightFormat weights, KvFormat kv) {
  std::string id;
  id.append(model).append("/").append(gpu).append("/").append(to_string(weights)).append("/kv_").append(to_string(kv));
  return id;
}

std::optional<CaseId> parse_case_id(std::string_view id) {
  std::array<std::string_view, 4> parts;
  for (size_t i = 0; i < parts.size(); ++i) {
    const size_t end = id.find('/');
    if ((end == std::string_view::npos) != (i == parts.size() - 1)) return std::nullopt;
    parts[i] = id.substr(0, end);
    if (end != std::string_view::npos) id.remove_prefix(end + 1);
  }
  const auto weights = parse_weight_format(parts[2]);
  if (!is_valid_name(parts[0]) || !is_valid_name(parts[1]) || !weights || !parts[3].starts_with("kv_"))
    return std::nullopt;
  const auto kv = parse_kv_format(parts[3].substr(3));
  if (!kv) return std::nullopt;
  return CaseId{std::string(parts[0]), std::string(parts[1]), *weights, *kv};
}

std::string checkpoint_name(std::string_view stem, WeightFormat weights, KvFormat kv) {
  std::string name(stem);
  name.append(kCheckpointMark).append(to_string(weights)).append(kKvMark).append(to_string(kv));
  return name;
}

std::optional<CheckpointName> parse_checkpoint_name(std::string_view name) {
  // From the right: a stem may hold any of the marks itself.
  const size_t kv_at = name.rfind(kKvMark);
  if (kv_at == std::string_view::npos) return std::nullopt;
  const std::string_view head = name.substr(0, kv_at);
  const size_t mark_at = head.rfind(kCheckpointMark);
  if (mark_at == std::string_view::npos) return std::nullopt;
  const auto weights = parse_weight_format(head.substr(mark_at + kCheckpointMark.size()));
  const auto kv = parse_kv_format(name.substr(kv_at + kKvMark.size()));
  const std::string_view stem = head.substr(0, mark_at);
  if (!weights || !kv || !is_valid_name(stem)) return std::nullopt;
  return CheckpointName{std::string(stem), *weights, *kv};
}

bool is_valid_name(std::string_view name) {
  const auto is_letter_or_digit = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (name.empty() || name.size() > kMaxNameLength || !is_letter_or_digit(name[0])) return false;
  return std::all_of(name.begin(), name.end(),
                     [&](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-'; });
}

std::string nearest_name(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.empty() || word.size() > kMaxNameLength) return {};
  std::string lower(word);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string best;
  size_t best_distance = std::max<size_t>(1, lower.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // "awq" for int4_awq, "llama" for llama-3.1-8b.
    const bool part = lower.size() >= 3 && candidate.find(lower) != std::string::npos;
    const size_t distance = part ? 1 : edit_distance(lower, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace qg
