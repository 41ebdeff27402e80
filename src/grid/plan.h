#pragma once
// What `plan` knows of each case before anything runs: support, checkpoint, bytes, greatest batch, roofline, time, and
// what this machine can do with it.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "grid/engines.h"
#include "grid/grid.h"
#include "grid/support.h"

namespace qg {

// Where the folder that an engine loads comes from.
enum class CheckpointOrigin {
  original,   // the model's own folder is loaded as it is
  converted,  // `convert`: another layout, or a fixed KV format, nothing quantized
  quantized,  // `quantize`
  server,     // an OpenAI-compatible server has its own
};
std::string_view to_string(CheckpointOrigin origin);

// This machine, as far as a plan needs it.
struct Machine {
  int64_t memory_bytes = 0;        // main memory
  bool has_cuda_executor = false;  // this build can run kernels
  std::vector<std::string> cards;  // rows of the GPUs here ("h100"); unknown boards are left out
};

// What this machine can do with a case, as a code and a sentence.
enum class HereStatus { yes, cross_target, accuracy_only, no };
std::string_view to_string(HereStatus status);
struct Here {
  HereStatus status = HereStatus::no;
  std::string reason;
};

struct PlanOptions {
  EngineId engine = EngineId::native;
  Profile profile = Profile::quick;
  int64_t context_tokens = 4096;
  Machine machine;
};

struct PlanRow {
  Case c;
  std::string model_label, card_label;
  Support support;
  std::string checkpoint;  // folder name
  std::string layout;      // of that folder, as the engine loads it: "trtllm", "compressed-tensors"; may be empty
  CheckpointOrigin origin = CheckpointOrigin::quantized;
  ComputePath path = ComputePath::w16a16;  // expected, on the native engine
  // Empty when the model's shape or the card's figures are not known.
  std::optional<int64_t> weights_bytes, kv_bytes_per_token, max_batch, disk_bytes;
  std::optional<double> roofline_tok_s, roofline_b64_tok_s, throughput_tok_s;  // batch 1, batch 64, 1000/1000
  std::optional<double> quantize_seconds, run_seconds;
  Here here;
};

std::vector<PlanRow> make_plan(const Grid& grid, const std::vector<Case>& cases, const PlanOptions& options);

// A folder to produce (or to have), and the cases that it serves.
struct PlanCheckpoint {
  std::string name, layout, model, stem;
  WeightFormat weights;
  KvFormat kv;
  CheckpointOrigin origin;
  std::optional<int64_t> disk_bytes;
  std::optional<double> quantize_seconds;
  std::vector<int> cases;
  bool is_needed = false;  // false: its cases are all unsupported on this engine; listed, but not to be made
};
std::vector<PlanCheckpoint> plan_checkpoints(const Grid& grid, const std::vector<PlanRow>& rows);

// Cases by (model, card), in the order of the grid: the must-have ones first, then the others.
struct PlanIndexRow {
  std::string model, model_label, gpu;
  std::vector<const PlanRow*> must, others;
};
std::vector<PlanIndexRow> plan_index(const std::vector<PlanRow>& rows);

Json to_json(const std::vector<PlanRow>& rows);
Json to_json(const std::vector<PlanCheckpoint>& checkpoints);
Json to_json(const std::vector<PlanIndexRow>& index);

}  // namespace qg
