#pragma once
// Logits and taps of an executor over whole sequences, and how far two executors are apart.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/rng.h"
#include "runtime/executor.h"

namespace qg::testing {

// Logits of all rows of some sequences, which are computed together in chunks of `chunk` tokens (the last token of each
// by itself, so that decoding is met too).
inline std::vector<std::vector<float>> logits_of(Executor& executor, const std::vector<std::vector<int32_t>>& sequences,
                                                 int64_t chunk) {
  const size_t vocab = static_cast<size_t>(executor.table().shape.vocab);
  std::vector<std::vector<float>> logits(sequences.size());
  std::vector<std::vector<int32_t>> pages(sequences.size());
  int32_t next = 0;
  for (size_t i = 0; i < sequences.size(); ++i)
    for (int64_t t = 0; t < static_cast<int64_t>(sequences[i].size()); t += executor.page_tokens())
      pages[i].push_back(next++);
  std::vector<int64_t> done(sequences.size());
  for (;;) {
    std::vector<int32_t> tokens;
    std::vector<SequencePiece> pieces;
    std::vector<size_t> owner;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int64_t length = static_cast<int64_t>(sequences[i].size());
      if (done[i] == length) continue;
      const int64_t before_last = length - 1 - done[i];
      SequencePiece piece;
      piece.first_row = static_cast<int64_t>(tokens.size());
      piece.num_tokens = before_last == 0 ? 1 : std::min(chunk, before_last);
      piece.context_tokens = done[i];
      piece.pages = pages[i];
      piece.sample = true;
      tokens.insert(tokens.end(), sequences[i].begin() + done[i], sequences[i].begin() + done[i] + piece.num_tokens);
      pieces.push_back(piece);
      owner.push_back(i);
    }
    if (pieces.empty()) return logits;
    StepOutput out;
    executor.step({tokens, pieces, LogitsWanted::all}, out);
    for (size_t p = 0; p < pieces.size(); ++p) {
      const float* from = out.logits.data() + static_cast<size_t>(pieces[p].first_row) * vocab;
      logits[owner[p]].insert(logits[owner[p]].end(), from, from + static_cast<size_t>(pieces[p].num_tokens) * vocab);
      done[owner[p]] += pieces[p].num_tokens;
    }
  }
}

inline std::vector<std::vector<int32_t>> random_sequences(std::initializer_list<int64_t> lengths, int64_t vocab) {
  Rng rng(11);
  std::vector<std::vector<int32_t>> sequences;
  for (const int64_t length : lengths) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < length; ++i)
      tokens.push_back(static_cast<int32_t>(rng.next_below(static_cast<uint64_t>(vocab))));
    sequences.push_back(tokens);
  }
  return sequences;
}

inline double relative_error(const std::vector<std::vector<float>>& got, const std::vector<std::vector<float>>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].size(), want[i].size());
    for (size_t j = 0; j < got[i].size(); ++j) {
      const double d = static_cast<double>(got[i][j]) - want[i][j];
      error += d * d;
      norm += static_cast<double>(want[i][j]) * want[i][j];
    }
  }
  return std::isfinite(error) ? std::sqrt(error / norm) : INFINITY;
}

using Taps = std::map<std::string, std::vector<float>>;

inline Taps taps_of(Executor& executor, const std::vector<int32_t>& tokens) {
  Taps taps;
  executor.set_tap([&](const std::string& name, std::span<const float> values, int64_t, int64_t) {
    taps[name].assign(values.begin(), values.end());
  });
  std::vector<int32_t> pages;
  for (int32_t page = 0; page < 8; ++page) pages.push_back(page);
  SequencePiece piece;
  piece.num_tokens = static_cast<int64_t>(tokens.size());
  piece.pages = pages;
  StepOutput out;
  executor.step({tokens, std::span(&piece, 1), LogitsWanted::all}, out);
  return taps;
}

}  // namespace qg::testing
