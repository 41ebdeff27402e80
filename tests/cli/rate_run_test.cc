// A served load in a grid, the whole way through the command line on a tiny model: planned, measured in the process and
// through `quantgrid serve`, resumed, reported.
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "core/json.h"
#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

std::string grid_with(const std::string& limits) {
  return R"(title = "tiny"
models_dir = "models"
[models.tiny]
folder = "models/tiny"
[cases]
baseline = [[1, "tiny", "cpu", "fp16", "fp16"]]
must = [[2, "tiny", "cpu", "fp16", "fp8"]]
[[workloads]]
name = "decode/b1"
kind = "decode"
isl = 8
osl = 8
batch = 1
rounds = 2
[[workloads]]
name = "rate/100"
kind = "rate"
isl = 12
osl = 6
rate = 100
requests = 40
)" + limits +
         R"([calibration]
text = "text.txt"
samples = 4
sample_tokens = 48
)";
}

class RateRunTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fresh_folder("rate-run");
    write_text(folder_ / "grid.toml", grid_with("max_ttft_ms = 60000\nmax_tpot_ms = 60000\n"));
    std::string text;
    for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i * 7919) + " of a text; ";
    write_text(folder_ / "text.txt", text);
    const Outcome made = run_program(
        "synth llama-3.2-3b models/tiny --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 256 --vocab "
        "320 --seed 4",
        folder_);
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Outcome run(const std::string& arguments, int exit_code = 0) {
    Outcome outcome = run_program(arguments, folder_);
    EXPECT_EQ(outcome.exit_code, exit_code) << arguments << ": " << outcome.err;
    return outcome;
  }
  // Rows of one workload and case by metric; attempts one after the other, so that the newest stays.
  std::map<std::string, Json> rows(const std::string& engine, const std::string& kv = "fp16") {
    std::map<std::string, Json> found;
    std::ifstream file(folder_ / "j.jsonl");
    for (std::string line; std::getline(file, line);) {
      const Json row = parse_json(line, "j.jsonl");
      if (row["kind"] == "measurement" && row["workload"] == "rate/100" && row["engine"] == engine && row["kv"] == kv)
        found[row["metric"]] = row;
    }
    return found;
  }
  size_t ends_of_rate() {
    size_t count = 0;
    std::ifstream file(folder_ / "j.jsonl");
    for (std::string line; std::getline(file, line);) {
      const Json row = parse_json(line, "j.jsonl");
      count += row["kind"] == "case_done" && row["workload"] == "rate/100";
    }
    return count;
  }
  fs::path folder_;
};

void expect_rows(std::map<std::string, Json> rows) {  // a copy: what is not there is null, and no abort
  for (const char* metric :
       {"output_tok_s", "total_tok_s", "requests_s", "ttft_ms_p50", "ttft_ms_p90", "tpot_ms_p50", "tpot_ms_p90",
        "itl_ms_p50", "itl_ms_p90", "e2e_ms_p50", "e2e_ms_p90", "goodput_requests_s", "goodput_share"})
    ASSERT_TRUE(rows.contains(metric)) << metric;
  EXPECT_FALSE(rows.contains("ttft_ms_p99")) << "of 40 requests it would be the maximum";
  Json& ttft = rows.at("ttft_ms_p90");
  EXPECT_EQ(ttft["unit"], "ms");
  EXPECT_EQ(ttft["n"], 40);
  EXPECT_EQ(ttft["request_rate"], 100);
  EXPECT_EQ(ttft["ttft_limit_ms"], 60000);
  EXPECT_EQ(ttft["tpot_limit_ms"], 60000);
  EXPECT_EQ(ttft["num_requests"], 40);
  EXPECT_FALSE(ttft.contains("batch"));
  EXPECT_GT(ttft["window_s"].get<double>(), 0.1);  // 40 requests at 100 a second
  EXPECT_EQ(
      ttft["protocol"],
      "Poisson arrivals at 100 requests/s, seed 42; 16 more before them are not counted; good: TTFT at most 60000 "
      "ms, TPOT at most 60000 ms");
  EXPECT_LE(rows.at("ttft_ms_p50")["value"], ttft["value"]);
  EXPECT_GE(rows.at("e2e_ms_p50")["value"], rows.at("ttft_ms_p50")["value"]);
  EXPECT_EQ(rows.at("goodput_share")["value"], 1);
  EXPECT_EQ(rows.at("goodput_share")["ci_method"], "binomial");
  EXPECT_EQ(rows.at("goodput_requests_s")["value"], rows.at("requests_s")["value"]);
  EXPECT_NEAR(rows.at("requests_s")["value"].get<double>() * ttft["window_s"].get<double>(), 40, 1e-6);
  EXPECT_NEAR(rows.at("output_tok_s")["value"].get<double>() * ttft["window_s"].get<double>(), 240, 1e-3);
}

TEST_F(RateRunTest, IsPlannedMeasuredOnceAndReported) {
  const std::string plan = run("plan grid.toml").out;
  EXPECT_NE(
      plan.find("rate/100      12 in, 6 out, 100 requests/s, 40 of them; good: first token in 60000 ms, then 60000 "
                "ms a token\n"),
      std::string::npos)
      << plan;
  run("plan grid.toml --emit scripts");
  EXPECT_NE(read_text(folder_ / "scripts/case-01.sh")
                .find("--isl 12 --osl 6 --rate 100 --requests 40 --max-ttft 60000 --max-tpot 60000 --json  # rate/100"),
            std::string::npos);

  const std::string table = run("run grid.toml --journal j.jsonl").out;
  EXPECT_NE(table.find("good req/s"), std::string::npos) << table;
  for (const char* kv : {"fp16", "fp8"}) {
    expect_rows(rows("native", kv));
    EXPECT_GE(rows("native", kv).at("batch_achieved")["value"], 1);
  }
  const std::string journal = read_text(folder_ / "j.jsonl");
  const Json again = parse_json(run("run grid.toml --journal j.jsonl --json").out, "run");
  EXPECT_EQ(read_text(folder_ / "j.jsonl"), journal) << "a finished load was measured again";
  EXPECT_TRUE(again[0]["metrics"].contains("rate/100 ttft_ms_p90"));

  // Other limits make other results; what stands there for decode is kept.
  write_text(folder_ / "grid.toml", grid_with("max_ttft_ms = 0.001\n"));
  run("run grid.toml --journal j.jsonl --filter number=1");
  EXPECT_EQ(ends_of_rate(), 3u);
  EXPECT_EQ(rows("native").at("goodput_share")["value"], 0);
  EXPECT_FALSE(rows("native").at("goodput_share").contains("tpot_limit_ms"));

  run("report j.jsonl --grid grid.toml -o r.html --md r.md");
  const std::string page = read_text(folder_ / "r.html"), text = read_text(folder_ / "r.md");
  for (const std::string& shown : {page, text}) {
    EXPECT_NE(shown.find("Served load"), std::string::npos);
    EXPECT_NE(shown.find("rate/100: 12 in, 6 out, 100 requests/s"), std::string::npos);
    EXPECT_NE(shown.find("TTFT ≤ 60000 ms"), std::string::npos);
    EXPECT_EQ(shown.find("rate/100 tok/s"), std::string::npos) << "the load's tokens a second are no speed";
  }
  EXPECT_EQ(run("pick j.jsonl --grid grid.toml").out.find("rate/100"), std::string::npos);
}

TEST_F(RateRunTest, ThroughItsOwnServer) {
  run("run grid.toml --journal j.jsonl --served --filter number=1 --points rate/100");
  expect_rows(rows("native/served"));
  EXPECT_TRUE(rows("native/served").contains("client_lag_ms_p99"));
  EXPECT_EQ(rows("native/served").at("output_tokens_mean")["value"], 6);
}

TEST_F(RateRunTest, BenchSaysTheSame) {
  const std::string load = "bench --model models/tiny --isl 12 --osl 6 --rate 100 --requests 40 ";
  Json limited = parse_json(run(load + "--max-ttft 60000 --json").out, "bench");
  for (const char* key : {"ttft_ms_p90", "tpot_ms_p90", "e2e_ms_p50", "requests_s", "goodput_requests_s"})
    EXPECT_TRUE(limited.contains(key)) << key;
  EXPECT_EQ(limited["goodput_share"], 1);
  EXPECT_EQ(limited["requests"], 40);
  EXPECT_TRUE(limited["ttft_ms_p99"].is_null()) << "of 40 requests it would be the maximum";
  Json open = parse_json(run(load + "--burstiness 0.5 --seed 3 --json").out, "bench");
  EXPECT_FALSE(open.contains("goodput_share"));
  EXPECT_EQ(open["method"],
            "arrivals of burstiness 0.5 at 100 requests/s, seed 3; 16 more before them are not counted");
  EXPECT_NE(run(load + "--max-ttft 60000").out.find("100.0 % of them"), std::string::npos);
  run("bench --model models/tiny --batch 2 --max-ttft 100", 1);  // limits are a rate's
  run("bench --model models/tiny --rate 0", 1);
}

TEST_F(RateRunTest, AWrongFileIsSaidWithItsLine) {
  write_text(folder_ / "bad.toml", grid_with("batch = 3\n"));
  const Outcome outcome = run("run bad.toml --journal j.jsonl", 1);
  EXPECT_NE(outcome.err.find("bad.toml:22: workloads[2].batch"), std::string::npos) << outcome.err;
  EXPECT_FALSE(fs::exists(folder_ / "j.jsonl"));
}

}  // namespace
}  // namespace qg
