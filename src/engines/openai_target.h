#pragma once
// A server with OpenAI's API as a target of bench: measured by the same clock, workloads and arithmetic as the engine
// in this process.
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/target.h"
#include "engines/openai_client.h"

namespace qg {

// A prompt of token ids as text, for servers (and endpoints) that take no ids. See text_prompts.h.
using PromptText = std::function<std::string(std::span<const int32_t> tokens)>;

class OpenAiTarget : public LoadTarget {
 public:
  // vocab: prompts are drawn from ids below it. text: needed when the dialect has no token prompts.
  OpenAiTarget(ClientOptions options, RequestDialect dialect, int64_t vocab, PromptText text = {});

  int64_t submit(std::vector<int32_t> prompt, int64_t output_tokens) override;
  bool poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) override;
  int64_t vocab() const override { return vocab_; }
  double achieved_batch() const override { return 0; }  // only the server knows
  void reset_statistics() override;
  std::vector<std::string> kernels() const override { return {}; }
  std::string compute_path() const override { return {}; }

  // Since reset_statistics(), of which the measured rounds begin.
  const ClientCounts& counts() const { return client_.counts(); }
  struct Overhead {
    double lag_ms_p50 = 0, lag_ms_p99 = 0, lag_ms_max = 0;  // how late the client's event loop was
    double cpu_share = 0;                                   // of one processor that the client's thread used
  };
  Overhead overhead() const;
  OpenAiClient& client() { return client_; }

 private:
  OpenAiClient client_;
  RequestDialect dialect_;
  int64_t vocab_, next_ = 0;
  PromptText text_;
  double cpu_before_s_ = 0;
  EngineClock::time_point since_;
};

}  // namespace qg
