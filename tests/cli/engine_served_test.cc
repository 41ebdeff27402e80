// `run --served` with the servers of TensorRT-LLM and vLLM played by stand-ins: started, loaded over real HTTP, read
// and ended; what a server does wrong is a status of that workload, and the grid goes on.
#include <algorithm>

#include "tests/cli/engine_run_fixture.h"

namespace qg {
namespace {

constexpr const char* kEngines[] = {"tensorrt-llm --backend pytorch", "tensorrt-llm --backend tensorrt", "vllm"};

std::string workload(const std::string& name, int isl, int osl, int requests) {
  return "[[workloads]]\nname = \"" + name + "\"\nkind = \"throughput\"\nisl = " + std::to_string(isl) +
         "\nosl = " + std::to_string(osl) + "\nrequests = " + std::to_string(requests) + "\n";
}

// A workload's name for what happens to it.
std::string name_of(std::string mode) {
  std::replace(mode.begin(), mode.end(), '@', '.');
  return mode;
}

class EngineServedTest : public EngineRunTest {
 protected:
  Outcome run_served(const std::string& engine, const std::string& more = "") {
    return run("run grid.toml --served --journal j.jsonl --engine " + engine + " " + more);
  }
  void expect_all_gone() {
    for (pid_t pid : programs_->pids("PIDS")) EXPECT_TRUE(is_gone(pid, 10)) << pid;
  }
  // Words of the only call of a server, with its port as PORT.
  std::string serve_call(const std::string& program) {
    const std::vector<std::string> calls = programs_->calls(program);
    Json words = calls.empty() ? Json::array() : Json::parse(calls.back());
    for (size_t i = 0; i + 1 < words.size(); ++i)
      if (words[i] == "--port") words[i + 1] = "PORT";
    std::string line;
    for (const Json& word : words) line += (line.empty() ? "" : " ") + word.get<std::string>();
    return line;
  }
  std::vector<Json> rows(const std::string& workload) {
    std::vector<Json> list;
    std::ifstream file(folder_ / "j.jsonl");
    for (std::string line; std::getline(file, line);) {
      Json entry = parse_json(line, "j.jsonl");
      if (entry["kind"] == "measurement" && entry["workload"] == workload && entry["kv"] == "fp16")
        list.push_back(std::move(entry));
    }
    return list;
  }
  double metric(const std::string& workload, const std::string& name) {
    for (const Json& row : rows(workload))
      if (row["metric"] == name) return row["value"];
    return -1;
  }
};

TEST_F(EngineServedTest, TheWholeWayOnEachEngine) {
  write_grid("[[workloads]]\nname = \"decode/b2\"\nkind = \"decode\"\nisl = 8\nosl = 6\nbatch = 2\nrounds = 3\n" +
             workload("9/7", 9, 7, 5) +
             "[[workloads]]\nname = \"prefill/24\"\nkind = \"prefill\"\nisl = 24\nbatch = 2\nrounds = 2\n");
  for (const std::string engine : kEngines) {
    for (const char* file : {"CALLS", "REQUESTS"}) std::filesystem::remove(programs_->folder() / file);
    std::filesystem::remove(folder_ / "j.jsonl");
    const Outcome outcome = run_served(engine, "--filter number=1,2");
    ASSERT_EQ(outcome.exit_code, 0) << engine << "\n" << outcome.err;
    const bool vllm = engine == "vllm";
    const bool tensorrt = engine.ends_with("tensorrt");
    const std::string key = vllm ? "vllm" : tensorrt ? "tensorrt-llm/tensorrt" : "tensorrt-llm/pytorch";
    int speeds = 0;
    for (const Json& end : ends()) {
      EXPECT_EQ(end["status"], "ok") << end;
      EXPECT_EQ(end["engine"], key + "/served");
      EXPECT_EQ(end["engine_version"], end["workload"] == "build" || !vllm ? "1.1.0" : "0.12.0") << end;
      if (end["workload"] == "build") continue;
      ++speeds;
      // The client's word for what it asked; the server knows every field of it.
      EXPECT_NE(end.value("engine_flags", std::string()).find("ignore_eos, min_tokens, usage in each event"),
                std::string::npos)
          << end;
    }
    EXPECT_EQ(speeds, 2 * 3) << engine;
    EXPECT_GT(metric("decode/b2", "output_tok_s"), 0);
    EXPECT_GT(metric("prefill/24", "prefill_tok_s"), 0);
    EXPECT_EQ(metric("9/7", "output_tokens_mean"), 7);  // by the server's count
    EXPECT_EQ(metric("9/7", "prompt_tokens_mean"), 9);
    EXPECT_GE(metric("9/7", "client_lag_ms_p99"), 0);
    EXPECT_GE(metric("9/7", "client_cpu_share"), 0);
    EXPECT_EQ(programs_->completions(8, 6).size(), 2u * (2 + 3 * 2)) << "two cases: a warm-up and three rounds of two";
    const std::string program = vllm ? "vllm" : "trtllm-serve";
    EXPECT_EQ(programs_->calls(program).size(), 2u) << "one server for each case";
    EXPECT_EQ(programs_->calls("trtllm-bench").size(), 0u);
    EXPECT_NE(serve_call(program).find(vllm       ? "vllm serve models/compressed-tensors/"
                                       : tensorrt ? "trtllm-serve grid-tensorrt-llm-tensorrt/results/engines/"
                                                  : "trtllm-serve models/modelopt/"),
              std::string::npos)
        << serve_call(program);
    expect_all_gone();

    EXPECT_EQ(run_served(engine, "--filter number=1,2").exit_code, 0);
    EXPECT_EQ(programs_->calls(program).size(), 2u) << "what is done was started again";
  }
  ASSERT_EQ(run("report j.jsonl --grid grid.toml --md r.md").exit_code, 0);
  EXPECT_NE(read_text(folder_ / "r.md").find("vllm/served"), std::string::npos);
}

// The stand-ins take token ids alone, so that these fail; that they were tried is what counts.
TEST_F(EngineServedTest, PromptsOfTextAreAnotherMeasurement) {
  write_grid(workload("9/7", 9, 7, 5));
  size_t starts = 0;
  for (const char* prompts : {"", "--prompts text", "--chat"}) {
    run_served("vllm", std::string("--filter number=1 ") + prompts);
    EXPECT_EQ(programs_->calls("vllm").size(), ++starts) << prompts;
  }
  run_served("vllm", "--filter number=1");
  EXPECT_EQ(programs_->calls("vllm").size(), starts);
}

// Each workload meets another misfortune under load; the server is there again for the next one.
TEST_F(EngineServedTest, EachFailureHasItsStatusAndTheGridGoesOn) {
  struct Way {
    const char* mode;
    const char* status;
    const char* code;
    const char* says;
  };
  const std::vector<Way> ways{
      {"ok", "ok", "", ""},
      {"http_429@3", "failed", "http_429", "HTTP 429: the queue is full"},
      {"http_500", "failed", "http_500", "HTTP 500: EngineCore failed"},
      {"garbage", "failed", "garbage", "not a sound HTTP answer"},
      {"nothing@3", "timeout", "timeout", "no byte from the server"},
      {"cut", "failed", "stream_cut", "cut off after 2 tokens"},
      {"chatty", "ok", "", ""},
      {"crash@3", "crash", "signal_11", "the server ended under load: crashed (signal 11"},
      {"oom", "oom", "cuda_oom", "the server ended under load: the card's memory did not suffice"},
      {"killed", "oom", "killed", "the server ended under load: was killed"},
      {"deaf@4", "timeout", "timeout", "failed its health check and was ended"},
      {"last", "ok", "", ""}};
  std::string workloads;
  Json modes = Json::object();
  int isl = 8;
  for (const Way& way : ways) {
    workloads += workload(name_of(way.mode), ++isl, 5, 4);
    modes["isl " + std::to_string(isl)] = way.mode;
  }
  write_grid(workloads);
  programs_->put("MODES", modes.dump());
  for (const std::string engine : {"tensorrt-llm --backend pytorch", "vllm"}) {
    for (const char* file : {"CALLS", "REQUESTS"}) std::filesystem::remove(programs_->folder() / file);
    std::filesystem::remove(folder_ / "j.jsonl");
    std::string chosen = "--filter number=1 --stall-timeout 1";
    if (engine != "vllm") chosen += " --points ok,http_429.3,cut,crash.3,last";  // the driver is the same
    const Outcome outcome = run_served(engine, chosen);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    const std::map<std::string, Json> ends = ends_by_workload();
    EXPECT_EQ(ends.size(), engine == "vllm" ? ways.size() : 5u);
    for (const Way& way : ways) {
      if (!ends.contains(name_of(way.mode))) continue;
      const Json& end = ends.at(name_of(way.mode));
      EXPECT_EQ(end["status"], way.status) << way.mode << " " << end;
      EXPECT_EQ(end.value("error_code", std::string()), way.code) << way.mode;
      EXPECT_NE(end.value("error_msg", std::string()).find(way.says), std::string::npos) << way.mode << " " << end;
      EXPECT_EQ(end["valid"], std::string(way.status) == "ok") << way.mode;
    }
    EXPECT_EQ(programs_->calls(engine == "vllm" ? "vllm" : "trtllm-serve").size(), engine == "vllm" ? 5u : 2u);
    expect_all_gone();
  }
  // Failed requests were not sent again: as many came as the workload has, warm-up included, and no more.
  const auto ok = programs_->completions(9, 5).size();
  EXPECT_LE(programs_->completions(10, 5).size(), ok);
}

TEST_F(EngineServedTest, ARateOnEachEnginesServer) {
  write_grid(
      "[[workloads]]\nname = \"rate/50\"\nkind = \"rate\"\nisl = 9\nosl = 4\nrate = 50\nrequests = 20\nmax_ttft_ms = "
      "30000\n");
  for (const std::string engine : kEngines) {
    std::filesystem::remove(folder_ / "j.jsonl");
    std::filesystem::remove(programs_->folder() / "REQUESTS");
    const Outcome outcome = run_served(engine, "--filter number=1");
    ASSERT_EQ(outcome.exit_code, 0) << engine << outcome.err;
    EXPECT_EQ(programs_->completions(9, 4).size(), 37u) << "20 that are counted, 16 before them, and the probe";
    EXPECT_GT(metric("rate/50", "ttft_ms_p90"), 0);
    EXPECT_GT(metric("rate/50", "tpot_ms_p90"), -1);
    EXPECT_EQ(metric("rate/50", "goodput_share"), 1);
    const Json row = rows("rate/50").at(0);
    EXPECT_TRUE(row["engine"].get<std::string>().ends_with("/served")) << row;
    EXPECT_EQ(row["request_rate"], 50);
    EXPECT_EQ(row["num_requests"], 20);
    EXPECT_EQ(row["ttft_limit_ms"], 30000);
    EXPECT_NE(row["protocol"].get<std::string>().find("Poisson arrivals at 50"), std::string::npos);
    EXPECT_EQ(run_served(engine, "--filter number=1").exit_code, 0);
    EXPECT_EQ(programs_->completions(9, 4).size(), 37u) << "what was measured was measured again";
    expect_all_gone();
  }
}

// A server that does not come up ends its case with the reason, and the next case is tried.
TEST_F(EngineServedTest, AServerThatDoesNotComeUp) {
  write_grid(workload("8/5", 8, 5, 4));
  struct Way {
    const char* mode;
    const char* status;
    const char* code;
    const char* says;
  };
  const Way ok{"ok", "ok", "", ""}, oom{"oom", "oom", "cuda_oom", "Tried to allocate"},
      crash{"crash", "crash", "signal_11", "signal 11"}, exits{"exit3", "failed", "exit_3", "out of sorts"},
      refuses{"refuse", "skipped_unsupported", "engine_refused", "FP8 FMHA"},
      hangs{"hang", "timeout", "time_limit", "the server was not up: did not end within 4 s"};
  struct Run {
    const char* engine;
    Way first, second;  // of the case with the 16-bit cache, and of the one with the FP8 cache
  };
  for (const Run& r : {Run{"tensorrt-llm --backend pytorch", oom, ok}, Run{"vllm", ok, oom}, Run{"vllm", crash, exits},
                       Run{"vllm", refuses, hangs}}) {
    std::filesystem::remove(folder_ / "j.jsonl");
    programs_->mode(r.first.mode, "fp16");
    programs_->mode(r.second.mode, "fp8");
    const bool has_limit = std::string(r.second.mode) == "hang";
    const Outcome outcome =
        run_served(r.engine, "--filter number=1,2" + std::string(has_limit ? " --limit-minutes 0.06" : ""));
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    for (const auto& [kv, way] : {std::pair{"fp16", r.first}, {"fp8", r.second}}) {
      const Json end = ends_by_workload(kv).at("8/5");
      EXPECT_EQ(end["status"], way.status) << r.engine << " " << end;
      EXPECT_EQ(end.value("error_code", std::string()), way.code);
      EXPECT_NE(end.value("error_msg", std::string()).find(way.says), std::string::npos) << end;
    }
    expect_all_gone();
  }
}

TEST_F(EngineServedTest, AnotherCacheIsInvalid) {
  write_grid(workload("8/5", 8, 5, 4));
  for (const std::string engine : kEngines)
    for (const std::string mode : {"fp8", "lie"}) {
      if (engine != "vllm" && mode == "fp8") continue;  // TensorRT-LLM's servers report no type, only its bytes
      std::filesystem::remove(folder_ / "j.jsonl");
      programs_->mode(mode, "fp16");
      EXPECT_EQ(run_served(engine, "--filter number=1").exit_code, 2);
      const Json end = ends_by_workload().at("8/5");
      EXPECT_EQ(end["status"], "invalid") << engine << " " << mode << " " << end;
      EXPECT_EQ(end["error_code"], "kv_mismatch");
      EXPECT_NE(end.value("error_msg", std::string())
                    .find(mode == "fp8" ? "the engine reports fp8" : "bytes of KV cache a token"),
                std::string::npos)
          << end;
      EXPECT_EQ(end["invalid_reasons"], Json::array({"kv_mismatch"}));
      EXPECT_GT(metric("8/5", "output_tok_s"), 0);  // kept, and counted nowhere
      EXPECT_FALSE(rows("8/5").empty());
      for (const Json& row : rows("8/5")) EXPECT_EQ(row["valid"], false) << row;
    }
}

// Ctrl-C while a server is loaded, and while one is starting.
TEST_F(EngineServedTest, InterruptedItLeavesNothingBehindAndGoesOn) {
  write_grid(workload("8/5", 8, 5, 4) + workload("9/5", 9, 5, 4));
  programs_->put("MODES", R"({"isl 9": "nothing"})");
  const std::vector<std::string> words{"run",       "grid.toml", "--served", "--engine", "vllm",
                                       "--journal", "j.jsonl",   "--filter", "number=1"};
  const auto interrupt = [&](pid_t child) {
    kill(child, SIGINT);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 75);
    expect_all_gone();
  };
  pid_t child = start(words);
  for (int i = 0; i < 1000 && programs_->completions(9, 5).empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(programs_->completions(9, 5).empty());
  interrupt(child);
  ASSERT_EQ(ends_by_workload().size(), 1u);  // what was done stays
  programs_->mode("family");
  child = start(words);
  ASSERT_TRUE(wait_for_file(programs_->folder() / "READY", 60));
  interrupt(child);
  programs_->mode("ok");
  programs_->put("MODES", "{}");
  const size_t before = programs_->completions(8, 5).size();
  EXPECT_EQ(run_served("vllm", "--filter number=1").exit_code, 0);
  EXPECT_EQ(ends_by_workload().size(), 2u);
  EXPECT_EQ(programs_->completions(8, 5).size(), before) << "what was measured was measured again";
}

}  // namespace
}  // namespace qg
