#pragma once
// A result in long form: one metric a row. docs/schema.md lists the fields and the metrics; a test holds page and code
// against each other. Empty text and empty optionals mean "not known" and are left out of JSON.
//
// How a measurement is written: whoever runs a case fills the fields about the case once in a Record (`common`), and
//   rows.push_back(measured(common, "output_tok_s", 812.4));
// gives a row with unit, stat, suite and phase of that metric; n, ci_lo and the like are set on what it returns.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/utc.h"

namespace qg {

inline constexpr int64_t kSchemaVersion = 1;

// How a case ended. ok and the two skipped ones are final; the others are tried again by the next run.
enum class CaseStatus { ok, oom, timeout, crash, failed, skipped_unsupported, skipped_no_memory, invalid };
std::string_view to_string(CaseStatus status);
std::optional<CaseStatus> parse_case_status(std::string_view name);
bool is_final(CaseStatus status);

struct Record {
  // Which case. run_id, attempt and case_key are filled by the journal.
  std::string run_id, case_key;
  int64_t attempt = 1;
  std::string case_id;                 // grid/names.h, case_id()
  std::optional<int64_t> case_number;  // number in the grid; empty for implied cases and for cases without a grid
  std::string section;                 // must | baseline | int8 | implied
  std::string baseline_case_id;        // the case that this one is compared with
  std::string model, weights, kv;      // words of core/format.h and grid/models.h
  std::string target;                  // card that the case is for: "a10"
  std::string measured_on;             // card that ran it: "h100"; "cpu" for the CPU executor
  bool cross_target = false;           // target and measured_on differ: accuracy counts, speed does not
  bool synthetic = false;              // random weights: speed only
  std::string executor;                // cpu | cuda; empty for other engines
  std::string engine = "native";       // EngineSpec::key()
  std::string engine_version, engine_flags;

  // What was measured.
  std::string suite;   // speed | accuracy | memory | energy | quantize
  std::string phase;   // prefill | decode | e2e
  std::string metric;  // row of record/metrics.h
  std::string stat;    // mean | geomean | p50 | p90 | p99 | max | sum | ratio
  std::optional<double> value;
  std::string unit;
  std::optional<int64_t> n;  // samples behind the value
  std::optional<double> n_eff, sd, ci_lo, ci_hi, ci_level;
  std::string ci_method;              // t_log | slices | block_bootstrap | binomial | mcnemar
  std::optional<int64_t> round, rep;  // empty for aggregates

  // The workload.
  std::string workload;  // "decode/b8", "1000/1000", "accuracy", "memory", "quantize"
  std::optional<int64_t> isl, osl, batch, rounds, context_len, concurrency;
  std::optional<double> request_rate, ttft_limit_ms, tpot_limit_ms, batch_achieved, window_s;
  std::optional<int64_t> num_requests, num_failed;
  std::string dataset;   // "jargon-text 4.4.7"
  std::string protocol;  // how it was measured, in words: window, stride, BOS; arrivals, warm-up, limits
  std::string workload_sha;
  std::optional<int64_t> seed;

  // The model's bytes.
  std::string checkpoint;  // name of the folder, never its path
  std::string base_ckpt_sha, ckpt_sha, recipe_sha, tokenizer_sha;

  // What ran.
  std::string compute_path;  // core/format.h, ComputePath; from the kernel that ran
  Json kernels;              // list of {name, share} or of names; null when not known
  std::optional<double> roofline_share;

  // Conditions during the window (GPU telemetry).
  std::optional<double> sm_mhz_mean, sm_mhz_min, sm_mhz_ref, mem_mhz, power_w_mean, power_limit_w, temp_c_max;
  std::string throttle_reasons;
  std::optional<double> throttle_pct, energy_j, idle_w;
  std::string energy_source;

  // How it went.
  std::string status = "ok";  // CaseStatus
  bool valid = true;
  Json invalid_reasons;  // list of codes; null when there are none
  std::string verdict;   // FASTER | SLOWER | SAME | UNDECIDED | NON_INFERIOR | INFERIOR
  std::string error_code, error_msg;
  std::string started_at, ended_at;  // UTC, "2026-11-22T16:40:00Z"

  Json more = Json::object();  // keys that this version does not know, kept as they were
  bool operator==(const Record&) const = default;
};

// The end of a case's batch in the journal. `subject` holds the fields about the case, with status, error and times.
struct CaseDone {
  Record subject;
  int64_t rows = 0;    // filled by the journal
  double seconds = 0;  // wall time of the case
  bool operator==(const CaseDone&) const = default;
};

// A copy of `common` with the metric, its value, unit, stat, suite and phase. Throws Error when there is no such
// metric.
Record measured(const Record& common, std::string_view metric, double value);

// Throws Error naming the field when a row that is to be written lacks what every row needs or has a word that is not
// one.
void check_record(const Record& record);

}  // namespace qg
