// quantgrid eval: perplexity, KL divergence and top-1 agreement against a base model; accuracy on a user's questions.
#include <fmt/format.h>

#include <cstdio>
#include <span>

#include "core/json_text.h"
#include "core/progress.h"
#include "eval/choices.h"
#include "eval/fidelity.h"
#include "session.h"
#include "verb.h"

namespace qg {
namespace {

struct EvalFlags {
  ModelFlags model;
  std::string base, base_kv = "fp16", base_executor, text, tasks;
  std::vector<std::string> also;  // more folders, scored in the same pass over the base
  EvalProtocol protocol;
  bool json = false;
};

constexpr int64_t kMostPieces = 64;  // windows and answers go through one or a few at a time

// Steps of `rows` tokens, of sequences of up to `tokens`.
std::unique_ptr<Executor> executor_of(const Session& session, int64_t tokens, int64_t rows) {
  ExecutorOptions options = session.executor_options();
  options.num_pages = (tokens + options.page_tokens - 1) / options.page_tokens;
  options.max_rows = rows;
  options.max_pieces = kMostPieces;
  return session.make_executor(options);
}

Session base_session(const EvalFlags& flags) {
  ModelFlags base = flags.model;
  base.model = flags.base.empty() ? flags.model.model : flags.base;
  base.kv = flags.base_kv;
  base.dtype = "fp16";
  if (!flags.base_executor.empty()) base.executor = flags.base_executor;
  if (base.executor == "cpu" && flags.model.executor != "cpu") {  // --gpu and --shared are of the other's
    base.gpu.clear();
    base.shared = false;
  }
  return Session(base);
}

Json interval_json(const Interval& interval) {
  return Json::array({interval.lo, interval.hi});
}

Json text_json(const EvalFlags& flags, const EvalText& text, const FidelityResult& r, const Session& candidate,
               const Executor& executor) {
  Json json;
  json["model"] = candidate.checkpoint()->folder().filename().string();
  json["ppl"] = r.ppl.value;
  json["ppl_ci"] = interval_json(r.ppl);
  json["base_ppl"] = r.base_ppl.value;
  json["base_ppl_ci"] = interval_json(r.base_ppl);
  json["ppl_ratio"] = r.ppl_ratio.value;
  json["ppl_ratio_ci"] = interval_json(r.ppl_ratio);
  json["kld_mean"] = r.kld_mean.value;
  json["kld_mean_ci"] = interval_json(r.kld_mean);
  json["top1"] = r.top1.value;
  json["top1_ci"] = interval_json(r.top1);
  json["windows"] = r.windows;
  json["tokens"] = r.tokens;
  json["protocol"] = flags.protocol.describe();
  json["text"] = text.name;
  json["text_sha256"] = text.hash;
  json["kv"] = std::string(to_string(candidate.kv()));
  json["compute_path"] = std::string(to_string(executor.compute_path()));
  return json;
}

// One object a candidate.
std::vector<Json> run_text(const EvalFlags& flags, Session& base, std::span<const Session> candidates) {
  const EvalText text = cut_windows(base.tokenizer(), flags.text, flags.protocol);
  const auto base_executor = executor_of(base, flags.protocol.window, kFidelityRows);
  std::vector<std::unique_ptr<Executor>> executors;
  std::vector<Executor*> scored;
  for (const Session& candidate : candidates) {
    executors.push_back(executor_of(candidate, flags.protocol.window, kFidelityRows));
    scored.push_back(executors.back().get());
  }
  Progress progress("evaluate",
                    static_cast<int64_t>(1 + scored.size()) * flags.protocol.windows * flags.protocol.window, "tokens");
  const FidelityScores scores =
      score_fidelity(*base_executor, scored, text, [&](int64_t tokens) { progress.advance(tokens); });
  std::vector<Json> results;
  for (size_t c = 0; c < scored.size(); ++c)
    results.push_back(text_json(flags, text, summarize(scores.base, scores.candidates[c], flags.protocol.windows),
                                candidates[c], *scored[c]));
  return results;
}

Json run_tasks(const EvalFlags& flags, Session& base, Session& candidate) {
  const std::vector<ChoiceItem> items = read_choices(flags.tasks);
  const auto base_executor = executor_of(base, 4096, 4096);
  const auto executor = executor_of(candidate, 4096, 4096);
  Progress progress("answer", 2 * static_cast<int64_t>(items.size()), "questions");
  const auto step = [&] { progress.advance(); };
  const std::vector<double> base_correct = score_choices(*base_executor, base.tokenizer(), items, step);
  const std::vector<double> correct = score_choices(*executor, candidate.tokenizer(), items, step);
  const ChoiceResult r = compare_choices(base_correct, correct);
  Json json;
  json["items"] = r.items;
  json["accuracy"] = r.accuracy.value;
  json["accuracy_ci"] = interval_json(r.accuracy);
  json["base_accuracy"] = r.base_accuracy.value;
  json["base_accuracy_ci"] = interval_json(r.base_accuracy);
  json["flip_rate"] = r.flip_rate;
  json["mcnemar_p"] = r.mcnemar_p;
  return json;
}

std::string with_interval(const Json& json, const std::string& key, int digits) {
  return fmt::format("{:.{}f}  (95 %: {:.{}f} to {:.{}f})", json[key].get<double>(), digits,
                     json[key + "_ci"][0].get<double>(), digits, json[key + "_ci"][1].get<double>(), digits);
}

void print_text(const Json& json) {
  fmt::print("perplexity        {}\n", with_interval(json, "ppl", 3));
  fmt::print("  of the base     {}\n", with_interval(json, "base_ppl", 3));
  fmt::print("  ratio           {}\n", with_interval(json, "ppl_ratio", 4));
  fmt::print("KL divergence     {} nats\n", with_interval(json, "kld_mean", 5));
  fmt::print("top-1 agreement   {}\n", with_interval(json, "top1", 4));
  fmt::print("text              {}, {}, {} scored tokens, KV {}, {}\n", json["text"].get<std::string>(),
             json["protocol"].get<std::string>(), json["tokens"].get<int64_t>(), json["kv"].get<std::string>(),
             json["compute_path"].get<std::string>());
}

ExitCode run(const EvalFlags& flags) {
  if (flags.text.empty() && flags.tasks.empty())
    throw Error("nothing to evaluate on", "", "give --text FILE, --tasks FILE.jsonl, or both");
  if (!flags.also.empty() && (flags.text.empty() || !flags.tasks.empty()))
    throw Error("--also scores texts", "--also", "give --text FILE, and --tasks in a call of its own");
  Session base = base_session(flags);
  std::vector<Session> candidates;
  candidates.emplace_back(flags.model);
  for (const std::string& folder : flags.also) {
    ModelFlags one = flags.model;
    one.model = folder;
    candidates.emplace_back(one);
  }
  std::vector<Json> results{Json::object()};
  if (!flags.text.empty()) results = run_text(flags, base, candidates);
  Json& result = results[0];
  if (!flags.tasks.empty()) result["tasks"] = run_tasks(flags, base, candidates[0]);
  if (flags.json) {
    fmt::print("{}\n", json_text(flags.also.empty() ? result : Json(results), 2));
    return ExitCode::done;
  }
  for (const Json& of_text : results) {
    if (flags.text.empty()) break;
    if (results.size() > 1)
      fmt::print("{}{}\n", &of_text == &results[0] ? "" : "\n", of_text["model"].get<std::string>());
    print_text(of_text);
  }
  if (!flags.tasks.empty()) {
    const Json& tasks = result["tasks"];
    fmt::print("questions         {}\n", tasks["items"].get<int64_t>());
    fmt::print("  accuracy        {}\n", with_interval(tasks, "accuracy", 4));
    fmt::print("  of the base     {}\n", with_interval(tasks, "base_accuracy", 4));
    fmt::print("  changed         {:.2f} %, McNemar p = {:.3f}\n", 100 * tasks["flip_rate"].get<double>(),
               tasks["mcnemar_p"].get<double>());
  }
  return ExitCode::done;
}

const RegisterVerb kVerb(
    {80, "eval", "Perplexity, KL divergence and top-1 agreement against the base model",
     "quantgrid eval --model CKPT --base models/smollm2-135m-instruct --text models/texts/evaluation.txt",
     [](CLI::App& command) -> std::function<ExitCode()> {
       auto flags = std::make_shared<EvalFlags>();
       declare_model_flags(command, flags->model);
       command.add_option("--base", flags->base, "the unquantized model to compare with (default: --model itself)");
       command.add_option("--base-kv", flags->base_kv, "KV format of the base")
           ->check(CLI::IsMember({"fp16", "fp8", "int8"}))
           ->capture_default_str();
       command
           .add_option("--base-executor", flags->base_executor,
                       "cpu or cuda for the base (default: the same as for --model); a GPU computes it in FP16")
           ->check(CLI::IsMember({"cpu", "cuda"}));
       command.add_option("--text", flags->text, "text file to score");
       command.add_option(
           "--also", flags->also,
           "more folders to score on the text in the same pass over the base; --json then prints a list");
       command.add_option("--tasks", flags->tasks, "multiple-choice questions, one JSON object a line");
       command.add_option("--windows", flags->protocol.windows, "windows of the text")
           ->check(CLI::Range(1, 1000000))
           ->capture_default_str();
       command.add_option("--window", flags->protocol.window, "tokens of a window")
           ->check(CLI::Range(2, 1000000))
           ->capture_default_str();
       command.add_flag("--bos", flags->protocol.bos, "start each window with the BOS token");
       command.add_flag("--json", flags->json, "print JSON");
       return [flags] { return run(*flags); };
     }});

}  // namespace
}  // namespace qg
