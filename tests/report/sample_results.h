#pragma once
// Made-up results that look like real ones: the demo's eight cases on a CPU, and journals of the plan of 45 cases from
// an H100 box, an L4 box and a box with random weights. The figures are invented.
#include <cmath>
#include <string>
#include <vector>

#include "grid/case.h"
#include "grid/grid.h"
#include "grid/names.h"
#include "record/case_key.h"
#include "record/journal.h"

namespace qg::sample {

struct Quality {
  double ppl_ratio, kld, top1;
};

inline Environment box(const std::string& run_id, const std::string& gpu, const std::string& started_at) {
  Environment e;
  e.run_id = run_id;
  e.started_at = started_at;
  e.machine = gpu.empty() ? "CPU, 2 cores" : gpu;
  e.cpu = gpu.empty() ? "AMD EPYC 7B13" : "Intel Xeon Platinum 8480+";
  e.cores = gpu.empty() ? 2 : 96;
  e.memory_bytes = int64_t{gpu.empty() ? 16 : 512} << 30;
  e.os = "Debian GNU/Linux 12 (bookworm)";
  e.gpu = gpu;
  if (!gpu.empty()) e.driver = "580.95.05", e.cuda = "13.0", e.gpu_count = 1;
  e.version = "0.1.0";
  e.commit = "4f2c19ab07de";
  e.build = gpu.empty() ? "g++ 12.2.0, Release, cpu" : "g++ 12.2.0, Release, cuda";
  return e;
}

inline Record about_case(const Case& c, const std::string& measured_on, const std::string& workload) {
  Record r;
  r.case_id = c.id();
  if (c.number > 0) r.case_number = c.number;
  r.section = to_string(c.section);
  r.model = c.model;
  r.weights = to_string(c.weights);
  r.kv = to_string(c.kv);
  r.target = c.gpu;
  r.measured_on = measured_on;
  r.cross_target = c.gpu != measured_on;
  r.executor = measured_on == "cpu" ? "cpu" : "cuda";
  r.workload = workload;
  r.case_key = case_key({.model_sha = c.model,
                         .recipe_sha = "r",
                         .weights = r.weights,
                         .kv = r.kv,
                         .workload = workload,
                         .engine = "native",
                         .engine_build = "k",
                         .engine_flags = "",
                         .target = c.gpu,
                         .measured_on = measured_on});
  return r;
}

inline Record between(Record row, double relative) {
  row.ci_lo = *row.value * (1 - relative);
  row.ci_hi = *row.value * (1 + relative);
  row.ci_level = 0.95;
  return row;
}

inline void add_accuracy(JournalWriter& journal, const Case& c, const std::string& measured_on, double base_ppl,
                         const Quality& quality, const std::string& path) {
  Record r = about_case(c, measured_on, "accuracy");
  r.compute_path = path;
  r.dataset = "jargon-text 4.4.7, from line 12001";
  r.protocol = "8 windows of 1,024 tokens, stride 1,024, no BOS, 8,184 scored tokens";
  std::vector<Record> rows{between(measured(r, "ppl", base_ppl * quality.ppl_ratio), 0.03),
                           measured(r, "base_ppl", base_ppl)};
  if (!c.is_fp16_baseline()) {
    rows.push_back(between(measured(r, "kld_mean", quality.kld), 0.04));
    rows.push_back(between(measured(r, "top1", quality.top1), quality.top1 > 0.99 ? 0.002 : 0.008));
  }
  CaseDone done{r, 0, 61};
  done.subject.ended_at = "2026-11-21T10:00:00Z";
  journal.append_case(done, rows);
}

inline void add_speed(JournalWriter& journal, const Case& c, const std::string& measured_on,
                      const std::string& workload, double tok_s, const std::string& path, double roofline = 0,
                      bool synthetic = false, double relative = 0.008) {
  Record r = about_case(c, measured_on, workload);
  r.compute_path = path;
  r.synthetic = synthetic;
  r.rounds = 5;
  const bool decode = workload.starts_with("decode/");
  r.isl = decode ? 128 : 1000;
  r.osl = decode ? 256 : 1000;
  const bool prefill = workload.starts_with("prefill/");
  Record row = between(measured(r, prefill ? "prefill_tok_s" : "output_tok_s", tok_s), relative);
  if (roofline > 0) row.roofline_share = roofline;
  CaseDone done{r, 0, 33};
  done.subject.ended_at = "2026-11-21T11:00:00Z";
  journal.append_case(done, {row, measured(r, "ttft_ms_p50", 12.5)});
}

// SmolLM2 on two CPU cores: the table of reference figures, rounded.
inline void write_demo(const std::filesystem::path& file) {
  JournalWriter journal(file, box("0193-demo", "", "2026-11-21T09:00:00Z"));
  struct Format {
    WeightFormat weights;
    Quality quality;
    double decode, prefill, bytes;
    const char* path;
  };
  const Format formats[] = {{WeightFormat::fp16, {1, 0, 1}, 21.4, 262, 269e6, "w16a16"},
                            {WeightFormat::fp8, {1.018, 0.031, 0.893}, 24.9, 255, 163e6, "w8a8_fp8"},
                            {WeightFormat::int4_awq, {1.28, 0.243, 0.727}, 27.8, 249, 113e6, "w4a16"},
                            {WeightFormat::int8_sq, {1.0155, 0.0172, 0.924}, 25.3, 251, 163e6, "w8a8_int8"}};
  int number = 1;
  for (const Format& f : formats) {
    for (KvFormat kv : {KvFormat::fp16, KvFormat::fp8}) {
      const Case c{number, number == 1 ? Section::baseline : Section::must, "smollm2-135m", "cpu", f.weights, kv};
      ++number;
      Quality q = f.quality;
      if (kv == KvFormat::fp8) q.kld += 0.0021, q.ppl_ratio += 0.001, q.top1 -= 0.004;
      add_accuracy(journal, c, "cpu", 41.12, q, f.path);
      add_speed(journal, c, "cpu", "decode/b1", f.decode * (kv == KvFormat::fp8 ? 0.985 : 1), f.path, 0, false, 0.015);
      add_speed(journal, c, "cpu", "prefill/512", f.prefill * (kv == KvFormat::fp8 ? 0.99 : 1), f.path, 0, false, 0.02);
    }
  }
}

inline double scale_of(const std::string& model) {
  return model == "llama-3.2-3b" ? 2.4 : model == "mistral-7b" ? 1.08 : 1;
}

// The H100 box: its own cases, accuracy of the A10's cases by --target a10, and one case that ran out of memory.
inline void write_h100(const std::filesystem::path& file, const Grid& grid) {
  JournalWriter journal(file, box("0194-h100", "NVIDIA H100 80GB HBM3", "2026-11-21T09:30:00Z"));
  for (const Case& c : grid.cases) {
    const double scale = scale_of(c.model), base_ppl = c.model == "llama-3.2-3b" ? 11.32
                                                       : c.model == "mistral-7b" ? 7.91
                                                                                 : 8.64;
    const bool kv8 = c.kv == KvFormat::fp8;
    if (c.gpu == "h100") {
      const bool fp8 = c.weights == WeightFormat::fp8;
      const std::string path = fp8 ? "w8a8_fp8" : "w16a16";
      add_accuracy(journal, c, "h100", base_ppl,
                   {fp8 ? (kv8 ? 1.0091 : 1.0064) : 1, kv8 ? 0.0131 : 0.0102, kv8 ? 0.961 : 0.967}, path);
      add_speed(journal, c, "h100", "decode/b1", scale * (fp8 ? (kv8 ? 246 : 243) : 151), path, fp8 ? 0.74 : 0.78);
      add_speed(journal, c, "h100", "decode/b8", scale * (fp8 ? 1840 : 1130), path, 0.7);
      add_speed(journal, c, "h100", "decode/b64", scale * (fp8 ? (kv8 ? 11900 : 11050) : 7300), path, 0.61);
      add_speed(journal, c, "h100", "1000/1000", scale * (fp8 ? (kv8 ? 15100 : 12800) : 8600), path, 0.44);
    }
    if (c.gpu == "a10") {
      const bool int4 = c.weights == WeightFormat::int4_awq;
      const std::string path = int4 ? "w4a16" : "w8a8_int8";
      add_accuracy(journal, c, "h100", base_ppl, {int4 ? 1.031 : 1.007, int4 ? 0.041 : 0.012, int4 ? 0.921 : 0.963},
                   path);
      add_speed(journal, c, "h100", "decode/b1", 54321 * scale, path);  // an H100's, never to be shown as the A10's
    }
  }
}

inline void write_l4(const std::filesystem::path& file, const Grid& grid) {
  JournalWriter journal(file, box("0195-l4", "NVIDIA L4", "2026-11-21T09:40:00Z"));
  for (const Case& c : grid.cases) {
    if (c.gpu == "l4" && c.model == "llama-3.1-8b") {
      const bool kv8 = c.kv == KvFormat::fp8;
      add_accuracy(journal, c, "l4", 8.64, {kv8 ? 1.0092 : 1.0065, kv8 ? 0.0132 : 0.0101, 0.964}, "w8a8_fp8");
      add_speed(journal, c, "l4", "decode/b1", kv8 ? 30.9 : 30.6, "w8a8_fp8", 0.83);
      add_speed(journal, c, "l4", "1000/1000", kv8 ? 912 : 701, "w8a8_fp8", 0.5);
    }
    if (c.gpu == "l4" && c.model == "mistral-7b" && c.kv == KvFormat::fp8) {
      CaseDone done{about_case(c, "l4", "1000/1000"), 0, 3};
      done.subject.status = "oom";
      done.subject.error_msg = "weights and workspace need 23.4 GB, the card has 22.0 GB free";
      journal.append_case(done, {});
    }
  }
}

// Random weights on an A100: speed only.
inline void write_synthetic(const std::filesystem::path& file, const Grid& grid) {
  JournalWriter journal(file, box("0196-a100", "NVIDIA A100-SXM4-80GB", "2026-11-21T09:50:00Z"));
  for (const Case& c : grid.cases)
    if (c.gpu == "a100" && c.model == "llama-3.1-8b" && c.weights == WeightFormat::int4_awq)
      add_speed(journal, c, "a100", "decode/b1", c.kv == KvFormat::fp8 ? 171 : 175, "w4a16", 0.6, true);
}

}  // namespace qg::sample
