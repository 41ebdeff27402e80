#pragma once
// What run and bench share when the engine is behind a server: flags, and our own server as a child.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "bench/text_prompts.h"
#include "engines/openai_load.h"
#include "engines/serve_child.h"

namespace qg {

struct ServerFlags {
  bool served = false;  // --served: the native engine through `quantgrid serve`
  std::string base_url, api_key, api_key_file, server_model, prompts = "tokens";
  bool chat = false;
  double stall_timeout_s = 120, request_timeout_s = 3600;
};

void declare_server_flags(CLI::App& command, ServerFlags& flags);

// The address that the flags name; vocab: of the model, 0 when it is not known. Throws Error without --base-url.
ServerAddress server_address(const ServerFlags& flags, int64_t vocab);
// tokenizer (may be null): the model's own, for text prompts of exact length.
OpenAiLoadOptions load_options(const ServerFlags& flags, const Tokenizer* tokenizer);

std::filesystem::path this_program();

}  // namespace qg
