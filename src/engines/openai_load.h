#pragma once
// The load client as the grid sees it: a workload against a server that is up, and what became of it as a value.
#include <functional>
#include <string>

#include "bench/measure.h"
#include "engines/engine_run.h"
#include "engines/openai_target.h"

namespace qg {

enum class PromptKind { tokens, text };

struct OpenAiLoadOptions {
  PromptKind prompts = PromptKind::tokens;
  bool chat = false;  // /v1/chat/completions with text; else /v1/completions
  PromptText text;    // of token ids; needed for text prompts and chat
  double connect_timeout_s = 10, stall_timeout_s = 120, request_timeout_s = 3600;
  double limit_s = 0;                            // of a whole load, probe and warm-up included: a timeout; 0: none
  std::function<void(int64_t tokens)> on_token;  // of warm-up and rounds; may be empty
  std::function<void()> on_start;                // when the warm-up is over; may be empty
};

// `result` (may be null) gets the figures in bench's own form.
// A run with failed requests is `failed`, however many went well: its rows are not a measurement of the workload. One
// whose replies were shorter than asked for, or whose prompts have another length by the server's count, is `invalid`.
EngineRun measure_server(const ServerAddress& server, const Load& load, const OpenAiLoadOptions& options,
                         BenchResult* result = nullptr);

// For engines that start a server (engine_run.h). on_token and on_start are those of the options.
ServedLoad openai_served_load(OpenAiLoadOptions options);

// A server with a prefix cache has seen the prompts of the workload before: each workload has its own.
uint64_t workload_seed(const std::string& workload);

}  // namespace qg
