#pragma once
// The grid on this machine: makes missing checkpoints, measures what is not done yet, appends to the journal. Accuracy
// and each workload of a case are journal entries of their own, so a stop loses at most the one that was running.
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bench/gpu_window.h"
#include "bench/load.h"
#include "bench/measure.h"
#include "checkpoint/checkpoint.h"
#include "engines/serve_child.h"
#include "eval/fidelity.h"
#include "eval/windows.h"
#include "grid/engines.h"
#include "grid/grid.h"
#include "grid/memory.h"
#include "quantize/quantize.h"
#include "record/case_key.h"
#include "record/journal.h"
#include "runtime/engine.h"
#include "runtime/make_executor.h"
#include "tokenizer/tokenizer.h"

namespace qg {

inline constexpr int64_t kMostSequences = 1024;  // running at once, on a GPU

struct GridRunOptions {
  Profile profile = Profile::quick;
  std::string measured_on = "cpu";     // card that computes
  std::string executor = "cpu";        // cpu or cuda
  CudaExecutorOptions cuda;            // which card, for cuda
  std::vector<std::string> points;     // workloads that are run; empty: all of the profile
  std::optional<uint64_t> synth_seed;  // missing models get random weights of this seed: speed only
  double window_s = 0;                 // throughput: measured in a steady state of this length; 0 = whole runs
  bool rerun = false;
  bool accuracy_apart = false;  // base and candidates one after the other, though there is room for both
  std::string speed_flags;      // words of the command line that a speed depends on, for key and record
  bool served = false;          // speed through `quantgrid serve`, started for it; nothing else is measured
};

// What an executor says that it ran.
struct RanKernels {
  std::string compute_path;
  std::vector<std::string> kernels;
};

// One measurement of one case, as it stands in the journal.
struct CellPart {
  std::string workload;  // "accuracy", "decode/b1", "memory"
  CaseIdentity identity;
  std::string key;
};

// What a speed measurement says of the card: clocks, temperature, memory and energy over the measured time.
void add_conditions(const GpuUse& use, Record& common);
void add_gpu_rows(const Record& common, const BenchResult& r, const GpuUse& use, std::vector<Record>& rows);

class GridRun {
 public:
  GridRun(const Grid& grid, std::vector<Case> cases, GridRunOptions options, JournalWriter& journal);

  // Throws Error only when the run as a whole cannot go on (interrupted, disk full, no model); a case that fails is
  // recorded and counted.
  void run();
  // Only the checkpoints and KV scales that the cases need: what is there and sound is skipped. A model whose folder is
  // missing is counted as failed.
  void make_checkpoints();
  int failed_cases() const { return static_cast<int>(failed_.size()); }
  const std::vector<Case>& cases() const { return cases_; }
  // Newest finished rows of a case, by metric; empty where it was not measured.
  std::map<std::string, Record> measured_rows(const Case& c);

 private:
  struct Model;  // what is opened once per model

  // grid_run.cc
  Model& model(const std::string& name);
  // Tasks of a fleet share the folder: each checkpoint is made once.
  std::filesystem::path lock_file(const GridModel& row) const;
  std::shared_ptr<const Checkpoint> synthetic_checkpoint(const Model& m, WeightFormat weights) const;
  std::vector<Case> cases_of(const std::string& model_name) const;
  // A 16-bit model with an 8-bit cache is run from its own folder; its cache's calibration is a file beside the folder.
  bool needs_kv_scales_file(const Model& m, const Case& c) const;
  std::filesystem::path kv_scales_file(const Model& m) const;
  std::shared_ptr<const Checkpoint> checkpoint_of(Model& m, const Case& c);
  CellPart part(Model& m, const Case& c, const std::string& workload, const std::string& description);
  bool wanted(const CellPart& part) const;
  Record common_record(Model& m, const Case& c, const CellPart& part);
  void append(const Record& common, std::vector<Record> rows, double seconds);
  void append_failure(const Record& common, const std::string& what);
  std::unique_ptr<Executor> executor(Model& m, const Case& c, int64_t tokens, int64_t max_rows);
  // The executor of a speed measurement. On a GPU it has all of the card's memory and serves all workloads of a case
  // that follow each other with steps of as many rows, since loading takes longer than many of them.
  Load grid_load(const Workload& w) const;
  std::shared_ptr<Executor> speed_executor(Model& m, const Case& c, const Load& load, const EngineOptions& options);
  CudaExecutorOptions cuda_options(const Case& c) const;
  // Before work whose peak of resident memory is recorded: what earlier work read or freed counts no longer. False
  // where the kernel does not allow it, and then none is recorded.
  bool begin_peak();
  std::vector<Workload> workloads() const;

  // grid_run_checkpoints.cc
  void make_missing_checkpoints(Model& m, const std::vector<Case>& cases);
  QuantizeJob missing_checkpoints(const Model& m, const std::vector<Case>& cases) const;
  std::vector<QuantizeReport> run_job(const Model& m, const QuantizeJob& job) const;
  // Whether the folder is there; throws Error when it is and does not hold what its name says of these weights.
  bool has_checkpoint(const Model& m, const std::string& name, WeightFormat weights) const;
  void require_sound(const Model& m, const Checkpoint& checkpoint, WeightFormat weights) const;

  // grid_run_parts.cc
  int64_t candidates_at_once(const ModelShape& shape) const;
  // Before checkpoints are made, which can take hours: a text that is not there is noticed first.
  void require_accuracy_text() const;
  void run_accuracy(Model& m, const std::vector<Case>& cases);
  void run_accuracy_batch(Model& m, const std::vector<Case>& cases, const EvalText& text);
  void run_accuracy_apart(Model& m, const std::vector<Case>& cases, const EvalText& text);
  std::unique_ptr<Executor> accuracy_base(Model& m, const Case& of);
  std::unique_ptr<Executor> accuracy_candidate(Model& m, const Case& c);  // null: told as failed
  void append_accuracy(Model& m, const Case& c, const EvalText& text, const TokenScores& base,
                       const TokenScores& candidate, const RanKernels& ran, double seconds);
  void run_speed(Model& m, const Case& c, const Workload& workload);
  bool in_window(const Workload& workload) const;
  std::string speed_description(const Workload& workload) const;  // what makes two measurements of it the same
  std::optional<double> roofline_share(const Model& m, const Case& c, const Load& load, const BenchResult& r) const;

  // grid_run_served.cc
  void run_served(Model& m, const Case& c, const Workload& workload);
  ServeChild& serve_child(Model& m, const Case& c, const Workload& workload);
  void run_memory(Model& m, const Case& c);
  // What makes two of these measurements the same.
  std::string accuracy_description();
  std::string memory_description(Model& m, const Case& c) const;
  TiedEmbedding tied_embedding_of(const Case& c) const;

  const Grid& grid_;
  std::vector<Case> cases_;
  GridRunOptions options_;
  JournalWriter& journal_;
  std::map<std::string, std::unique_ptr<Model>> models_;
  std::set<std::string> failed_;
  std::string text_hash_;                         // of the accuracy text; empty until it is asked for
  std::shared_ptr<Executor> speed_executor_;      // of the case below
  std::pair<std::string, int64_t> speed_wanted_;  // its case and its rows of a step
  bool has_own_peak_ = false;                     // the peak of resident memory began with the loading of that executor
  bool said_no_peak_ = false;
  std::unique_ptr<ServeChild> serve_child_;
};

struct GridRun::Model {
  const GridModel* row = nullptr;
  std::filesystem::path folder;
  std::string stem;  // of its checkpoints' names
  std::shared_ptr<const Checkpoint> base;
  std::optional<Tokenizer> tokenizer;
  std::shared_ptr<const Checkpoint> base_with_kv_scales;  // opened on first use
  std::string base_hash, kv_scales_hash;
  bool synthetic = false;
  std::map<std::string, std::shared_ptr<const Checkpoint>> checkpoints;  // by folder name
};

}  // namespace qg
