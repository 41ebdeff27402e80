#include "eval/windows.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"

namespace qg {

std::string EvalProtocol::describe() const {
  return fmt::format("{} windows of {} tokens, {}, non-overlapping", windows, window, bos ? "BOS on each" : "no BOS");
}

int64_t EvalText::scored_tokens() const {
  int64_t count = 0;
  for (const auto& w : windows) count += static_cast<int64_t>(w.size()) - 1;
  return count;
}

EvalText cut_windows(const Tokenizer& tokenizer, const std::filesystem::path& path, const EvalProtocol& protocol) {
  if (protocol.windows < 1 || protocol.window < 2)
    throw Error(fmt::format("{} windows of {} tokens cannot be scored", protocol.windows, protocol.window), "",
                "use at least one window of two tokens");
  if (protocol.bos && !tokenizer.bos())
    throw Error("BOS was asked for, but the tokenizer has none", "", "leave out --bos");
  const std::string text = read_file(path);
  EvalText result{path.filename().string(), sha256_hex(text), {}};

  const int64_t fresh = protocol.window - (protocol.bos ? 1 : 0);
  const int64_t needed = protocol.windows * fresh;
  // A token is at least a byte in every tokenizer here only on average; a generous cut keeps long texts quick.
  const size_t limit = std::min(text.size(), static_cast<size_t>(needed) * 64 + 65536);
  const std::vector<int32_t> tokens = tokenizer.encode(std::string_view(text).substr(0, limit), false);
  if (static_cast<int64_t>(tokens.size()) < needed)
    throw Error(fmt::format("has {} tokens, but {} need {}", tokens.size(), protocol.describe(), needed), path.string(),
                fmt::format("use --windows {} or a longer text", static_cast<int64_t>(tokens.size()) / fresh));
  for (int64_t w = 0; w < protocol.windows; ++w) {
    std::vector<int32_t> window;
    if (protocol.bos) window.push_back(*tokenizer.bos());
    window.insert(window.end(), tokens.begin() + w * fresh, tokens.begin() + (w + 1) * fresh);
    result.windows.push_back(std::move(window));
  }
  return result;
}

}  // namespace qg
