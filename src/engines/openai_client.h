#pragma once
// A load client for streams of completions: thousands of requests at once from one thread, on Boost.Asio. Connections
// are kept and used again while that is safe; a request is never sent twice.
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engines/openai_request.h"

namespace qg {

using ClientClock = std::chrono::steady_clock;

struct ClientOptions {
  BaseUrl base;
  std::string api_key;
  double connect_timeout_s = 10;
  double stall_timeout_s = 120;     // without a byte from the server
  double request_timeout_s = 3600;  // for a whole stream
  double lag_every_s = 0.005;       // how often the event loop's lag is looked at
};

// What became of one request, or a part of it.
struct StreamEvent {
  int64_t request = 0;
  int64_t tokens = 0;  // that came with it
  ClientClock::time_point time;
  bool finished = false;
  std::string error, error_code;  // of one that failed: a sentence, and a word (see kClientErrors)
};

// Words for what went wrong: connect, timeout, http_NNN, content_type, garbage, stream_cut, server_error, wrong_count.
inline constexpr const char* kErrorTimeout = "timeout";

struct ClientCounts {
  int64_t connections_opened = 0, connections_open_most = 0;
  int64_t prompt_tokens = 0, completion_tokens = 0;      // as the server counts; of requests that ended well
  int64_t prompts_counted = 0, completions_counted = 0;  // requests whose tokens the server counted
  int64_t uncounted = 0;      // requests that ended well without a count: their pieces of text were counted
  int64_t short_replies = 0;  // ended before the tokens that were asked for
  int64_t ended = 0;          // well
  std::map<std::string, int64_t> failures;  // by error_code
};

class OpenAiClient {
 public:
  // Throws Error when the host has no address.
  explicit OpenAiClient(ClientOptions options);
  ~OpenAiClient();

  // Sends a request; its events carry `id`. output_tokens: as the body asks for.
  void post(int64_t id, std::string path, std::string body, int64_t output_tokens);
  int64_t in_flight() const;
  // Runs the event loop until something came or the deadline passed.
  void run_until(ClientClock::time_point deadline);
  std::vector<StreamEvent> take_events();

  // One request whose answer is no stream (status and body); blocks for at most `limit_s`. Throws Error when nothing
  // sound comes.
  struct Answer {
    int status = 0;
    std::string body, server;  // server: the Server header
  };
  Answer ask(std::string_view method, std::string_view path, std::string_view body, double limit_s);

  const ClientCounts& counts() const;
  void reset_counts();  // but failures, which stay
  // How late the event loop came to its timers since reset_lag(), in milliseconds.
  const std::vector<double>& lag_ms() const;
  void reset_lag();

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace qg
