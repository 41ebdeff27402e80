#include "grid/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "grid/estimate.h"
#include "grid/memory.h"
#include "grid/roofline.h"

namespace qg {
namespace {

constexpr std::array<std::string_view, 4> kOriginNames{"original", "converted", "quantized", "server"};
constexpr std::array<std::string_view, 4> kHereNames{"yes", "cross_target", "accuracy_only", "no"};

CheckpointOrigin origin_of(const EngineSpec& engine, WeightFormat weights) {
  if (engine.layout.empty()) return CheckpointOrigin::server;
  if (runs_original_model(engine, weights)) return CheckpointOrigin::original;
  return weights == WeightFormat::fp16 ? CheckpointOrigin::converted : CheckpointOrigin::quantized;
}

// The row of the card with this machine's memory where the row itself cannot know it.
Card card_here(const Grid& grid, const std::string& id, const Machine& machine) {
  Card card = grid.card(id);
  if (card.is_cpu()) card.memory_bytes = machine.memory_bytes;
  return card;
}

// Behind a reason: what is still to be fetched.
std::string unless_here(const std::filesystem::path& folder) {
  return std::filesystem::exists(folder) ? "" : fmt::format("; first put the model into {}", folder.string());
}

Here here_on_cpu(const Grid& grid, const PlanRow& row, const Machine& machine) {
  const GridModel& model = grid.model(row.c.model);
  if (!model.shape) return {HereStatus::no, fmt::format("the model's folder {} is not here", model.folder.string())};
  const double needed =  // by the CPU executor, whatever the case's card
      static_cast<double>(weights_bytes(*model.shape, row.c.weights, tied_embedding(EngineId::native, false)));
  const double memory = static_cast<double>(machine.memory_bytes);
  if (needed > kUsableMemoryShare * memory)
    return {HereStatus::no, fmt::format("its weights take {:.1f} GB, this machine has {:.1f} GB of memory",
                                        needed / 1e9, memory / 1e9)};
  if (grid.card(row.c.gpu).is_cpu()) return {HereStatus::yes, "runs on this machine's CPU" + unless_here(model.folder)};
  // A GPU is no use to a build without kernels: say so rather than that there is none.
  const std::string why = !machine.cards.empty() && !machine.has_cuda_executor
                              ? "this build has no CUDA executor (`make gpu` builds one)"
                              : "no such card here";
  return {HereStatus::accuracy_only, why +
                                         ": the CPU reference can judge the format's accuracy, slowly; speed needs the "
                                         "card" +
                                         unless_here(model.folder)};
}

Here here(const Grid& grid, const PlanRow& row, const PlanOptions& options) {
  const Machine& machine = options.machine;
  if (row.support.status == SupportStatus::unsupported) return {HereStatus::no, "unsupported on its own card"};
  const Card& card = grid.card(row.c.gpu);
  if (options.engine == EngineId::openai)
    return {HereStatus::no, "needs a server that is up: `run --engine openai --base-url URL --filter number=N`"};
  if (options.engine != EngineId::native) {  // their own kernels, so the case's own card
    if (std::find(machine.cards.begin(), machine.cards.end(), card.id) == machine.cards.end())
      return {HereStatus::no, "no such card here; --emit writes the engine's commands for a machine that has it"};
    return {HereStatus::yes, "its card is here; `quantgrid engines` says whether the engine is" +
                                 unless_here(grid.model(row.c.model).folder)};
  }
  if (card.is_cpu() || !machine.has_cuda_executor || machine.cards.empty()) return here_on_cpu(grid, row, machine);
  if (std::find(machine.cards.begin(), machine.cards.end(), card.id) != machine.cards.end())
    return {HereStatus::yes, "its card is here" + unless_here(grid.model(row.c.model).folder)};
  for (const std::string& id : machine.cards)
    if (grid.card(id).cc() >= card.cc())
      return {HereStatus::cross_target,
              fmt::format("on {} with --target {}: accuracy counts, speed is not shown as the {}'s",
                          grid.card(id).label, card.id, card.label)};
  return here_on_cpu(grid, row, machine);
}

void fill_sizes(PlanRow& row, const Grid& grid, const ModelShape& shape, const PlanOptions& options) {
  const Card card = card_here(grid, row.c.gpu, options.machine);
  const WeightFormat w = row.c.weights;
  const KvFormat kv = row.c.kv;
  const TiedEmbedding tied = tied_embedding(options.engine, !card.is_cpu());
  row.weights_bytes = weights_bytes(shape, w, tied);
  row.kv_bytes_per_token = kv_bytes_per_token(shape, kv);
  row.disk_bytes = checkpoint_disk_bytes(shape, w);
  if (card.memory_bytes > 0) row.max_batch = max_batch(shape, card, w, kv, options.context_tokens, tied);
  row.roofline_tok_s = decode_tok_s(shape, card, w, kv, 1, kRooflineContextTokens);
  row.roofline_b64_tok_s = decode_tok_s(shape, card, w, kv, 64, kRooflineContextTokens);
  if (const auto t = serial_throughput(shape, card, w, kv, 1000, 1000)) row.throughput_tok_s = t->output_tok_s;
  row.quantize_seconds =
      row.origin == CheckpointOrigin::quantized ? quantize_seconds(shape, card, w, grid.calibration) : 0.0;
  row.run_seconds = run_seconds(shape, card, w, kv, grid, options.profile);
}

Json number_or_null(const std::optional<int64_t>& value) {
  return value ? Json(*value) : Json(nullptr);
}
Json number_or_null(const std::optional<double>& value) {
  return value ? Json(std::round(*value * 100) / 100) : Json(nullptr);
}

}  // namespace

std::string_view to_string(CheckpointOrigin origin) {
  return kOriginNames[static_cast<size_t>(origin)];
}
std::string_view to_string(HereStatus status) {
  return kHereNames[static_cast<size_t>(status)];
}

std::vector<PlanRow> make_plan(const Grid& grid, const std::vector<Case>& cases, const PlanOptions& options) {
  const EngineSpec& engine = engine_spec(options.engine);
  std::vector<PlanRow> rows;
  for (const Case& c : cases) {
    const GridModel& model = grid.model(c.model);
    PlanRow row;
    row.c = c;
    row.model_label = model.label;
    row.card_label = grid.card(c.gpu).label;
    row.support = support(grid, c, options.engine);
    row.checkpoint = case_checkpoint(engine, model.stem, c.weights, c.kv);
    row.origin = origin_of(engine, c.weights);
    row.layout = row.origin == CheckpointOrigin::original ? "huggingface" : std::string(engine.layout);
    row.path = expected_path(grid.card(c.gpu), c.weights);
    if (model.shape) fill_sizes(row, grid, *model.shape, options);
    row.here = here(grid, row, options);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<PlanCheckpoint> plan_checkpoints(const Grid& grid, const std::vector<PlanRow>& rows) {
  std::vector<PlanCheckpoint> found;
  for (const PlanRow& row : rows) {
    auto it =
        std::find_if(found.begin(), found.end(), [&](const PlanCheckpoint& f) { return f.name == row.checkpoint; });
    if (it == found.end()) {
      const GridModel& model = grid.model(row.c.model);
      found.push_back({row.checkpoint,
                       row.layout,
                       row.c.model,
                       model.stem,
                       row.c.weights,
                       row.c.kv,
                       row.origin,
                       row.disk_bytes,
                       row.quantize_seconds,
                       {},
                       false});
      it = found.end() - 1;
    }
    it->cases.push_back(row.c.number);
    it->is_needed = it->is_needed || row.support.status != SupportStatus::unsupported;
  }
  return found;
}

std::vector<PlanIndexRow> plan_index(const std::vector<PlanRow>& rows) {
  std::vector<PlanIndexRow> index;
  for (const PlanRow& row : rows) {
    auto it = std::find_if(index.begin(), index.end(),
                           [&](const PlanIndexRow& i) { return i.model == row.c.model && i.gpu == row.c.gpu; });
    if (it == index.end()) {
      index.push_back({row.c.model, row.model_label, row.c.gpu, {}, {}});
      it = index.end() - 1;
    }
    (row.c.section == Section::must ? it->must : it->others).push_back(&row);
  }
  return index;
}

Json to_json(const std::vector<PlanRow>& rows) {
  Json list = Json::array();
  for (const PlanRow& row : rows) {
    Json j;
    j["number"] = row.c.number;
    j["section"] = to_string(row.c.section);
    j["id"] = row.c.id();
    j["model"] = row.c.model;
    j["gpu"] = row.c.gpu;
    j["weights"] = to_string(row.c.weights);
    j["kv"] = to_string(row.c.kv);
    j["checkpoint"] = row.checkpoint;
    j["checkpoint_origin"] = to_string(row.origin);
    j["checkpoint_layout"] = row.layout;
    j["support"] = {
        {"status", to_string(row.support.status)}, {"reason", row.support.reason}, {"source", row.support.source}};
    j["compute_path"] = to_string(row.path);
    j["weights_bytes"] = number_or_null(row.weights_bytes);
    j["kv_bytes_per_token"] = number_or_null(row.kv_bytes_per_token);
    j["max_batch"] = number_or_null(row.max_batch);
    j["roofline_tok_s"] = number_or_null(row.roofline_tok_s);
    j["roofline_b64_tok_s"] = number_or_null(row.roofline_b64_tok_s);
    j["throughput_1000_1000_tok_s"] = number_or_null(row.throughput_tok_s);
    j["disk_bytes"] = number_or_null(row.disk_bytes);
    j["quantize_seconds"] = number_or_null(row.quantize_seconds);
    j["run_seconds"] = number_or_null(row.run_seconds);
    j["here"] = {{"status", to_string(row.here.status)}, {"reason", row.here.reason}};
    list.push_back(std::move(j));
  }
  return list;
}

Json to_json(const std::vector<PlanCheckpoint>& checkpoints) {
  Json list = Json::array();
  for (const PlanCheckpoint& f : checkpoints)
    list.push_back({{"checkpoint", f.name},
                    {"origin", to_string(f.origin)},
                    {"layout", f.layout},
                    {"model", f.model},
                    {"stem", f.stem},
                    {"weights", to_string(f.weights)},
                    {"disk_bytes", number_or_null(f.disk_bytes)},
                    {"quantize_seconds", number_or_null(f.quantize_seconds)},
                    {"cases", f.cases},
                    {"needed", f.is_needed}});
  return list;
}

Json to_json(const std::vector<PlanIndexRow>& index) {
  Json list = Json::array();
  for (const PlanIndexRow& row : index) {
    const auto numbers = [](const std::vector<const PlanRow*>& rows) {
      Json out = Json::array();
      for (const PlanRow* r : rows)
        out.push_back({{"number", r->c.number},
                       {"section", to_string(r->c.section)},
                       {"weights", to_string(r->c.weights)},
                       {"kv", to_string(r->c.kv)}});
      return out;
    };
    list.push_back(
        {{"model", row.model}, {"gpu", row.gpu}, {"must", numbers(row.must)}, {"others", numbers(row.others)}});
  }
  return list;
}

}  // namespace qg
