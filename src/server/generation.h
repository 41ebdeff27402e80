#pragma once
// A request under way: its choices run in the engine as requests of their own, their events come back here, and what is
// to be sent grows in a buffer that the connection empties. Event loop only.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/api_error.h"
#include "server/choice_text.h"
#include "server/engine_thread.h"
#include "server/metrics.h"
#include "server/prepare.h"
#include "server/reply_json.h"

namespace qg {

class Generation {
 public:
  // on_change: called when there is something new to send or the end has come. arrival: when the request was read.
  Generation(PreparedRequest request, const ServedModel& model, ServerMetrics& metrics, EngineClock::time_point arrival,
             std::function<void()> on_change);

  bool streams() const { return request_.api.stream; }
  int64_t num_choices() const { return static_cast<int64_t>(request_.prompts.size()) * request_.api.n; }
  Request engine_request(int64_t choice) const;
  std::optional<int64_t> num_top() const { return request_.api.logprobs; }

  void on_event(int64_t choice, EngineEvent event);
  // True once for a choice that needs nothing more of the engine although that still works on it.
  bool take_cancellation(int64_t choice);
  // Ends with an error: what is still running is not waited for.
  void fail(ApiError error);

  bool ended() const { return error_ || open_choices_ == 0; }
  const std::optional<ApiError>& error() const { return error_; }
  // Of a stream: events since the last call, the closing ones included once it has ended.
  std::string take_output();
  int64_t output_bytes() const { return static_cast<int64_t>(output_.size()); }
  // Of a request without stream that ended well: the reply.
  std::string reply_body();

 private:
  struct Choice {
    ChoiceText text;
    const PreparedPrompt* prompt = nullptr;
    std::vector<TokenLogprobs> prompt_rows;
    EngineClock::time_point first, last;  // tokens
    int64_t tokens = 0;
    bool begun = false;  // a chunk of it was sent, so that its role is known
    bool text_begun = false;
    bool abandoned = false;  // ended by a stop string before the engine knew
  };

  void begin_text(Choice& choice);
  void note_token(Choice& choice, EngineClock::time_point time);
  void end_choice(const Choice& choice);
  void stream_part(int64_t index);
  ChoicePart part_of(int64_t index);
  Usage usage() const;

  PreparedRequest request_;
  const ServedModel& model_;
  ServerMetrics& metrics_;
  EngineClock::time_point arrival_;
  std::function<void()> on_change_;
  ReplyHead head_;
  uint64_t seed_;
  std::vector<Choice> choices_;
  int64_t open_choices_ = 0;
  std::optional<ApiError> error_;
  std::string output_;
  bool closed_ = false;  // the closing events are in output_
};

}  // namespace qg
