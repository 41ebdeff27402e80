#pragma once
// What an engine prints while it runs, line by line: why it cannot go on, its version, and the cache that it allocated.
// The words are of real logs; each pattern names where it was seen (run_log.cc).
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"
#include "core/model_shape.h"
#include "engines/process.h"
#include "record/record.h"

namespace qg {

// A line that tells why a run ended.
struct LogVerdict {
  CaseStatus status = CaseStatus::failed;
  std::string_view code;     // "cuda_oom"
  std::string_view meaning;  // in our words
  std::string line;          // the engine's own, shortened
};

class EngineLog {
 public:
  // One line. A number of seconds: after this line the engine will hardly recover (ProcessSpec::on_line).
  std::optional<double> take_line(std::string_view line);
  void take(std::string_view text);  // many lines

  const std::optional<LogVerdict>& verdict() const { return verdict_; }  // the first of the most telling kind
  const std::string& last_error() const { return last_error_; }          // last line that looks like an error
  const std::string& version() const { return version_; }                // as the engine prints it; may be empty
  const std::string& kv_word() const { return kv_word_; }                // vLLM's kv_cache_dtype: "auto", "fp8"
  std::optional<KvFormat> kv() const;                                    // what that word means; empty: none of ours
  // Memory of the cache over the tokens that it holds, both as printed; empty when the log does not say, or too
  // coarsely.
  std::optional<double> cache_bytes_per_token() const;

 private:
  std::optional<LogVerdict> verdict_;
  int rank_ = 0;
  std::string last_error_, version_, kv_word_;
  double cache_gib_ = 0, cache_tokens_ = 0;
};

// What a process' end and its log say together; ok when it ended well.
struct RunEnd {
  CaseStatus status = CaseStatus::ok;
  std::string code, reason;
};
RunEnd judge_end(const ProcessResult& result, const EngineLog& log, double limit_s);

// The cache type that the engine used, as far as it says, against the one that the case wants.
struct CacheCheck {
  std::optional<KvFormat> reported;  // empty: it did not say
  std::string mismatch;              // why the row is invalid; empty when nothing speaks against it
};
// `named`: what report or log call it, with their own word; allocated bytes are compared when shape is known.
CacheCheck check_cache(KvFormat wanted, std::optional<KvFormat> named, const std::string& word,
                       const std::optional<ModelShape>& shape, std::optional<double> bytes_per_token);

}  // namespace qg
