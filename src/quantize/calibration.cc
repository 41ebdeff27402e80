#include "quantize/calibration.h"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace qg {

int64_t CalibrationText::num_tokens() const {
  int64_t count = 0;
  for (const auto& s : sequences) count += static_cast<int64_t>(s.size());
  return count;
}

constexpr int64_t kFewestDifferentTokens = 8;

CalibrationText read_calibration(const Tokenizer& tokenizer, const std::filesystem::path& path,
                                 const CalibrationOptions& options) {
  const std::string text = read_file(path);
  CalibrationText result{path.filename().string(), sha256_hex(text), {}};
  const int64_t needed = options.sequences * options.tokens;
  const size_t limit = std::min(text.size(), static_cast<size_t>(needed) * 64 + 65536);
  const std::vector<int32_t> ids = tokenizer.encode(std::string_view(text).substr(0, limit), false);
  if (static_cast<int64_t>(ids.size()) < needed)
    throw Error(fmt::format("has {} tokens, but calibration wants {} sequences of {}", ids.size(), options.sequences,
                            options.tokens),
                path.string(),
                static_cast<int64_t>(ids.size()) < options.tokens
                    ? "use a longer text"
                    : fmt::format("use --calib-sequences {} or a longer text",
                                  static_cast<int64_t>(ids.size()) / options.tokens));
  for (int64_t s = 0; s < options.sequences; ++s)
    result.sequences.emplace_back(ids.begin() + s * options.tokens, ids.begin() + (s + 1) * options.tokens);
  const std::set<int32_t> different(ids.begin(), ids.begin() + needed);
  if (static_cast<int64_t>(different.size()) < kFewestDifferentTokens)
    throw Error(
        fmt::format("has only {} different token{} in the {} that calibration reads: nothing can be learnt from it",
                    different.size(), different.size() == 1 ? "" : "s", needed),
        path.string(), "give a natural text, such as one that the model will see in use");
  return result;
}

std::vector<int64_t> sampled_rows(int64_t total_rows, const CalibrationOptions& options) {
  const int64_t wanted = std::min(options.sample_rows, total_rows);
  const double step = static_cast<double>(total_rows) / static_cast<double>(std::max<int64_t>(wanted, 1));
  const double phase = Rng(options.seed, 1).uniform(0);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < wanted; ++i)
    rows.push_back(std::min(total_rows - 1, static_cast<int64_t>((static_cast<double>(i) + phase) * step)));
  return rows;
}

ActivationCollector::ActivationCollector(int64_t k, int64_t total_rows, const CalibrationOptions& options,
                                         bool with_gram)
    : total_rows_(total_rows), sample_at_(sampled_rows(total_rows, options)) {
  const auto width = static_cast<size_t>(k);
  statistics_.k = k;
  statistics_.absmax.assign(width, 0);
  statistics_.abs_sum.assign(width, 0);
  if (with_gram) statistics_.gram.assign(width * width, 0);
  statistics_.sample.reserve(sample_at_.size() * width);
}

void ActivationCollector::add(std::span<const float> values, int64_t rows) {
  ActivationStatistics& s = statistics_;
  if (static_cast<int64_t>(values.size()) != rows * s.k)
    throw Error(fmt::format("a tap gave {} values for {} rows of {}", values.size(), rows, s.k));
  parallel_for(s.k, 256, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = values.data() + r * s.k;
      for (int64_t c = begin; c < end; ++c) {
        const float a = std::fabs(row[c]);
        s.absmax[static_cast<size_t>(c)] = std::max(s.absmax[static_cast<size_t>(c)], a);
        s.abs_sum[static_cast<size_t>(c)] += static_cast<double>(a);
      }
    }
  });
  for (; s.sampled < static_cast<int64_t>(sample_at_.size()); ++s.sampled) {
    const int64_t at = sample_at_[static_cast<size_t>(s.sampled)] - s.rows;
    if (at >= rows) break;
    s.sample.insert(s.sample.end(), values.begin() + at * s.k, values.begin() + (at + 1) * s.k);
  }
  if (!s.gram.empty())
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, static_cast<int>(s.k), static_cast<int>(rows), 1.0f,
                values.data(), static_cast<int>(s.k), 1.0f, s.gram.data(), static_cast<int>(s.k));
  s.rows += rows;
}

ActivationStatistics ActivationCollector::finish() {
  ActivationStatistics& s = statistics_;
  if (s.rows != total_rows_)
    throw Error(fmt::format("calibration gave {} rows, {} were announced", s.rows, total_rows_));
  if (!s.gram.empty()) {
    const int64_t k = s.k;
    parallel_for(k, 64, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < r; ++c) s.gram[static_cast<size_t>(r * k + c)] = s.gram[static_cast<size_t>(c * k + r)];
    });
  }
  return std::move(statistics_);
}

}  // namespace qg
