// quantgrid generate: text from a model, as it comes; --chat holds a conversation.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <utility>

#include "core/file.h"
#include "core/interrupt.h"
#include "core/json_text.h"
#include "core/log.h"
#include "session.h"
#include "tokenizer/chat.h"
#include "verb.h"

namespace qg {
namespace {

struct GenerateFlags {
  ModelFlags model;
  std::string prompt, prompt_file, system;
  bool chat = false, ignore_stop = false, json = false, deterministic = false;
  int64_t max_tokens = 256;
  SamplingParams sampling;
};

struct Answer {
  std::string text;
  std::vector<TokenId> tokens;
  int64_t prompt_tokens = 0, reused_tokens = 0;
  FinishReason finish = FinishReason::none;
  double first_token_s = 0;  // from the request on
  double decode_s = 0;       // from the first token to the last

  double tokens_per_s() const { return decode_s > 0 ? static_cast<double>(tokens.size() - 1) / decode_s : 0; }
};

double seconds_between(EngineClock::time_point from, EngineClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

void print_text(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Runs one request to its end; text goes to standard output as it comes, unless `silent`. goes_on: the answer is more
// of the prompt's text.
Answer run_request(Engine& engine, const Tokenizer& tokenizer, Request request, bool goes_on, bool silent) {
  Answer answer;
  answer.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const int64_t reused_before = engine.stats().reused_tokens;
  StreamDecoder decoder(tokenizer);
  if (goes_on) decoder.go_on_after(request.prompt);
  const auto emit = [&](std::string piece) {
    if (!silent) print_text(piece);
    answer.text += piece;
  };
  const EngineClock::time_point start = EngineClock::now();
  EngineClock::time_point first = start, last = start;
  std::string refusal;
  engine.add(std::move(request));
  while (!engine.idle()) {
    stop_if_interrupted("it starts anew");
    engine.step([&](const TokenEvent& event) {
      if (event.token >= 0) {
        if (answer.tokens.empty()) first = event.time;
        last = event.time;
        answer.tokens.push_back(event.token);
        if (event.finish != FinishReason::stop) emit(decoder.push(event.token));
      }
      if (event.finish != FinishReason::none) answer.finish = event.finish;
      refusal = event.reason;
    });
  }
  emit(decoder.finish());
  if (answer.finish == FinishReason::refused)
    throw Error("the request cannot run: " + refusal, "", "shorten the prompt, or give a smaller --max-tokens");
  if (answer.finish == FinishReason::failed) throw Error("the request failed: " + refusal);
  answer.reused_tokens = engine.stats().reused_tokens - reused_before;
  answer.first_token_s = seconds_between(start, first);
  answer.decode_s = seconds_between(first, last);
  return answer;
}

Json to_json(const Answer& answer, const Session& session) {
  return Json{{"text", answer.text},
              {"tokens", answer.tokens},
              {"finish", to_string(answer.finish)},
              {"prompt_tokens", answer.prompt_tokens},
              {"reused_tokens", answer.reused_tokens},
              {"output_tokens", answer.tokens.size()},
              {"ttft_ms", answer.first_token_s * 1000},
              {"output_tok_s", answer.tokens_per_s()},
              {"kv", to_string(session.kv())},
              {"executor", session.executor_name()}};
}

void report_speed(const Answer& answer) {
  const int64_t computed = answer.prompt_tokens - answer.reused_tokens;
  const std::string reused = answer.reused_tokens > 0 ? fmt::format(" ({} reused)", answer.reused_tokens) : "";
  const std::string prefill_rate =
      answer.first_token_s > 0 ? fmt::format(", {:.1f} tokens/s", computed / answer.first_token_s) : "";
  info("prompt: {} tokens{}, first token after {:.2f} s{}", answer.prompt_tokens, reused, answer.first_token_s,
       prefill_rate);
  info("answer: {} tokens, {:.1f} tokens/s, ended by {}", answer.tokens.size(), answer.tokens_per_s(),
       to_string(answer.finish));
}

class Generator {
 public:
  explicit Generator(const GenerateFlags& flags) : flags_(flags), session_(flags.model) {
    if (flags_.chat) chat_family(session_.tokenizer());  // a model without a known template is refused before loading
  }

  // One prompt, as it stands.
  void complete(const std::string& prompt) {
    std::vector<TokenId> tokens = session_.tokenizer().encode(prompt, true);
    if (tokens.empty()) throw Error("the prompt is empty", "--prompt", "give some text");
    ExecutorOptions options;
    const int64_t all = static_cast<int64_t>(tokens.size()) + flags_.max_tokens;
    options.num_pages = (all + options.page_tokens - 1) / options.page_tokens;
    // A request that is too long for the model is refused below: it needs no memory.
    options.num_pages = std::min(options.num_pages, pages_of_bytes(options, session_.default_kv_bytes(1)));
    open_engine(options);
    finish_turn(run(std::move(tokens), true));
    if (flags_.json) std::cout << json_text(results_.front(), 2) << "\n";
  }

  // A conversation: `prompt`, or a line of standard input for each turn.
  void converse() {
    ExecutorOptions options;
    options.kv_bytes = session_.default_kv_bytes(1);
    options.less_kv_will_do = true;  // a conversation may end before the model's context does
    open_engine(options);
    if (!flags_.system.empty()) messages_.push_back({"system", flags_.system});
    if (!flags_.prompt.empty()) {
      turn(flags_.prompt);
      if (flags_.json) std::cout << json_text(results_.front(), 2) << "\n";
      return;
    }
    const bool interactive = isatty(STDIN_FILENO) != 0;
    if (interactive) std::fprintf(stderr, "A line is a question; Ctrl-D ends the conversation.\n");
    std::string line;
    for (;;) {
      if (interactive) std::fprintf(stderr, "> ");
      if (!std::getline(std::cin, line)) break;
      if (!line.empty()) turn(line);
    }
    stop_if_interrupted("it starts anew");
    if (flags_.json) std::cout << json_text(Json(results_), 2) << "\n";
  }

 private:
  static int64_t page_bytes(const Session& session, int64_t page_tokens) {
    return page_tokens * session.shape().kv_elements_per_token() * element_bytes(session.kv());
  }
  int64_t pages_of_bytes(const ExecutorOptions& options, int64_t bytes) const {
    return std::max<int64_t>(1, bytes / page_bytes(session_, options.page_tokens));
  }

  void open_engine(const ExecutorOptions& executor_options) {
    EngineOptions options;
    options.max_batch = 1;
    options.deterministic = flags_.deterministic;
    engine_ = session_.make_engine(options, executor_options);
  }

  Answer run(std::vector<TokenId> prompt, bool goes_on) {
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = flags_.max_tokens;
    request.stop_tokens = session_.tokenizer().eos();
    request.ignore_stop = flags_.ignore_stop;
    request.sampling = flags_.sampling;
    return run_request(*engine_, session_.tokenizer(), std::move(request), goes_on, flags_.json);
  }

  void turn(const std::string& question) {
    messages_.push_back({"user", question});
    const std::string text = render_chat(session_.tokenizer(), messages_, true);
    const Answer answer = run(session_.tokenizer().encode(text, false), false);
    messages_.push_back({"assistant", answer.text});
    finish_turn(answer);
  }

  void finish_turn(const Answer& answer) {
    if (!flags_.json) print_text("\n");
    report_speed(answer);
    results_.push_back(to_json(answer, session_));
  }

  const GenerateFlags& flags_;
  Session session_;
  std::unique_ptr<Engine> engine_;
  std::vector<ChatMessage> messages_;
  std::vector<Json> results_;
};

ExitCode generate(const GenerateFlags& flags) {
  if (!flags.chat && flags.prompt.empty() && flags.prompt_file.empty())
    throw Error("there is no prompt", "", "give --prompt TEXT, --prompt-file FILE or --chat");
  if (!flags.chat && !flags.system.empty())
    throw Error("--system is for conversations", "", "add --chat, or leave it out");
  const std::string prompt = flags.prompt_file.empty() ? flags.prompt : read_file(flags.prompt_file);
  Generator generator(flags);
  if (flags.chat)
    generator.converse();
  else
    generator.complete(prompt);
  return ExitCode::done;
}

std::function<ExitCode()> declare(CLI::App& command) {
  auto flags = std::make_shared<GenerateFlags>();
  declare_model_flags(command, flags->model);
  auto* prompt = command.add_option("--prompt", flags->prompt, "text to go on from; with --chat, the one question");
  auto* file = command.add_option("--prompt-file", flags->prompt_file, "file with the text to go on from");
  auto* chat = command.add_flag("--chat", flags->chat, "conversation: a line of standard input is a question");
  file->excludes(prompt)->excludes(chat);
  command.add_option("--system", flags->system, "with --chat: what the model is told before the conversation");
  command.add_option("--max-tokens", flags->max_tokens, "most tokens of an answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--temperature", flags->sampling.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0f, 100.0f))
      ->capture_default_str();
  command.add_option("--top-k", flags->sampling.top_k, "draw from the k likeliest tokens (0: all)")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_option("--top-p", flags->sampling.top_p, "draw from the likeliest tokens that make up this share")
      ->check(CLI::Range(1e-6f, 1.0f))
      ->capture_default_str();
  command.add_option("--seed", flags->sampling.seed, "the same seed gives the same text")->capture_default_str();
  command.add_flag("--ignore-stop", flags->ignore_stop, "go on to --max-tokens");
  command.add_flag("--deterministic", flags->deterministic, "results equal to the bit whatever the batch");
  command.add_flag("--json", flags->json, "one object (a list of them for a conversation) instead of text");
  return [flags] { return generate(*flags); };
}

const RegisterVerb kGenerate(
    {60, "generate", "Text from a model; --chat for a conversation",
     "quantgrid generate --model models/smollm2-135m-instruct --chat --prompt 'What is a GPU?'", declare});

}  // namespace
}  // namespace qg
