#pragma once
// What a server is and takes, asked before anything is measured: its model and version, and which fields beyond
// OpenAI's own it knows. A few short requests; none of them counts.
#include <optional>
#include <string>

#include "engines/engine_run.h"
#include "engines/openai_target.h"

namespace qg {

inline constexpr int64_t kProbeOutputTokens = 4;

struct ServerFacts {
  RequestDialect dialect;                // with the model's name, without what the server refused
  std::vector<std::string> models;       // that it lists
  std::string version;                   // "vllm 0.12.0"; what it says of itself, empty when it says nothing
  std::string left_out;                  // fields that it refused, for people
  bool counts_tokens = false;            // its streams carry usage
  std::optional<int64_t> prompt_tokens;  // of the probe's prompt, as it counts them
};

// Its model and version alone: facts.dialect.model is the wanted name, empty for the only one that it lists.
EngineRun identify_server(OpenAiClient& client, ServerFacts& facts);

// `wanted`: with all that would be of use. The probe's prompt has probe_tokens tokens. A run that is not ok says why
// nothing can be measured: no connection, no such model, prompts that it does not take, no answer.
EngineRun probe_server(OpenAiClient& client, const RequestDialect& wanted, int64_t probe_tokens, int64_t vocab,
                       const PromptText& text, ServerFacts& facts);

// Status of a failure by its word (openai_client.h) and sentence.
CaseStatus status_of_failure(const std::string& code, const std::string& reason);

}  // namespace qg
