#pragma once
// Small made-up results for the tests of record and report. The figures are invented; only their form is real.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "record/case_key.h"
#include "record/journal.h"

namespace qg::sample {

// A folder that goes away with the test.
class Folder {
 public:
  Folder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("qg_record_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code code;
    std::filesystem::remove_all(path_, code);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline Environment environment(const std::string& run_id, const std::string& started_at = "2026-11-20T08:00:00Z") {
  Environment e;
  e.run_id = run_id;
  e.started_at = started_at;
  e.machine = "CPU, 2 cores";
  e.cpu = "Example processor";
  e.cores = 2;
  e.memory_bytes = int64_t{16} << 30;
  e.os = "Debian GNU/Linux 12 (bookworm)";
  e.version = "0.1.0";
  e.commit = "0123456789ab";
  e.build = "g++ 12.2.0, Release, cpu";
  return e;
}

inline Record common(const std::string& workload = "decode/b1", const std::string& weights = "fp8") {
  Record r;
  r.model = "smollm2-135m";
  r.weights = weights;
  r.kv = "fp16";
  r.target = r.measured_on = "cpu";
  r.case_id = r.model + "/cpu/" + weights + "/kv_fp16";
  r.workload = workload;
  r.executor = "cpu";
  r.case_key = case_key({.model_sha = "aa",
                         .recipe_sha = "bb",
                         .weights = weights,
                         .kv = "fp16",
                         .workload = workload,
                         .engine = "native",
                         .engine_build = "cc",
                         .engine_flags = "",
                         .target = "cpu",
                         .measured_on = "cpu"});
  return r;
}

inline std::vector<Record> speed_rows(const Record& about, double tok_s) {
  Record speed = measured(about, "output_tok_s", tok_s);
  speed.n = 5;
  speed.ci_lo = tok_s * 0.99;
  speed.ci_hi = tok_s * 1.01;
  speed.ci_level = 0.95;
  speed.ci_method = "t_log";
  return {speed, measured(about, "ttft_ms_p50", 80.5), measured(about, "peak_rss_bytes", 7e8)};
}

inline CaseDone done(const Record& about, const std::string& ended_at = "2026-11-20T08:10:00Z") {
  CaseDone end{about, 0, 12.5};
  end.subject.ended_at = ended_at;
  return end;
}

}  // namespace qg::sample
