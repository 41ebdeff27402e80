#pragma once
// What the results say, before any page is written: a cell for each case and engine, the groups (model, card, engine)
// that are compared with each other, and the pick of each group by the rules of grid/selection.h.
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "grid/grid.h"
#include "grid/selection.h"
#include "grid/support.h"
#include "record/results.h"
#include "report/comparable.h"

namespace qg {

enum class CellState {
  measured,     // on the case's own card, every format in hardware
  emulated,     // on the case's own card, a format converted in software
  elsewhere,    // only on another card: its accuracy counts
  speed_only,   // only with random weights
  failed,       // out of memory, crash, timeout
  unsupported,  // the engine or the card refuses it
  not_run
};
std::string_view to_string(CellState state);

struct Cell {
  Case about;  // number 0: not in the grid
  bool in_grid = false;
  std::string engine = "native";
  CellState state = CellState::not_run;
  Support support;
  std::string problem;       // why it failed or is not supported
  std::string compute_path;  // what ran
  // The best row of each (workload, metric): the own card's before another's, real weights before random ones, then the
  // newest. Accuracy never comes from random weights.
  std::map<std::pair<std::string, std::string>, const Record*> rows;
  std::vector<const Record*> failures;  // the newest failed attempt at each measurement that no later one mended
  std::set<const Record*> overtaken;    // of rows: those that were measured again since, and that failed
  const Cell* accuracy_from = nullptr;  // the native engine's, where this engine's accuracy was not measured

  const Record* row(std::string_view workload, std::string_view metric) const;  // null when not measured
  const Record* row(std::string_view metric) const;                             // whatever the workload
  const Record* accuracy(std::string_view metric) const;                        // also one that is borrowed
  bool is_of_other_checkpoint(const Record& speed) const;  // than the accuracy; no with random weights
  bool has_results() const { return state < CellState::failed; }
};

// What "more" means for a use in a group: the measure that its cells have in common.
enum class MeasureKind { output_tok_s, prefill_tok_s, max_batch, footprint };
struct Measure {
  MeasureKind kind = MeasureKind::output_tok_s;
  std::string workload;  // "decode/b1"
};

struct UsePick {
  Measure measure;
  Pick pick;
  bool any_value = false;        // some cell has a value that could be ranked
  std::optional<Method> method;  // by which those that are ranked were measured; empty where it does not matter
};

struct Group {
  std::string model, gpu, engine;
  std::vector<const Cell*> cells;  // with results, by number
  const Cell* baseline = nullptr;  // FP16 weights and KV; null when not measured
  std::array<UsePick, 3> picks;    // by Use
  bool on_cpu = false;             // the CPU's speed, not a card's

  const UsePick& for_use(Use use) const { return picks[static_cast<size_t>(use)]; }
  const Cell* cell(std::string_view case_id) const;
};

struct Study {
  Results results;
  std::optional<Grid> grid;
  Gates gates;
  std::vector<Cell> cells;    // the grid's by number, then the others
  std::vector<Group> groups;  // those with results; in the order of the cells

  Study() = default;
  Study(const Study&) = delete;  // cells point into results
  Study& operator=(const Study&) = delete;
  Study(Study&&) = default;
  Study& operator=(Study&&) = default;

  const Card* card(std::string_view id) const;               // null when it is not a row
  std::string model_label(std::string_view model) const;     // "Llama-3.1-8B"
  std::string card_label(std::string_view gpu) const;        // "H100 80 GB SXM"
  std::string short_card_label(std::string_view gpu) const;  // "H100"; boards of one name in full
  const ModelShape* shape(std::string_view model) const;     // null when not known
};

Study make_study(Results results, std::optional<Grid> grid, const Gates& gates);

// The cell's value of a measure, whatever card it is from; more is better. Empty when it is not known.
std::optional<double> value_of(const Study& study, const Cell& cell, const Measure& measure);

// Bytes of the cell's weights: as recorded, or from the model's shape. Empty when neither is known.
std::optional<double> weights_bytes_of(const Study& study, const Cell& cell);
// Weights and the KV cache of one sequence at the gates' context.
std::optional<double> footprint_bytes(const Study& study, const Cell& cell);
// The row behind a speed; null for measures that are no speed.
const Record* speed_row(const Cell& cell, const Measure& measure);
// perplexity over the baseline's; empty when not measured.
std::optional<double> ppl_ratio_of(const Cell& cell);

}  // namespace qg
