#include "report/study.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "core/error.h"
#include "grid/engines.h"
#include "grid/memory.h"
#include "grid/models.h"
#include "grid/names.h"
#include "report/standing.h"

namespace qg {
namespace {

constexpr std::array<std::string_view, 7> kStateNames{"measured", "emulated",    "elsewhere", "speed_only",
                                                      "failed",   "unsupported", "not_run"};

bool is_accuracy(const Record& row) {
  return row.suite == "accuracy";
}

// Smaller is better; rows with random weights say nothing about accuracy.
int distance(const Record& row) {
  return (row.cross_target ? 2 : 0) + (row.synthetic ? 1 : 0);
}

bool replaces(const Record& row, const Record* old) {
  if (!old) return true;
  return std::tuple(-distance(row), row.ended_at, row.run_id) > std::tuple(-distance(*old), old->ended_at, old->run_id);
}

Case case_of(const Record& subject) {
  const auto weights = parse_weight_format(subject.weights);
  const auto kv = parse_kv_format(subject.kv);
  if (!weights || !kv)
    throw Error("case " + subject.case_key + " has weights \"" + subject.weights + "\" and kv \"" + subject.kv + "\"",
                "run " + subject.run_id, "the journal was written by something else; leave it out");
  return {static_cast<int>(subject.case_number.value_or(0)),
          parse_section(subject.section).value_or(Section::implied),
          subject.model,
          subject.target,
          *weights,
          *kv};
}

// Which cells there are: every case of the grid for each engine that ran it (native when none did), then the rest.
std::vector<Cell> make_cells(const Results& results, const std::optional<Grid>& grid) {
  std::map<std::string, std::set<std::string>> engines_of;  // by case id
  for (const Attempt* attempt : results.chosen())
    engines_of[case_of(attempt->done.subject).id()].insert(attempt->done.subject.engine);
  std::vector<Cell> cells;
  const auto add = [&](const Case& about, bool in_grid) {
    auto found = engines_of.find(about.id());
    std::set<std::string> engines = found == engines_of.end() ? std::set<std::string>{"native"} : found->second;
    for (const std::string& engine : engines) {
      Cell cell;
      cell.about = about;
      cell.in_grid = in_grid;
      cell.engine = engine;
      cells.push_back(std::move(cell));
    }
    if (found != engines_of.end()) engines_of.erase(found);
  };
  if (grid)
    for (const Case& about : grid->cases) add(about, true);
  std::vector<Case> others;
  for (const Attempt* attempt : results.chosen()) others.push_back(case_of(attempt->done.subject));
  std::sort(others.begin(), others.end(), [](const Case& a, const Case& b) {
    // Numbers of another grid order its own cases; implied cases have none and come last.
    const auto order = [](const Case& c) {
      return std::tuple(c.number == 0, c.number, c.model, c.gpu, c.weights, c.kv);
    };
    return order(a) < order(b);
  });
  for (const Case& about : others)
    if (engines_of.contains(about.id())) add(about, false);
  return cells;
}

// `context_tokens`: of the gates; a greatest batch that was counted at another context is none of this study's.
void take_attempt(Cell& cell, const Attempt& attempt, int64_t context_tokens) {
  const Record& subject = attempt.done.subject;
  if (!subject.valid || subject.status != "ok") {
    const auto skipped = [](const std::string& problem) { return problem.starts_with("skipped_"); };
    if (cell.problem.empty() || (skipped(cell.problem) && !skipped(subject.status)))
      cell.problem = subject.status + (subject.error_msg.empty() ? "" : ": " + subject.error_msg);
    if (subject.status == "skipped_unsupported" && cell.state == CellState::not_run)
      cell.state = CellState::unsupported;
    if (subject.status != "skipped_unsupported" && cell.state >= CellState::unsupported) cell.state = CellState::failed;
    return;
  }
  for (const Record& row : attempt.rows) {
    if (row.round || row.rep || !row.valid || row.status != "ok" || !row.value) continue;
    if (is_accuracy(row) && row.synthetic) continue;
    if (row.metric == "max_batch" && row.context_len.value_or(context_tokens) != context_tokens) continue;
    const Record*& best = cell.rows[{row.workload, row.metric}];
    if (replaces(row, best)) best = &row;
  }
}

// `emulated`: the cell's card converts one of its formats in software.
void settle_state(Cell& cell, bool emulated) {
  bool own = false, elsewhere = false, synthetic = false;
  for (const auto& [key, row] : cell.rows) {
    if (row->suite == "quantize") continue;
    (row->cross_target ? elsewhere : row->synthetic ? synthetic : own) = true;
    if (!row->compute_path.empty() && (cell.compute_path.empty() || !row->cross_target))
      cell.compute_path = row->compute_path;
  }
  if (own)
    cell.state = emulated ? CellState::emulated : CellState::measured;
  else if (elsewhere)
    cell.state = CellState::elsewhere;
  else if (synthetic)
    cell.state = CellState::speed_only;
  else if (cell.state == CellState::not_run && cell.support.status == SupportStatus::unsupported)
    cell.state = CellState::unsupported;
  if (cell.state == CellState::unsupported && cell.problem.empty()) cell.problem = cell.support.reason;
  // A workload that the engine has no means for is no failure of a case that has results.
  if (cell.has_results())
    std::erase_if(cell.failures, [](const Record* failed) { return failed->status.starts_with("skipped_"); });
  if (!cell.failures.empty()) {
    const Record& failed = *cell.failures.front();
    cell.problem = failed.status + (failed.error_msg.empty() ? "" : ": " + failed.error_msg);
  } else if (cell.has_results()) {
    cell.problem.clear();  // what failed was done later
  }
}

Support support_of(const Study& study, const Cell& cell) {
  const Card* card = study.card(cell.about.gpu);
  const EngineSpec* engine = engine_of_record(cell.engine);
  return card && engine ? support(engine->id, *card, cell.about.weights, cell.about.kv) : Support{};
}

// How often the cell's engine holds a tied embedding. A card that is no row is a GPU.
TiedEmbedding tied_embedding_of(const Study& study, const Cell& cell) {
  const Card* card = study.card(cell.about.gpu);
  const EngineSpec* engine = engine_of_record(cell.engine);
  return engine ? tied_embedding(engine->id, !card || !card->is_cpu()) : TiedEmbedding::once;
}

// The measure that most cells of the group have; the first of `wishes` wins a draw.
Measure common_measure(const Study& study, const std::vector<const Cell*>& cells, const std::vector<Measure>& wishes) {
  Measure best = wishes.front();
  size_t most = 0;
  for (const Measure& wish : wishes) {
    const auto have = static_cast<size_t>(std::count_if(
        cells.begin(), cells.end(), [&](const Cell* cell) { return value_of(study, *cell, wish).has_value(); }));
    if (have > most) best = wish, most = have;
  }
  return best;
}

std::vector<Measure> wishes_for(Use use, const std::vector<const Cell*>& cells) {
  if (use == Use::latency) return {{MeasureKind::output_tok_s, std::string(use_workload(use))}};
  if (use == Use::memory) return {{MeasureKind::max_batch, "max_batch"}, {MeasureKind::footprint, "footprint"}};
  std::vector<Measure> wishes{{MeasureKind::output_tok_s, std::string(use_workload(use))}};
  for (const Cell* cell : cells)  // a grid without 1000/1000, such as the demo's, is judged by its prefill
    for (const auto& [key, row] : cell->rows)
      if (key.second == "prefill_tok_s" && key.first.starts_with("prefill/"))
        wishes.push_back({MeasureKind::prefill_tok_s, key.first});
  return wishes;
}

Candidate candidate_of(const Study& study, const Cell& cell, const Measure& measure) {
  Candidate c;
  c.case_id = cell.about.id();
  c.number = cell.about.number;
  c.weights = cell.about.weights;
  c.kv = cell.about.kv;
  c.value = value_of(study, cell, measure);
  c.synthetic = cell.state == CellState::speed_only;
  const bool is_baseline = cell.about.is_fp16_baseline();
  if (const Record* row = speed_row(cell, measure)) {
    c.ci_lo = row->ci_lo;
    c.ci_hi = row->ci_hi;
    c.synthetic = row->synthetic;
    c.cross_target = row->cross_target;
    c.overtaken = cell.overtaken.contains(row);
    c.other_checkpoint = cell.is_of_other_checkpoint(*row);
  }
  const auto accuracy = [&](std::string_view metric) {
    const Record* row = cell.accuracy(metric);
    c.overtaken |= row && !is_baseline && cell.overtaken.contains(row);
    return row ? row->value : std::nullopt;
  };
  c.ppl = accuracy("ppl");
  c.base_ppl = accuracy("base_ppl");
  c.kld_nats = accuracy("kld_mean");
  if (is_baseline && !c.synthetic) {  // by definition as accurate as itself
    if (!c.ppl) c.ppl = 1;
    c.base_ppl = c.ppl;
    c.kld_nats = 0;
  }
  return c;
}

// Speeds of a workload that were measured by different methods, or of different numbers of requests, are no ranking:
// those of the method that most have are kept in it.
void keep_one_method(const Group& group, UsePick& result, std::vector<Candidate>& candidates) {
  std::vector<const Record*> real, random;
  for (const Cell* cell : group.cells)
    if (const Record* row = speed_row(*cell, result.measure); row && !row->cross_target)
      (row->synthetic ? random : real).push_back(row);
  result.method = common_method(real.empty() ? random : real);
  if (!result.method) return;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Record* row = speed_row(*group.cells[i], result.measure);
    const auto method = row ? method_of(*row) : std::nullopt;
    candidates[i].measured_otherwise = method && methods_differ(*method, *result.method);
  }
}

void judge(const Study& study, Group& group) {
  for (Use use : kUses) {
    UsePick& result = group.picks[static_cast<size_t>(use)];
    result.measure = common_measure(study, group.cells, wishes_for(use, group.cells));
    std::vector<Candidate> candidates;
    for (const Cell* cell : group.cells) {
      candidates.push_back(candidate_of(study, *cell, result.measure));
      result.any_value |=
          candidates.back().value.has_value() && (use == Use::memory || !candidates.back().cross_target);
    }
    keep_one_method(group, result, candidates);
    result.pick = pick(use, candidates, study.gates);
  }
}

void make_groups(Study& study) {
  for (const Cell& cell : study.cells) {
    if (!cell.has_results()) continue;
    auto group = std::find_if(study.groups.begin(), study.groups.end(), [&](const Group& g) {
      return g.model == cell.about.model && g.gpu == cell.about.gpu && g.engine == cell.engine;
    });
    if (group == study.groups.end()) {
      study.groups.push_back({cell.about.model, cell.about.gpu, cell.engine, {}, nullptr, {}, false});
      group = std::prev(study.groups.end());
      const Card* card = study.card(cell.about.gpu);
      group->on_cpu = card && card->is_cpu();
    }
    group->cells.push_back(&cell);
    if (cell.about.is_fp16_baseline()) group->baseline = &cell;
  }
  for (Group& group : study.groups) judge(study, group);
}

}  // namespace

std::string_view to_string(CellState state) {
  return kStateNames[static_cast<size_t>(state)];
}

const Record* Cell::row(std::string_view workload, std::string_view metric) const {
  const auto found = rows.find({std::string(workload), std::string(metric)});
  return found == rows.end() ? nullptr : found->second;
}

const Record* Cell::row(std::string_view metric) const {
  for (const auto& [key, record] : rows)
    if (key.second == metric) return record;
  return nullptr;
}

const Record* Cell::accuracy(std::string_view metric) const {
  return accuracy_from ? accuracy_from->row("accuracy", metric) : row("accuracy", metric);
}

bool Cell::is_of_other_checkpoint(const Record& speed) const {
  const Record* ppl = accuracy("ppl");
  return ppl && !is_accuracy(speed) && !speed.synthetic && !same_checkpoint(speed, *ppl);
}

const Cell* Group::cell(std::string_view case_id) const {
  for (const Cell* each : cells)
    if (each->about.id() == case_id) return each;
  return nullptr;
}

const Card* Study::card(std::string_view id) const {
  if (grid)
    for (const Card& own : grid->cards)
      if (own.id == id) return &own;
  return find_card(id);
}

std::string Study::model_label(std::string_view model) const {
  if (grid)
    for (const GridModel& row : grid->models)
      if (row.name == model && !row.label.empty()) return row.label;
  const KnownModel* known = find_known_model(model);
  return known ? known->label : std::string(model);
}

std::string Study::card_label(std::string_view gpu) const {
  const Card* row = card(gpu);
  if (row && row->is_cpu()) return "CPU";
  return row ? row->label : std::string(gpu);
}

std::string Study::short_card_label(std::string_view gpu) const {
  const std::string label = card_label(gpu), word = label.substr(0, label.find(' '));
  std::set<std::string> boards;  // of the cells, whose label begins with the same word
  for (const Cell& cell : cells)
    if (card_label(cell.about.gpu).starts_with(word + " ")) boards.insert(cell.about.gpu);
  return boards.size() > 1 ? label : word;
}

const ModelShape* Study::shape(std::string_view model) const {
  if (grid)
    for (const GridModel& row : grid->models)
      if (row.name == model && row.shape) return &*row.shape;
  const KnownModel* known = find_known_model(model);
  return known ? &known->shape : nullptr;
}

Study make_study(Results results, std::optional<Grid> grid, const Gates& gates) {
  Study study;
  study.results = std::move(results);
  study.grid = std::move(grid);
  study.gates = gates;
  study.cells = make_cells(study.results, study.grid);
  for (Cell& cell : study.cells) cell.support = support_of(study, cell);
  for (const Attempt* attempt : study.results.chosen())
    for (Cell& cell : study.cells)
      if (cell.engine == attempt->done.subject.engine && cell.about.id() == case_of(attempt->done.subject).id())
        take_attempt(cell, *attempt, study.gates.context_tokens);
  for (Cell& cell : study.cells) {
    keep_one_accuracy(cell);
    std::vector<const Attempt*> attempts;  // the failed that the store passed over for an older one too
    for (const StoredAttempt& stored : study.results.attempts)
      if (cell.engine == stored.attempt.done.subject.engine &&
          cell.about.id() == case_of(stored.attempt.done.subject).id())
        attempts.push_back(&stored.attempt);
    note_failures(cell, attempts);
    const Card* card = study.card(cell.about.gpu);
    // The CPU reference converts every format in software: nothing to tell apart there.
    const bool on_card = !card || !card->is_cpu();
    settle_state(cell, on_card && cell.support.status == SupportStatus::emulated);
  }
  borrow_accuracy(study.cells);
  make_groups(study);
  return study;
}

std::optional<double> value_of(const Study& study, const Cell& cell, const Measure& measure) {
  const auto from = [](const Record* row) { return row ? row->value : std::nullopt; };
  switch (measure.kind) {
    case MeasureKind::output_tok_s:
    case MeasureKind::prefill_tok_s:
      return from(speed_row(cell, measure));
    case MeasureKind::max_batch: {
      if (const Record* row = cell.row("max_batch")) return row->value;
      const Card* card = study.card(cell.about.gpu);
      const ModelShape* shape = study.shape(cell.about.model);
      if (!card || !shape || card->memory_bytes <= 0) return {};
      return static_cast<double>(max_batch(*shape, *card, cell.about.weights, cell.about.kv, study.gates.context_tokens,
                                           tied_embedding_of(study, cell)));
    }
    case MeasureKind::footprint: {
      const auto bytes = footprint_bytes(study, cell);
      return bytes ? std::optional(1e9 / *bytes) : std::nullopt;  // sequences to a GB: more is better
    }
  }
  return {};
}

const Record* speed_row(const Cell& cell, const Measure& measure) {
  if (measure.kind == MeasureKind::output_tok_s) return cell.row(measure.workload, "output_tok_s");
  if (measure.kind == MeasureKind::prefill_tok_s) return cell.row(measure.workload, "prefill_tok_s");
  return nullptr;
}

std::optional<double> weights_bytes_of(const Study& study, const Cell& cell) {
  if (const Record* row = cell.row("weights_bytes")) return row->value;
  const ModelShape* shape = study.shape(cell.about.model);
  if (!shape) return {};
  return static_cast<double>(weights_bytes(*shape, cell.about.weights, tied_embedding_of(study, cell)));
}

std::optional<double> footprint_bytes(const Study& study, const Cell& cell) {
  const auto weights = weights_bytes_of(study, cell);
  const Record* per_token = cell.row("kv_bytes_per_token");
  const ModelShape* shape = study.shape(cell.about.model);
  if (!weights || (!per_token && !shape)) return {};
  const double kv = per_token ? *per_token->value : static_cast<double>(kv_bytes_per_token(*shape, cell.about.kv));
  return *weights + kv * static_cast<double>(study.gates.context_tokens);
}

std::optional<double> ppl_ratio_of(const Cell& cell) {
  if (const Record* ratio = cell.accuracy("ppl_ratio")) return ratio->value;
  const Record *ppl = cell.accuracy("ppl"), *base = cell.accuracy("base_ppl");
  if (!ppl || !base || *base->value <= 0) return {};
  return *ppl->value / *base->value;
}

}  // namespace qg
