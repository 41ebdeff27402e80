// Speed behind HTTP through the command line: our own server as a child, and somebody's who behaves or does not.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <map>

#include "core/json.h"
#include "tests/cli/program.h"
#include "tests/engines/rude_server.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const char* const kGrid = R"(title = "tiny"
models_dir = "models"

[models.tiny]
folder = "models/tiny"

[[product]]
section = "baseline"
models = ["tiny"]
gpus = ["cpu"]
weights = ["fp16"]
kv = ["fp16", "fp8"]

[[workloads]]
name = "decode/b2"
kind = "decode"
isl = 8
osl = 300
batch = 2
rounds = 3

[[workloads]]
name = "8/8"
kind = "throughput"
isl = 8
osl = 8
requests = 6

[[workloads]]
name = "prefill/16"
kind = "prefill"
isl = 16
rounds = 2

[calibration]
text = "text.txt"
samples = 4
sample_tokens = 48
search_tokens = 64
)";

class Served : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fresh_folder("served");
    write_text(folder_ / "grid.toml", kGrid);
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

  // The lines of one kind in the journal.
  std::vector<Json> lines(const std::string& kind) {
    std::vector<Json> found;
    const std::string text = read_text(folder_ / "grid.jsonl");
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      Json line = Json::parse(text.substr(at, end - at));
      at = end + 1;
      if (line["kind"] == kind) found.push_back(std::move(line));
    }
    return found;
  }
  Json value(const std::string& engine, const std::string& workload, const std::string& metric) {
    for (const Json& row : lines("measurement"))
      if (row["engine"] == engine && row["workload"] == workload && row["metric"] == metric) return row["value"];
    return nullptr;
  }

  fs::path folder_;
};

TEST_F(Served, TheGridThroughOurOwnServer) {
  const std::string run = "run grid.toml --served --executor cpu --progress none";
  Outcome outcome = run_program(run, folder_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::vector<Json> ends = lines("case_done");
  int speeds = 0;
  for (const Json& end : ends) {
    EXPECT_EQ(end["status"], "ok");
    if (end["workload"] == "quantize") continue;
    EXPECT_EQ(end["engine"], "native/served");
    EXPECT_EQ(end["executor"], "cpu");
    EXPECT_EQ(end["compute_path"], "w16a16");
    ++speeds;
  }
  EXPECT_EQ(speeds, 2 * 3);
  EXPECT_GT(value("native/served", "decode/b2", "output_tok_s").get<double>(), 0);
  EXPECT_GT(value("native/served", "prefill/16", "prefill_tok_s").get<double>(), 0);
  EXPECT_EQ(value("native/served", "8/8", "output_tokens_mean"), 8);
  EXPECT_EQ(value("native/served", "8/8", "prompt_tokens_mean"), 8);
  EXPECT_GE(value("native/served", "8/8", "client_lag_ms_p99").get<double>(), 0);

  const std::string journal = read_text(folder_ / "grid.jsonl");
  outcome = run_program(run, folder_);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(read_text(folder_ / "grid.jsonl"), journal) << "what is done was done again";

  ASSERT_EQ(run_program("run grid.toml --executor cpu --progress none", folder_).exit_code, 0);
  outcome = run_program("report grid.jsonl --grid grid.toml --md report.md -o report.html", folder_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string report = read_text(folder_ / "report.md");
  EXPECT_NE(report.find("| native/served |"), std::string::npos) << report;
  EXPECT_NE(report.find("| native |"), std::string::npos);
}

TEST_F(Served, OneMeasurementThroughOurOwnServer) {
  Outcome outcome = run_program(
      "bench --served --executor cpu --model models/tiny --isl 8 --osl 6 --concurrency 3 --requests 9 --json", folder_);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  Json json = Json::parse(outcome.out);
  EXPECT_EQ(json["engine"], "native/served");
  EXPECT_EQ(json["status"], "ok");
  EXPECT_EQ(json["requests"], 9);
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["output_tokens_mean"], 6);
  EXPECT_EQ(json["compute_path"], "w16a16");
  EXPECT_GT(json["output_tok_s"].get<double>(), 0);

  outcome = run_program("bench --served --executor cpu --model models/none --isl 8 --osl 6", folder_);
  EXPECT_EQ(outcome.exit_code, 1) << outcome.err;
  EXPECT_NE(outcome.err.find("models/none"), std::string::npos) << outcome.err;
}

TEST_F(Served, AServerThatIsUpGetsOneCase) {
  RudeServer server([](const RudeRequest& request) {
    return RudeServer::good(
        static_cast<int>(number_in(request.body, "max_tokens")),
        static_cast<int>(std::count(request.body.begin(),
                                    request.body.begin() + static_cast<int64_t>(request.body.find("],")), ',')));
  });
  const std::string run = "run grid.toml --engine openai --base-url " + server.url() + " --progress none";
  Outcome outcome = run_program(run, folder_);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_NE(outcome.err.find("--filter number=1"), std::string::npos) << outcome.err;
  EXPECT_EQ(run_program("run grid.toml --engine openai --filter number=1", folder_).exit_code, 1);
  EXPECT_EQ(run_program(run + " --filter number=1 --server-name 'a b'", folder_).exit_code, 1);

  outcome = run_program(run + " --filter number=1 --points 8/8 --server-name rude", folder_);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(value("openai/rude", "8/8", "output_tokens_mean"), 8);
  const Json end = lines("case_done").back();
  EXPECT_EQ(end["engine_version"], "rude 1.2");
  EXPECT_EQ(end["measured_on"], "cpu");
  EXPECT_EQ(end["engine_flags"], "model m; token prompts, ignore_eos, min_tokens, usage in each event");
  const int before = server.completions();
  EXPECT_EQ(run_program(run + " --filter number=1 --points 8/8 --server-name rude", folder_).exit_code, 0);
  EXPECT_EQ(server.completions(), before);
}

TEST_F(Served, AServerThatFailsIsAStatusAndTheGridGoesOn) {
  RudeServer server([](const RudeRequest& request) {  // fails in one workload only: that of 8 requests and more
    if (number_in(request.body, "max_tokens") == 1) return RudeServer::json("busy", "429 Too Many Requests");
    return RudeServer::good(static_cast<int>(number_in(request.body, "max_tokens")), 8);
  });
  const Outcome outcome = run_program(
      "run grid.toml --engine openai --filter number=1 --points 8/8,prefill/16 --progress none --json --base-url " +
          server.url(),
      folder_);
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  std::map<std::string, Json> ends;
  for (const Json& end : lines("case_done")) ends[end["workload"]] = end;
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_EQ(ends["8/8"]["status"], "ok");
  EXPECT_EQ(ends["prefill/16"]["status"], "failed");
  EXPECT_EQ(ends["prefill/16"]["error_code"], "http_429");
  EXPECT_NE(ends["prefill/16"]["error_msg"].get<std::string>().find("HTTP 429: busy"), std::string::npos);
  EXPECT_EQ(ends["prefill/16"]["valid"], false);
}

// Before anything is measured, a server is asked some things, and it may hang.
TEST_F(Served, AStopIsHeededWhileAServerHangs) {
  RudeServer server([](const RudeRequest&) { return std::string(RudeServer::kHold); });
  const pid_t child = fork();
  if (child == 0) {
    if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(9);
    const std::string url = server.url();
    execl(QG_BINARY, QG_BINARY, "bench", "--engine", "openai", "--isl", "8", "--osl", "6", "--base-url", url.c_str(),
          nullptr);
    _exit(9);
  }
  const auto until = [](double seconds, const std::function<bool()>& seen) {
    for (int i = 0; i < seconds * 100 && !seen(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return seen();
  };
  EXPECT_TRUE(until(30, [&] { return server.completions() > 0; }));
  kill(child, SIGTERM);
  int status = 0;
  bool ended = false;
  EXPECT_TRUE(until(10, [&] { return ended = ended || waitpid(child, &status, WNOHANG) == child; }));
  if (!ended) {
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 75) << status;
}

}  // namespace
}  // namespace qg
