#pragma once
// What the events of a completion's stream mean: tokens, the server's own count, the end, errors. Pure functions of
// bytes.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qg {

class CompletionStream {
 public:
  // Takes the data of one event and returns how many tokens came with it: what the server's running count says
  // (continuous_usage_stats) or else 1 for a piece of text. Throws Error on an error object, on what is no JSON or has
  // values of other types than the API's, and on events behind [DONE].
  int64_t take(std::string_view data);

  bool done() const { return done_; }          // [DONE] came
  bool finished() const { return finished_; }  // a finish reason came
  int64_t counted() const { return counted_; }
  bool counts_itself() const { return running_count_; }  // the server sends a running count
  // The server's own counts, where it gave them.
  std::optional<int64_t> prompt_tokens() const { return prompt_tokens_; }
  std::optional<int64_t> completion_tokens() const { return completion_tokens_; }

 private:
  bool done_ = false, finished_ = false, running_count_ = false;
  int64_t counted_ = 0;
  std::optional<int64_t> prompt_tokens_, completion_tokens_;
};

// The reason in the body of an answer that is no success, in one line: the message of an error object (OpenAI's, or a
// web framework's {"detail": …}), or the beginning of the body.
std::string error_message(std::string_view body);

}  // namespace qg
