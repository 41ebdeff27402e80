// quantgrid serve: an OpenAI-compatible server over one model.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "card_here.h"
#include "core/file.h"
#include "core/log.h"
#include "core/open_files.h"
#include "grid/cards.h"
#include "grid/roofline.h"
#include "server/server.h"
#include "session.h"
#include "synthetic_model.h"
#include "tokenizer/chat.h"
#include "verb.h"

namespace qg {
namespace {

struct ServeFlags {
  ModelFlags model;
  SyntheticFlags synthetic;
  ServerOptions server;
  std::string api_key_file;
  EngineOptions engine;
  int64_t max_batch = 0, max_rows = 0, prefill_chunk = 0;  // 0: what suits the executor
  int64_t kv_tokens = 0;                                   // 0: from the machine's or the card's memory
  int64_t context_tokens = 0;                              // 0: replies may be preempted when they grow
  bool no_prefix_reuse = false;
};

// The name that clients use: the model as it was given, a folder without what stands before it.
std::string default_name(const std::string& model) {
  const std::filesystem::path path = std::filesystem::path(model).lexically_normal();
  if (!std::filesystem::is_directory(path)) return model;
  const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  return name.empty() || name == "." || name == ".." ? std::filesystem::canonical(path).filename().string() : name;
}

std::string read_key(const ServeFlags& flags) {
  if (flags.api_key_file.empty()) return flags.server.api_key;
  std::string key = read_file(flags.api_key_file, 4096);
  key.erase(key.find_last_not_of(" \t\r\n") + 1);
  if (key.empty()) throw Error("the file holds no key", flags.api_key_file, "write the key into its first line");
  return key;
}

int64_t room_for_connections(int64_t wanted) {
  const int64_t room = room_for_open_files(wanted);
  if (room < wanted) warn("only {} connections: this process may open no more files (ulimit -n)", room);
  return room;
}

EngineOptions engine_options(const ServeFlags& flags, const Session& session) {
  EngineOptions options = flags.engine;
  const bool cuda = session.executor_name() == "cuda";
  // A step of a processor is long: small chunks keep the replies that run from waiting for a newcomer's prompt.
  options.max_batch = flags.max_batch > 0 ? flags.max_batch : cuda ? 256 : 64;
  options.max_rows = flags.max_rows > 0 ? flags.max_rows : cuda ? 2048 : 512;
  options.prefill_chunk = flags.prefill_chunk > 0 ? flags.prefill_chunk : cuda ? 2048 : 128;
  options.max_rows = std::max(options.max_rows, options.max_batch);
  options.prefix_reuse = !flags.no_prefix_reuse;
  return options;
}

// No more replies at once than the KV cache holds with so many tokens each: who is preempted is computed twice.
int64_t replies_that_fit(const Executor& executor, int64_t context_tokens) {
  const int64_t pool_tokens = executor.num_pages() * executor.page_tokens();
  return std::max<int64_t>(1, pool_tokens / (context_tokens + executor.page_tokens()));
}

// What this card's data sheet allows; none for a processor or a card without a row.
RooflineTokensPerSecond roofline_here(const Session& session) {
  if (session.executor_name() != "cuda") return {};
  const Card* card = card_here(session.device());
  if (card == nullptr) return {};
  return [shape = session.shape(), card, weights = session.checkpoint()->quant().weights, kv = session.kv()](
             double batch, double context_tokens) {
    return decode_tok_s(shape, *card, weights, kv, std::max<int64_t>(1, std::llround(batch)), context_tokens);
  };
}

ExitCode serve(ServeFlags flags) {
  const auto synthetic = synthetic_checkpoint(flags.synthetic, flags.model.model);
  Session session(flags.model, synthetic);
  // Before the weights: it is quickly read, or refused.
  const Tokenizer tokenizer =
      synthetic && flags.model.tokenizer.empty() ? synthetic_tokenizer(session.shape().vocab) : session.tokenizer();
  flags.server.api_key = read_key(flags);
  if (flags.server.model_name.empty()) flags.server.model_name = default_name(flags.model.model);
  flags.server.max_connections = room_for_connections(flags.server.max_connections);
  flags.server.handle_signals = true;
  flags.server.roofline = roofline_here(session);
  ExecutorOptions executor_options = session.executor_options();
  if (flags.kv_tokens > 0)
    executor_options.num_pages = (flags.kv_tokens + executor_options.page_tokens - 1) / executor_options.page_tokens;
  EngineOptions engine_limits = engine_options(flags, session);
  executor_options.max_rows = engine_limits.max_rows;
  executor_options.max_pieces = engine_limits.max_batch;
  executor_options.deterministic = engine_limits.deterministic;
  std::shared_ptr<Executor> computing = session.make_executor(executor_options);
  if (flags.context_tokens > 0)
    engine_limits.max_batch = std::min(engine_limits.max_batch, replies_that_fit(*computing, flags.context_tokens));
  const auto engine = std::make_unique<Engine>(std::move(computing), engine_limits);

  Server server(*engine, tokenizer, flags.server);
  const Executor& executor = engine->executor();
  info("{} on the {} executor, {}, KV cache {} for {} tokens, at most {} replies at once", flags.server.model_name,
       executor.name(), to_string(executor.compute_path()), to_string(executor.kv_format()),
       executor.num_pages() * executor.page_tokens(), engine->options().max_batch);
  if (tokenizer.chat_template().empty()) info("the model has no chat template: only /v1/completions is of use");
  info("listening on {} (a page to talk to the model, /v1 for clients{}); Ctrl-C ends it", server.url(),
       flags.server.api_key.empty() ? "" : ", with the API key");
  if (flags.server.api_key.empty() && !server.is_local())
    warn("everybody who reaches {} may use it: --api-key-file asks for a key", server.url());
  server.run();
  info("stopped");
  return ExitCode::done;
}

void declare_limits(CLI::App& command, ServerOptions& server) {
  const auto add = [&](const char* name, auto& value, const char* what, auto least, auto most) {
    command.add_option(name, value, what)->check(CLI::Range(least, most))->group("Limits")->capture_default_str();
  };
  constexpr int64_t kBytes = int64_t{1} << 40;
  add("--max-body-bytes", server.http.max_body_bytes, "longest body of a request (413)", int64_t{1}, kBytes);
  add("--max-header-bytes", server.http.max_header_bytes, "longest header of a request (431)", int64_t{256},
      int64_t{1} << 20);
  add("--max-prompt-tokens", server.max_prompt_tokens, "longest prompt (400); 0: what the model takes", int64_t{0},
      int64_t{1} << 30);
  add("--max-queue", server.max_queue, "replies that wait for a place in the batch (429)", int64_t{0},
      int64_t{1} << 20);
  add("--max-connections", server.max_connections, "open connections (503)", int64_t{1}, int64_t{1} << 20);
  add("--max-unsent-bytes", server.max_unsent_bytes, "of a stream that its client does not read; then it is dropped",
      int64_t{1024}, kBytes);
  add("--read-timeout", server.read_timeout_s, "seconds from a request's first byte to its last (408)", .01, 86400.);
  add("--write-timeout", server.write_timeout_s, "seconds for a client to take a byte; then it is dropped", .01,
      86400.);
  add("--idle-timeout", server.idle_timeout_s, "seconds between two requests of a connection", .01, 86400.);
  add("--request-timeout", server.request_timeout_s, "seconds for a whole reply (504)", .01, 86400. * 365);
  add("--drain-timeout", server.drain_timeout_s, "seconds for running replies after SIGTERM", .0, 86400.);
}

std::function<ExitCode()> declare(CLI::App& command) {
  auto flags = std::make_shared<ServeFlags>();
  declare_model_flags(command, flags->model);
  declare_synthetic_flags(command, flags->synthetic);
  ServerOptions& server = flags->server;
  command.add_option("--host", server.host, "address to listen on; 0.0.0.0 or :: for every network")
      ->capture_default_str();
  command.add_option("--port", server.port, "0: any free one")->capture_default_str();
  command.add_option("--name", server.model_name, "the model's name for clients (default: its folder's)");
  auto* key = command.add_option("--api-key", server.api_key, "clients must send it as a bearer token");
  command.add_option("--api-key-file", flags->api_key_file, "the same from a file, which no list of processes shows")
      ->excludes(key);
  command.add_option("--allow-host", server.allowed_hosts, "one more name in Host headers of a server on localhost");
  command.add_option("--max-batch", flags->max_batch, "most replies that run at once (default 64; on a GPU 256)")
      ->check(CLI::Range(1, 1 << 16));
  command.add_option("--max-rows", flags->max_rows, "most tokens a step (default 512; on a GPU 2048)")
      ->check(CLI::Range(1, 1 << 20));
  command
      .add_option("--prefill-chunk", flags->prefill_chunk,
                  "most prompt tokens of one request a step (default 128; on a GPU 2048)")
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--kv-tokens", flags->kv_tokens, "tokens that the KV cache holds (default: from the memory)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  command
      .add_option("--context-tokens", flags->context_tokens,
                  "no more replies at once than the KV cache holds with so many tokens each")
      ->check(CLI::Range(1, 1 << 30));
  command.add_flag("--no-prefix-reuse", flags->no_prefix_reuse, "compute every prompt whole; for measurements");
  command.add_flag("--deterministic", flags->engine.deterministic,
                   "replies do not depend on what else runs, to the bit");
  declare_limits(command, server);
  return [flags] { return serve(*flags); };
}

const RegisterVerb kServe({150, "serve", "An OpenAI-compatible server over one model",
                           "quantgrid serve --model models/smollm2-135m-instruct --port 8000", declare});

}  // namespace
}  // namespace qg
