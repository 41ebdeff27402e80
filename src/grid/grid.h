#pragma once
// A grid: cases, and the models, cards, workloads, texts and thresholds that they are measured with. Loaded from TOML;
// the rules of the file stand in docs/grid.md.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/model_shape.h"
#include "grid/cards.h"
#include "grid/case.h"

namespace qg {

struct GridModel {
  std::string name, label, stem;
  std::filesystem::path folder;     // of the original model; MODELS_DIR/STEM unless the file says otherwise
  std::optional<ModelShape> shape;  // empty: not a model known by name, and its folder is not here
  bool has_own_folder = false;      // the file names it, whatever MODELS_DIR is
};

enum class WorkloadKind { decode, throughput, prefill, rate };
enum class Profile { quick, full };  // full runs everything, quick its part
inline constexpr uint64_t kDefaultArrivalSeed = 42;
std::string_view to_string(WorkloadKind kind);
std::string_view to_string(Profile profile);
std::optional<Profile> parse_profile(std::string_view name);

// decode: `batch` requests of isl tokens start together, osl tokens out each. throughput: `requests` requests are
// offered at once. prefill: isl tokens in, one out, `batch` at a time. rate: requests arrive at random moments, so many
// a second, whatever the engine does.
struct Workload {
  std::string name;  // "decode/b8", "1000/1000", "prefill/512", "rate/8"
  WorkloadKind kind = WorkloadKind::decode;
  int64_t isl_tokens = 128, osl_tokens = 256;
  int64_t batch = 1;     // decode and prefill
  int64_t requests = 0;  // throughput: 0 = see throughput_requests; rate: that are counted, 1 or more
  int rounds = 5;
  Profile profile = Profile::quick;
  double rate_per_s = 0;   // rate: > 0
  double burstiness = 1;   // rate: shape of the gamma distribution of gaps; 1: Poisson arrivals
  double max_ttft_ms = 0;  // rate: limits of goodput; 0: none
  double max_tpot_ms = 0;
  uint64_t seed = kDefaultArrivalSeed;  // rate: of the moments of arrival
  bool operator==(const Workload&) const = default;
};

// Of a load at a rate: requests that arrive before the `requests` that are counted, so that these meet an engine at
// work.
int64_t rate_warm_up(int64_t requests);

// Requests of a throughput workload, whatever engine is measured: the grid's number, or that of TensorRT-LLM's
// published measurements of these lengths.
int64_t throughput_requests(const Workload& workload);

// What makes two measurements of a workload the same, beside its name: a part of the key of a result.
std::string describe(const Workload& workload);

struct AccuracySettings {
  std::filesystem::path text;  // empty: accuracy is not measured
  int64_t windows = 8, window_tokens = 1024;
};

struct CalibrationSettings {
  std::filesystem::path text;  // empty: quantized checkpoints cannot be made from this grid
  int64_t samples = 512, sample_tokens = 512;
  int64_t search_tokens = 4096;  // tokens that scale searches (AWQ, SmoothQuant) look at, at most
  uint64_t seed = 1;
};

// Who may win, and when two tie (selection.h).
struct Gates {
  double max_ppl_ratio = 1.02;  // perplexity over the FP16 baseline's
  double max_kld_nats = 0.05;
  double tie_share = 0.03;
  int64_t context_tokens = 4096;  // for the greatest batch
};

struct Grid {
  std::filesystem::path file;
  std::string title, description;
  // Where model folders are looked for and checkpoints are made. Relative paths of the file are taken from the file's
  // own folder and are stored resolved.
  std::filesystem::path models_dir;
  std::vector<Case> cases;  // by number
  std::vector<GridModel> models;
  std::vector<Card> cards;  // rows that the file adds; find_card falls back to the built-in rows
  std::vector<Workload> workloads;
  AccuracySettings accuracy;
  CalibrationSettings calibration;
  Gates gates;

  // Throw Error when the grid has no such model or card (cases that came out of load_grid always find theirs).
  const GridModel& model(std::string_view name) const;
  const Card& card(std::string_view id) const;
  const Case* find_case(int number) const;           // null when there is none
  const Case* find_case(std::string_view id) const;  // null when there is none
  const ModelShape& shape(const Case& c) const;      // throws Error when the model's folder is not here
  std::vector<std::string> model_names() const;      // in the order of the cases
  std::vector<std::string> gpu_ids() const;          // in the order of the cases
  // The FP16/FP16 case of the same model and card: the grid's own, or an implied one.
  Case baseline_of(const Case& c) const;
  // The implied FP16/FP16 cases, one for each (model, card) that has none in the grid.
  std::vector<Case> implied_baselines() const;
  // Workloads of a profile: `full` has all of them.
  std::vector<Workload> workloads_of(Profile profile) const;
};

// Reads the shape of a model folder (checkpoint knows how; grid may not include it). Throws Error when it cannot.
using ShapeReader = std::function<ModelShape(const std::filesystem::path& folder)>;

// Throws Error naming file, line, key and the allowed values. read_shape is asked for models that are not known by name
// and whose folder exists; without it their shape stays empty. models_dir, when it is not empty, stands for the file's
// (`run --model-dir`); a folder that the file names for a model stays what it is.
Grid load_grid(const std::filesystem::path& file, const ShapeReader& read_shape = {},
               const std::filesystem::path& models_dir = {});
Grid parse_grid(std::string_view toml, const std::filesystem::path& file, const ShapeReader& read_shape = {},
                const std::filesystem::path& models_dir = {});

}  // namespace qg
