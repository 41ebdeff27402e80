// A load at a rate on other engines, played by stand-ins: their own benchmarks have none, their servers are loaded.
#include "tests/cli/engine_run_fixture.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

using EngineRateTest = EngineRunTest;

// A rate is no workload of an engine's own benchmark: a row says so, nothing is started for it, and no case fails.
TEST_F(EngineRateTest, ARateIsNotMeasuredByTheEnginesOwnBenchmark) {
  const std::string rate =
      "[[workloads]]\nname = \"rate/50\"\nkind = \"rate\"\nisl = 8\nosl = 4\nrate = 50\nrequests = 10\n";
  write_grid(kEngineWorkloads + rate);
  for (const std::string engine : {"tensorrt-llm --backend pytorch", "tensorrt-llm --backend tensorrt", "vllm"}) {
    fs::remove(folder_ / "j.jsonl");
    fs::remove(programs_->folder() / "CALLS");
    const std::string command = "run grid.toml --journal j.jsonl --filter number=1 --engine " + engine;
    const Outcome alone = run(command + " --points rate/50");
    EXPECT_EQ(alone.exit_code, 0) << alone.err;
    EXPECT_NE(alone.err.find("--served"), std::string::npos) << alone.err;
    EXPECT_TRUE(programs_->calls().empty()) << "an engine was started for nothing";
    ASSERT_EQ(ends().size(), 1u);
    EXPECT_EQ(ends()[0]["status"], "skipped_unsupported");
    EXPECT_EQ(ends()[0]["error_code"], "needs_server");
    EXPECT_EQ(ends()[0]["request_rate"], 50);
    EXPECT_EQ(run(command).exit_code, 0);  // the others are measured
    EXPECT_EQ(ends_by_workload().at("decode/b2")["status"], "ok");
    const size_t lines = ends().size();
    EXPECT_EQ(run(command).exit_code, 0);
    EXPECT_EQ(ends().size(), lines) << "said twice";
    ASSERT_EQ(run("report j.jsonl --grid grid.toml -o r.html").exit_code, 0);
    EXPECT_EQ(read_text(folder_ / "r.html").find("Measurements that failed"), std::string::npos);
  }
}

// The script of a grid with a rate has `run` load the engine's server, once.
TEST_F(EngineRateTest, AScriptLoadsTheServer) {
  write_grid(
      "[[workloads]]\nname = \"rate/50\"\nkind = \"rate\"\nisl = 9\nosl = 4\nrate = 50\nrequests = 20\n"
      "[[workloads]]\nname = \"rate/60\"\nkind = \"rate\"\nisl = 7\nosl = 4\nrate = 60\nrequests = 20\n");
  const char* path = std::getenv("PATH");
  fs::create_directories(folder_ / "bin");
  fs::create_symlink(QG_BINARY, folder_ / "bin/quantgrid");
  for (const std::string engine : {"tensorrt-llm --backend pytorch", "vllm"}) {
    fs::remove_all(folder_ / "out");
    fs::remove(programs_->folder() / "REQUESTS");
    ASSERT_EQ(run("plan grid.toml --emit out --filter number=1 --engine " + engine).exit_code, 0);
    const std::string script = "cd '" + folder_.string() + "' && PATH='" + (folder_ / "bin").string() + "':'" + path +
                               "' out/tiny-h100.sh > said 2>&1";
    ASSERT_EQ(std::system(script.c_str()), 0) << read_text(folder_ / "said") << read_text(folder_ / "out/tiny-h100.sh");
    std::map<std::string, Json> done;
    for (const Json& end : ends("out/results/served.jsonl")) done[end["workload"]] = end;
    for (const char* workload : {"rate/50", "rate/60"}) {
      ASSERT_TRUE(done.contains(workload));
      EXPECT_EQ(done[workload]["status"], "ok") << done[workload];
      EXPECT_TRUE(done[workload]["engine"].get<std::string>().ends_with("/served"));
    }
    const size_t sent = programs_->completions(9, 4).size();
    EXPECT_EQ(std::system(script.c_str()), 0);
    EXPECT_EQ(programs_->completions(9, 4).size(), sent) << "measured again";
  }
}

}  // namespace
}  // namespace qg
