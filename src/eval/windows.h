#pragma once
// The protocol of perplexity: figures are comparable only when text, window, stride and BOS are the same, so all of it
// goes into the record.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace qg {

struct EvalProtocol {
  int64_t windows = 8;
  int64_t window = 1024;         // tokens; the first of a window is context only, the other window - 1 are scored
  bool bos = false;              // put the BOS token in front of each window (it takes the place of the first token)
  std::string describe() const;  // "8 windows of 1024 tokens, no BOS, non-overlapping"
};

struct EvalText {
  std::string name;  // file name, for people
  std::string hash;  // sha256 of the file
  std::vector<std::vector<int32_t>> windows;
  int64_t scored_tokens() const;
};

// Cuts the first windows of a text. Throws Error when the text is too short, saying how many windows it would give.
EvalText cut_windows(const Tokenizer& tokenizer, const std::filesystem::path& text, const EvalProtocol& protocol);

}  // namespace qg
