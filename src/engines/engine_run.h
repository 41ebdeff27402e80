#pragma once
// What a case run through another engine returns, and who runs it: one interface for engines that are driven by their
// own benchmarks (TensorRT-LLM, vLLM) and for servers that a load client talks to. Whoever runs the grid turns an
// EngineRun into the same records that the native engine writes.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engines/commands.h"
#include "record/record.h"

namespace qg {

// One figure; `name` is a row of record/metrics.h, and the value is in that row's unit.
struct EngineMetric {
  std::string name;
  double value = 0;
  std::optional<int64_t> n = {};                 // samples behind the value
  std::optional<double> ci_lo = {}, ci_hi = {};  // both or none
  std::optional<double> ci_level = {};           // 0.95
  std::string ci_method = {};                    // as Record::ci_method
};

// One workload of one case on an engine. Trouble is a value here: status and reason, never an exception, so that the
// grid goes on.
struct EngineRun {
  CaseStatus status = CaseStatus::ok;
  std::string error_code;  // a word for programs: "cuda_oom", "kv_mismatch", "http_429"; empty when all is well
  std::string reason;      // one sentence for people: what, where, what to do; empty when all is well
  std::vector<EngineMetric> metrics;  // where the status is not ok: what is known all the same

  std::string engine_version;  // as the engine reports it; empty when not known
  std::string engine_flags;    // words that change what runs, for the record
  std::string compute_path;    // core/format.h, ComputePath; empty when the engine does not say
  std::vector<std::string> kernels;
  std::optional<KvFormat> kv_reported;  // the cache type that the engine says it used; empty when it does not say

  std::optional<int64_t> requests, failed, rounds;
  std::optional<double> batch_achieved, window_s;
  double seconds = 0;  // wall time of all of it, start of the engine included

  bool ok() const { return status == CaseStatus::ok; }
};

// A run that ended badly.
EngineRun failed_run(CaseStatus status, std::string error_code, std::string reason);

// The journal's lines of a run: a row for each metric (none unless the run is ok or invalid; rows of an invalid run
// carry valid = false with the error code), and the line that ends the batch. `common` has the fields about the case
// and the workload. Throws Error when a metric has no row in record/metrics.h.
std::vector<Record> engine_rows(const Record& common, const EngineRun& run);
CaseDone engine_done(const Record& common, const EngineRun& run);

// A server that is up and healthy.
struct ServerAddress {
  std::string url;      // "http://127.0.0.1:8000", no slash at the end
  std::string model;    // for the "model" field of requests
  std::string api_key;  // empty: none is sent
  int64_t vocab = 0;    // of the model, for prompts of random token ids; 0: not known, so that prompts must be text
};

// The load client: replays a workload against a server and measures. Gets the case for its formats and names only.
using ServedLoad = std::function<EngineRun(const ServerAddress&, const EngineCase&, const Workload&)>;

// An engine as the grid sees it. One object serves all cases of a run, one after the other.
class EngineDriver {
 public:
  virtual ~EngineDriver() = default;
  // Called once, before anything else: the engine is installed, in a version that is known. A run that is not ok ends
  // all cases with its status and reason ("not_installed", "wrong_version": with how to install it).
  virtual EngineRun check() = 0;
  // As the engine reports it: part of the key of a result. Empty when it does not say.
  virtual std::string version() const = 0;
  // Before the first workload of a case: checkpoint there and sound, engine built, server up. A run that is not ok
  // ends the case. Metrics (build time, engine size) belong to the workload "build".
  virtual EngineRun prepare(const EngineCase& e) = 0;
  virtual EngineRun run(const EngineCase& e, const Workload& workload) = 0;
  // After the last workload, also of a failed case: ends what prepare() started. Does not throw.
  virtual void finish() noexcept {}
};

}  // namespace qg
