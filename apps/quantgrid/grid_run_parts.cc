// The three parts of a case: accuracy, speed, memory.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "bench/load_record.h"
#include "bench/measure.h"
#include "bench/rate.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/progress.h"
#include "eval/fidelity.h"
#include "grid/memory.h"
#include "grid/roofline.h"
#include "grid_run.h"
#include "runtime/device_probe.h"

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

EvalProtocol protocol_of(const AccuracySettings& settings) {
  EvalProtocol protocol;
  protocol.windows = settings.windows;
  protocol.window = settings.window_tokens;
  return protocol;
}

void set_interval(Record& row, const Interval& interval, int64_t tokens) {
  row.ci_lo = interval.lo;
  row.ci_hi = interval.hi;
  row.ci_level = 0.95;
  row.ci_method = "block_bootstrap";
  row.n = tokens;
}

// The base's own figures: no distance from itself.
TokenScores same_as_base(const TokenScores& base) {
  TokenScores same = base;
  same.kld.assign(same.nll.size(), 0.0);
  same.top1.assign(same.nll.size(), 1.0);
  return same;
}

RanKernels kernels_of(const Executor& ran) {
  return {std::string(to_string(ran.compute_path())), ran.kernels()};
}

std::vector<Record> speed_rows(const Record& common, const BenchResult& r, const Load& load, bool has_own_peak) {
  std::vector<Record> rows;
  const auto add = [&](std::string_view metric, double value) {
    return &rows.emplace_back(measured(common, metric, value));
  };
  Record* speed = add(load.speed == SpeedKind::prefill ? "prefill_tok_s" : "output_tok_s", r.output_tok_s.value);
  if (r.output_tok_s.has_interval()) {
    speed->ci_lo = r.output_tok_s.ci_lo;
    speed->ci_hi = r.output_tok_s.ci_hi;
    speed->ci_level = 0.95;
    speed->ci_method = load.speed == SpeedKind::throughput ? "slices" : "t_log";
  }
  speed->n = r.output_tok_s.n;
  if (load.arrival == Arrival::rate) {
    add("total_tok_s", r.total_tok_s);
    add("batch_achieved", r.batch_achieved);
    for (const LoadFigure& figure : rate_figures(r)) {
      Record* row = add(figure.metric, figure.value);
      row->n = figure.n;
      if (figure.ci_lo == figure.ci_hi) continue;
      row->ci_lo = figure.ci_lo;
      row->ci_hi = figure.ci_hi;
      row->ci_level = 0.95;
      row->ci_method = "binomial";
    }
    if (has_own_peak) add("peak_rss_bytes", static_cast<double>(peak_rss_bytes()));
    return rows;
  }
  add("ttft_ms_p50", r.ttft_ms_p50);
  if (load.speed != SpeedKind::prefill) {
    add("total_tok_s", r.total_tok_s);
    add("tpot_ms_p50", r.tpot_ms_p50);
    add("itl_ms_p99", r.itl_ms_p99);
    add("batch_achieved", r.batch_achieved);
  }
  if (has_own_peak) add("peak_rss_bytes", static_cast<double>(peak_rss_bytes()));
  return rows;
}

}  // namespace

// Clocks, temperature and energy over the measured time.
void add_conditions(const GpuUse& use, Record& common) {
  common.sm_mhz_mean = use.sm_mhz_mean;
  common.temp_c_max = use.temperature_c_max;
  if (!use.energy_j) return;
  common.energy_j = use.energy_j;
  common.energy_source = "counter";
}

void add_gpu_rows(const Record& common, const BenchResult& r, const GpuUse& use, std::vector<Record>& rows) {
  if (use.memory_bytes_max)
    rows.push_back(measured(common, "peak_gpu_bytes", static_cast<double>(*use.memory_bytes_max)));
  if (use.energy_j && r.window_tokens > 0)
    rows.push_back(measured(common, "j_per_output_token", *use.energy_j / static_cast<double>(r.window_tokens)));
  if (use.power_w_mean) rows.push_back(measured(common, "power_w_mean", *use.power_w_mean));
}

void GridRun::require_accuracy_text() const {
  if (!std::filesystem::exists(grid_.accuracy.text))
    throw Error("the text that accuracy is measured on is not here", grid_.accuracy.text.string(),
                "correct `text` of [accuracy] in " + grid_.file.string() + " (`make texts` makes the demo's)");
}

std::string GridRun::accuracy_description() {
  const std::filesystem::path& text = grid_.accuracy.text;
  // By its bytes: a text that was edited, or another of the same name, has other figures.
  if (text_hash_.empty() && std::filesystem::exists(text)) text_hash_ = sha256_file(text);
  return protocol_of(grid_.accuracy).describe() + ", " + text.filename().string() + " " + text_hash_;
}

// Of the case's card, whose memory the rows are about, also where the CPU executor judges its accuracy.
TiedEmbedding GridRun::tied_embedding_of(const Case& c) const {
  return tied_embedding(EngineId::native, options_.executor == "cuda" || !grid_.card(c.gpu).is_cpu());
}

// Rows of a tied embedding that is held twice are told from those of a time when it was counted once.
std::string GridRun::memory_description(Model& m, const Case& c) const {
  const bool twice = m.base->table().shape.tied_embeddings && tied_embedding_of(c) == TiedEmbedding::twice;
  return fmt::format("{} tokens{}", grid_.gates.context_tokens, twice ? ", tied embedding held twice" : "");
}

// All candidates of a batch are in memory beside the base, so that they share one pass of it. 0: there is no room for
// one.
int64_t GridRun::candidates_at_once(const ModelShape& shape) const {
  double memory = 0.5 * static_cast<double>(physical_memory_bytes());
  // The CPU executor may hold the linear layers as floats.
  double each = 4.0 * static_cast<double>(shape.linear_params() + 2 * shape.embedding_params());
  if (options_.executor == "cuda") {
    memory = kUsableMemoryShare * static_cast<double>(grid_.card(options_.measured_on).memory_bytes);
    each = static_cast<double>(weights_bytes(shape, WeightFormat::fp16, TiedEmbedding::twice)) +
           kReservedBytes;  // no format has more
  }
  return std::max<int64_t>(0, static_cast<int64_t>(memory / each) - 1);
}

void GridRun::run_accuracy(Model& m, const std::vector<Case>& cases) {
  std::vector<Case> todo;
  for (const Case& c : cases)
    if (wanted(part(m, c, "accuracy", accuracy_description()))) todo.push_back(c);
  if (todo.empty()) return;
  const EvalText text = cut_windows(*m.tokenizer, grid_.accuracy.text, protocol_of(grid_.accuracy));
  const int64_t fit = options_.accuracy_apart ? 0 : candidates_at_once(m.base->table().shape);
  const auto count = static_cast<int64_t>(todo.size()), at_once = fit > 0 ? fit : count;
  for (int64_t begin = 0; begin < count; begin += at_once) {
    const std::vector<Case> batch(todo.begin() + begin, todo.begin() + std::min(count, begin + at_once));
    try {
      if (fit > 0)
        run_accuracy_batch(m, batch, text);
      else
        run_accuracy_apart(m, batch, text);
    } catch (const Error& e) {  // of the base: its candidates have nothing to be compared with, but may have a speed
      if (e.code() == ExitCode::interrupted) throw;
      for (const Case& c : batch) {
        const CellPart p = part(m, c, "accuracy", accuracy_description());
        const Attempt* last = journal_.last_attempt(p.key);
        const bool told = last && last->done.subject.run_id == journal_.environment().run_id;
        if (!told) append_failure(common_record(m, c, p), e.what());
      }
    }
  }
}

std::unique_ptr<Executor> GridRun::accuracy_base(Model& m, const Case& of) {
  Case base = of;
  base.weights = WeightFormat::fp16;
  base.kv = KvFormat::fp16;
  const int64_t window = grid_.accuracy.window_tokens;
  return executor(m, base, window, kFidelityRows);
}

std::unique_ptr<Executor> GridRun::accuracy_candidate(Model& m, const Case& c) {
  const int64_t window = grid_.accuracy.window_tokens;
  try {
    return executor(m, c, window, kFidelityRows);
  } catch (const Error& e) {
    if (e.code() == ExitCode::interrupted) throw;
    append_failure(common_record(m, c, part(m, c, "accuracy", accuracy_description())), e.what());
    return nullptr;
  }
}

void GridRun::run_accuracy_batch(Model& m, const std::vector<Case>& cases, const EvalText& text) {
  const auto start = Clock::now();
  const auto base = accuracy_base(m, cases.front());
  std::vector<std::unique_ptr<Executor>> owned;
  std::vector<Executor*> candidates;
  std::vector<Case> compared;
  for (const Case& c : cases) {
    if (c.is_fp16_baseline()) continue;  // the base itself
    auto candidate = accuracy_candidate(m, c);
    if (!candidate) continue;
    candidates.push_back(owned.emplace_back(std::move(candidate)).get());
    compared.push_back(c);
  }
  FidelityScores scores;
  {
    const auto passes = static_cast<int64_t>(candidates.size()) + 1;
    Progress progress("accuracy of " + m.row->name, passes * grid_.accuracy.windows * grid_.accuracy.window_tokens,
                      "tokens");
    scores = score_fidelity(*base, candidates, text, [&](int64_t tokens) { progress.advance(tokens); });
  }
  const double seconds = seconds_since(start) / static_cast<double>(std::max<size_t>(1, cases.size()));
  for (const Case& c : cases)
    if (c.is_fp16_baseline())
      append_accuracy(m, c, text, scores.base, same_as_base(scores.base), kernels_of(*base), seconds);
  for (size_t i = 0; i < compared.size(); ++i)
    append_accuracy(m, compared[i], text, scores.base, scores.candidates[i], kernels_of(*candidates[i]), seconds);
}

// One model after the other, where there is no room for two: the base's logits are kept.
void GridRun::run_accuracy_apart(Model& m, const std::vector<Case>& cases, const EvalText& text) {
  auto start = Clock::now();
  const auto passes =
      1 + std::count_if(cases.begin(), cases.end(), [](const Case& c) { return !c.is_fp16_baseline(); });
  Progress progress("accuracy of " + m.row->name, passes * grid_.accuracy.windows * grid_.accuracy.window_tokens,
                    "tokens");
  const auto on_tokens = [&](int64_t tokens) { progress.advance(tokens); };
  auto base = accuracy_base(m, cases.front());
  const BaseLogits kept(*base, text, on_tokens);
  const RanKernels base_ran = kernels_of(*base);
  base.reset();
  for (const Case& c : cases) {
    if (c.is_fp16_baseline()) {
      append_accuracy(m, c, text, kept.scores(), same_as_base(kept.scores()), base_ran, seconds_since(start));
    } else if (const auto candidate = accuracy_candidate(m, c)) {
      Executor* const one[] = {candidate.get()};
      const FidelityScores scores = score_fidelity(kept, one, text, on_tokens);
      append_accuracy(m, c, text, kept.scores(), scores.candidates[0], kernels_of(*candidate), seconds_since(start));
    }
    start = Clock::now();
  }
}

void GridRun::append_accuracy(Model& m, const Case& c, const EvalText& text, const TokenScores& base,
                              const TokenScores& candidate, const RanKernels& ran, double seconds) {
  Record common = common_record(m, c, part(m, c, "accuracy", accuracy_description()));
  FidelityResult r;
  try {
    r = summarize(base, candidate, grid_.accuracy.windows);
  } catch (const Error& e) {
    append_failure(common, e.what());
    return;
  }
  common.dataset = text.name;
  common.workload_sha = text.hash;
  common.protocol = protocol_of(grid_.accuracy).describe();
  common.compute_path = ran.compute_path;
  common.kernels = ran.kernels;
  std::vector<Record> rows;
  const auto add = [&](std::string_view metric, const Interval& interval) {
    set_interval(rows.emplace_back(measured(common, metric, interval.value)), interval, r.tokens);
  };
  add("ppl", r.ppl);
  add("base_ppl", r.base_ppl);
  add("ppl_ratio", r.ppl_ratio);
  add("kld_mean", r.kld_mean);
  add("top1", r.top1);
  append(common, std::move(rows), seconds);
}

// Of what the card's data sheet allows; empty for prefill and for cards whose figures are not known.
std::optional<double> GridRun::roofline_share(const Model& m, const Case& c, const Load& load,
                                              const BenchResult& r) const {
  const ModelShape& shape = m.base->table().shape;
  const Card& card = grid_.card(c.gpu);
  std::optional<double> limit;
  if (load.speed == SpeedKind::decode)
    limit = decode_tok_s(shape, card, c.weights, c.kv, load.batch,
                         static_cast<double>(load.isl) + static_cast<double>(load.osl) / 2);
  else if (load.speed == SpeedKind::throughput)
    limit = load_tok_s(shape, card, c.weights, c.kv, r.batch_achieved, load.isl, load.osl);
  if (!limit) return std::nullopt;
  return r.output_tok_s.value / *limit;
}

bool GridRun::in_window(const Workload& w) const {
  return options_.window_s > 0 && w.kind == WorkloadKind::throughput;
}

std::string GridRun::speed_description(const Workload& w) const {
  return describe(w) + (in_window(w) ? fmt::format(" window {}", options_.window_s) : "");
}

// On the CPU, where a throughput run of thousands of requests takes hours, a few where the grid names no number.
Load GridRun::grid_load(const Workload& w) const {
  constexpr int64_t kOnCpu = 16;
  Load load = load_of(w);
  if (w.kind == WorkloadKind::throughput && w.requests == 0 && options_.executor == "cpu") load.batch = kOnCpu;
  return load;
}

void GridRun::run_speed(Model& m, const Case& c, const Workload& w) {
  const CellPart p = part(m, c, w.name, speed_description(w));
  if (!wanted(p)) return;
  if (options_.served) return run_served(m, c, w);
  const auto start = Clock::now();
  Record common = common_record(m, c, p);
  Load load = grid_load(w);
  if (in_window(w)) {
    load.window_s = options_.window_s;
    common.protocol = fmt::format("steady window of {} s, requests started at random depths", load.window_s);
  }
  describe_load(load, common);
  const bool cuda = options_.executor == "cuda";
  const int64_t at_once = running_at_once(load, cuda);
  try {
    EngineOptions options;
    options.max_batch = at_once;
    options.max_rows = rows_of_step(load, cuda);
    options.prefix_reuse = false;
    if (cuda) options.prefill_chunk = options.max_rows;
    const std::shared_ptr<Executor> ran = speed_executor(m, c, load, options);
    // No more than fit to their end: who is preempted is computed twice.
    const int64_t pool_tokens = ran->num_pages() * ran->page_tokens();
    options.max_batch = std::clamp<int64_t>(pool_tokens / (load.isl + load.osl + ran->page_tokens()), 1,
                                            std::min(at_once, kMostSequences));
    if (load.window_s > 0) load.batch = options.max_batch;
    Engine engine(ran, options);
    NativeTarget target(engine);
    Progress progress(fmt::format("{} {}", c.id(), w.name), total_output_tokens(load), "tokens");
    const GpuMeter meter(options_.executor == "cuda" ? device_uuid(options_.cuda.device) : "");
    std::optional<GpuWindow> window;
    const BenchResult r = measure(
        target, load, [&](int64_t tokens) { progress.advance(tokens); },
        [&] {
          if (options_.executor == "cuda") window.emplace([&] { return meter.read(); });
        });
    const GpuUse use = window ? window->stop() : GpuUse{};
    if (r.failed > 0)
      throw Error(fmt::format("{} of {} requests failed: {}", r.failed, r.requests, r.first_error), w.name);
    add_conditions(use, common);
    if (c.gpu == options_.measured_on) common.roofline_share = roofline_share(m, c, load, r);
    common.compute_path = r.compute_path;
    common.kernels = r.kernels;
    common.rounds = r.rounds;
    common.num_requests = r.requests;
    common.num_failed = r.failed;
    if (load.arrival == Arrival::rate) common.window_s = r.seconds;
    common.batch_achieved = r.batch_achieved;
    std::vector<Record> rows = speed_rows(common, r, load, has_own_peak_);
    if (options_.executor == "cuda") add_gpu_rows(common, r, use, rows);
    append(common, std::move(rows), seconds_since(start));
  } catch (const Error& e) {
    if (e.code() == ExitCode::interrupted) throw;
    append_failure(common, e.what());
  }
}

void GridRun::run_memory(Model& m, const Case& c) {
  const CellPart p = part(m, c, "memory", memory_description(m, c));
  if (!wanted(p)) return;
  Record common = common_record(m, c, p);
  const ModelShape& shape = m.base->table().shape;
  Card card = grid_.card(c.gpu);
  if (card.is_cpu()) card.memory_bytes = physical_memory_bytes();
  const TiedEmbedding tied = tied_embedding_of(c);
  std::vector<Record> rows;
  rows.push_back(measured(common, "weights_bytes", static_cast<double>(weights_bytes(shape, c.weights, tied))));
  rows.push_back(measured(common, "checkpoint_bytes", static_cast<double>(checkpoint_of(m, c)->stored_bytes())));
  rows.push_back(measured(common, "kv_bytes_per_token", static_cast<double>(kv_bytes_per_token(shape, c.kv))));
  common.context_len = grid_.gates.context_tokens;
  rows.push_back(
      measured(common, "max_batch",
               static_cast<double>(max_batch(shape, card, c.weights, c.kv, grid_.gates.context_tokens, tied))));
  common.context_len.reset();
  append(common, std::move(rows), 0);
}

}  // namespace qg
