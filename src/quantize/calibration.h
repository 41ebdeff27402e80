#pragma once
// Calibration: the text a quantizer looks at, and what it remembers of the activations that each linear layer saw.
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace qg {

struct CalibrationOptions {
  int64_t sequences = 32;
  int64_t tokens = 512;        // of each sequence
  int64_t sample_rows = 1024;  // tokens whose activations are kept for searches
  uint64_t seed = 1234;
};

struct CalibrationText {
  std::string name, hash;  // file name and sha256
  std::vector<std::vector<int32_t>> sequences;
  int64_t num_tokens() const;
};

// Sequences that follow each other from the start of the text, as other tools cut it. Throws Error when the text is too
// short, with the number of sequences that it would give, or says one thing over and over.
CalibrationText read_calibration(const Tokenizer& tokenizer, const std::filesystem::path& text,
                                 const CalibrationOptions& options);

// What is known of one activation (the input of the linear layers of one calibration group).
struct ActivationStatistics {
  int64_t k = 0, rows = 0;
  std::vector<float> absmax;    // [k]
  std::vector<double> abs_sum;  // [k]; mean |x| = abs_sum / rows
  std::vector<float> sample;    // [sample_rows, k]
  int64_t sampled = 0;
  std::vector<float> gram;  // [k, k] = sum x x^T, both triangles; empty unless asked for

  double mean_abs(int64_t channel) const { return abs_sum[static_cast<size_t>(channel)] / static_cast<double>(rows); }
};

// Which of all calibration rows are kept as the sample, ascending: evenly spread, with a seeded phase.
std::vector<int64_t> sampled_rows(int64_t total_rows, const CalibrationOptions& options);

// Fills ActivationStatistics from pieces of rows.
class ActivationCollector {
 public:
  // total_rows: how many will come; sampled_rows of them are kept.
  ActivationCollector(int64_t k, int64_t total_rows, const CalibrationOptions& options, bool with_gram);
  void add(std::span<const float> values, int64_t rows);  // [rows, k]
  ActivationStatistics finish();

 private:
  ActivationStatistics statistics_;
  int64_t total_rows_;
  std::vector<int64_t> sample_at_;  // ascending row numbers
};

}  // namespace qg
