#include "served.h"

#include "core/error.h"
#include "core/file.h"

namespace qg {

void declare_server_flags(CLI::App& command, ServerFlags& flags) {
  const auto group = [](CLI::Option* option) { return option->group("Servers"); };
  group(
      command.add_flag("--served", flags.served,
                       "the engine through its own server, started for it: `quantgrid serve`, or the other engine's"));
  group(command.add_option("--base-url", flags.base_url, "with --engine openai: http://HOST:PORT of the server"));
  auto* key = group(command.add_option("--api-key", flags.api_key, "sent as a bearer token"));
  group(command.add_option("--api-key-file", flags.api_key_file,
                           "the same from a file, which no list of processes shows"))
      ->excludes(key);
  group(command.add_option("--server-model", flags.server_model,
                           "the model's name on the server (default: the only one that it lists)"));
  group(command.add_option("--prompts", flags.prompts, "tokens (ids), or text for servers that take no ids"))
      ->check(CLI::IsMember({"tokens", "text"}))
      ->capture_default_str();
  group(command.add_flag("--chat", flags.chat, "ask /v1/chat/completions, with text"));
  group(command.add_option("--stall-timeout", flags.stall_timeout_s, "seconds without a byte from the server")
            ->check(CLI::Range(0.1, 86400.))
            ->capture_default_str());
  group(command.add_option("--request-timeout", flags.request_timeout_s, "seconds for a whole reply")
            ->check(CLI::Range(0.1, 86400.))
            ->capture_default_str());
}

ServerAddress server_address(const ServerFlags& flags, int64_t vocab) {
  if (flags.base_url.empty()) throw Error("no server is named", "--engine openai", "add --base-url http://HOST:PORT");
  parse_base_url(flags.base_url);
  ServerAddress address{flags.base_url, flags.server_model, flags.api_key, vocab};
  if (!flags.api_key_file.empty()) {
    address.api_key = read_file(flags.api_key_file, 4096);
    address.api_key.erase(address.api_key.find_last_not_of(" \t\r\n") + 1);
  }
  return address;
}

OpenAiLoadOptions load_options(const ServerFlags& flags, const Tokenizer* tokenizer) {
  OpenAiLoadOptions options;
  options.prompts = flags.prompts == "text" || flags.chat ? PromptKind::text : PromptKind::tokens;
  options.chat = flags.chat;
  options.stall_timeout_s = flags.stall_timeout_s;
  options.request_timeout_s = flags.request_timeout_s;
  if (options.prompts == PromptKind::text) {
    const auto words = std::make_shared<TextPrompts>(tokenizer ? TextPrompts(*tokenizer) : TextPrompts());
    options.text = [words](std::span<const int32_t> ids) { return words->text(ids); };
  }
  return options;
}

std::filesystem::path this_program() {
  return std::filesystem::read_symlink("/proc/self/exe");
}

}  // namespace qg
