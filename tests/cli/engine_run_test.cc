// `run --engine` as a person types it, with stand-ins for the engines and a card: rows beside the native engine's, each
// failure with its reason, the same commands as `plan --emit`, and nothing left behind when it is killed.
#include "tests/cli/engine_run_fixture.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

TEST_F(EngineRunTest, RowsOfThreeEnginesInOneReport) {
  const Outcome pytorch = run(kPytorch + std::string("--json"));
  ASSERT_EQ(pytorch.exit_code, 0) << pytorch.err;
  const Json cases = parse_json(pytorch.out, "run");
  ASSERT_EQ(cases.size(), 4u);  // the A100's case is another machine's
  EXPECT_DOUBLE_EQ(cases[1]["metrics"]["decode/b2 output_tok_s"].get<double>(), 200);
  EXPECT_EQ(cases[3]["support"]["status"], "unsupported");
  EXPECT_EQ(statuses("unsupported").size(), 1u);
  EXPECT_NE(statuses("unsupported").at(0).find("SmoothQuant"), std::string::npos);

  const Outcome tensorrt = run("run grid.toml --engine tensorrt-llm --backend tensorrt --journal j.jsonl");
  ASSERT_EQ(tensorrt.exit_code, 0) << tensorrt.err;
  EXPECT_NE(tensorrt.out.find("build s"), std::string::npos);
  const Outcome vllm = run("run grid.toml --engine vllm --journal j.jsonl");
  ASSERT_EQ(vllm.exit_code, 0) << vllm.err;

  const size_t calls = programs_->calls().size();
  for (const char* again : {kPytorch, "run grid.toml --engine vllm --journal j.jsonl"})
    EXPECT_EQ(run(again).exit_code, 0);
  EXPECT_EQ(programs_->calls().size(), calls);  // what is done is not started again

  const Outcome report = run("report j.jsonl --grid grid.toml --md r.md -o r.html");
  ASSERT_EQ(report.exit_code, 0) << report.err;
  const std::string page = read_text(folder_ / "r.md");
  for (const char* part : {"tensorrt-llm/pytorch", "tensorrt-llm/tensorrt", "vllm", "Engines side by side", "| 200"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_NE(read_text(folder_ / "r.html").find("Engines side by side"), std::string::npos);
  const Outcome one = run("pick j.jsonl --grid grid.toml --engine vllm");
  EXPECT_EQ(one.out.find("tensorrt-llm"), std::string::npos) << one.out;
  EXPECT_NE(one.out.find("vllm"), std::string::npos);
  const Outcome across = run("pick j.jsonl --grid grid.toml --across --json");
  EXPECT_EQ(parse_json(across.out, "across").size(), 8u);  // 4 cases of two workloads each
  const Outcome none = run("pick j.jsonl --grid grid.toml --engine sglang");
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_NE(none.err.find("no results of the engine"), std::string::npos);
}

TEST_F(EngineRunTest, ARunUsesTheCommandsThatAreEmitted) {
  for (const char* engine :
       {"--engine tensorrt-llm --backend pytorch", "--engine tensorrt-llm --backend tensorrt", "--engine vllm"}) {
    fs::remove(programs_->folder() / "CALLS");
    fs::remove_all(folder_ / "out");
    ASSERT_EQ(run("run grid.toml --journal x.jsonl --rerun --engine-dir out " + std::string(engine)).exit_code, 0);
    const std::vector<std::string> ran = programs_->calls();
    fs::remove(programs_->folder() / "CALLS");
    fs::remove_all(folder_ / "out");
    ASSERT_EQ(run("plan grid.toml --emit out --force " + std::string(engine)).exit_code, 0);
    ASSERT_EQ(std::system(("cd '" + folder_.string() + "' && out/tiny-h100.sh > said 2>&1").c_str()), 0)
        << read_text(folder_ / "said");
    EXPECT_EQ(programs_->calls(), ran) << engine;
    EXPECT_GE(ran.size(), 6u);
  }
}

TEST_F(EngineRunTest, AScriptsBuildIsGoneOnWith) {
  const std::string engine = "--engine tensorrt-llm --backend tensorrt ";
  ASSERT_EQ(run("plan grid.toml --emit out " + engine).exit_code, 0);
  ASSERT_EQ(std::system(("cd '" + folder_.string() + "' && out/tiny-h100.sh > said 2>&1").c_str()), 0);
  const size_t builds = programs_->calls("trtllm-build").size();
  ASSERT_EQ(run("run grid.toml --journal j.jsonl --engine-dir out " + engine).exit_code, 0);
  EXPECT_EQ(programs_->calls("trtllm-build").size(), builds);
}

TEST_F(EngineRunTest, FailuresAreRowsAndTheGridGoesOn) {
  programs_->mode("oom", "fp8");
  const Outcome first = run(kPytorch);
  EXPECT_EQ(first.exit_code, 2) << first.err;
  EXPECT_EQ(statuses("cuda_oom").size(), 2u);
  EXPECT_NE(first.err.find("1 of 4 cases failed"), std::string::npos) << first.err;
  programs_->mode("ok", "fp8");
  EXPECT_EQ(run(kPytorch).exit_code, 0);  // only what failed is tried again
  EXPECT_EQ(programs_->calls("trtllm-bench").size(), 8u);
}

TEST_F(EngineRunTest, AnotherCacheIsInvalidAndNotReported) {
  programs_->mode("lie", "fp16");
  EXPECT_EQ(run(kPytorch + std::string("--filter 'number=1'")).exit_code, 2);
  EXPECT_EQ(statuses("kv_mismatch").size(), 2u);
  ASSERT_EQ(run("report j.jsonl --grid grid.toml --md r.md").exit_code, 0);
  EXPECT_EQ(read_text(folder_ / "r.md").find("| 200"), std::string::npos);
}

TEST_F(EngineRunTest, AHangIsATimeout) {
  programs_->mode("hang");
  const Outcome outcome = run(kPytorch + std::string("--filter 'number=2' --points 8/16 --limit-minutes 0.02"));
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(statuses("time_limit").size(), 1u);
}

// Each workload meets another misfortune, in the middle of a run; each has its own word, and the last one is measured.
// (A hang: above.)
TEST_F(EngineRunTest, EachFailureHasItsStatusAndTheGridGoesOn) {
  struct Way {
    const char* mode;
    const char* status;
    const char* trtllm;  // error code
    const char* vllm;
    const char* says;
  };
  const std::vector<Way> ways{{"ok", "ok", "", "", ""},
                              {"oom", "oom", "cuda_oom", "cuda_oom", "Tried to allocate"},
                              {"crash", "crash", "signal_11", "signal_11", "signal 11"},
                              {"killed", "oom", "killed", "killed", "main memory"},
                              {"refuse", "skipped_unsupported", "engine_refused", "engine_refused", "FP8 FMHA"},
                              {"exit3", "failed", "exit_3", "exit_3", "out of sorts"},
                              {"garbage", "failed", "bad_report", "bad_report", "total.json"},
                              {"silent", "failed", "bad_report", "bad_report", "total"},
                              {"old", "failed", "bad_report", "", "0.17.0"},  // vLLM's report names no version
                              {"fp8", "invalid", "kv_mismatch", "kv_mismatch", "the engine reports fp8"},
                              {"lie", "invalid", "kv_mismatch", "kv_mismatch", "bytes of KV cache a token"},
                              {"last", "ok", "", "", ""}};
  std::string workloads;
  Json modes = Json::object();
  for (const Way& way : ways) {
    workloads += "[[workloads]]\nname = \"" + std::string(way.mode) +
                 "\"\nkind = \"throughput\"\nisl = 8\nosl = 16\nrequests = 4\n";
    modes[way.mode] = way.mode;
  }
  write_grid(workloads);
  programs_->put("MODES", modes.dump());
  for (const char* engine : {"tensorrt-llm --backend pytorch", "tensorrt-llm --backend tensorrt", "vllm"}) {
    std::filesystem::remove(folder_ / "j.jsonl");
    const Outcome outcome = run("run grid.toml --journal j.jsonl --filter number=1 --engine " + std::string(engine));
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    const std::map<std::string, Json> ends = ends_by_workload();
    const bool vllm = std::string(engine) == "vllm";
    for (const Way& way : ways) {
      ASSERT_TRUE(ends.contains(way.mode)) << engine << " " << way.mode;
      const Json& end = ends.at(way.mode);
      const std::string code = vllm ? way.vllm : way.trtllm;
      EXPECT_EQ(end["status"], code.empty() ? "ok" : way.status) << engine << " " << way.mode << " " << end;
      EXPECT_EQ(end.value("error_code", std::string()), code) << engine << " " << way.mode;
      if (code.empty()) continue;
      EXPECT_NE(end.value("error_msg", std::string()).find(way.says), std::string::npos) << way.mode << " " << end;
    }
    for (pid_t pid : programs_->pids("PIDS")) EXPECT_TRUE(is_gone(pid)) << engine;
  }
}

// A version that lacks an option of ours says so itself, whatever it calls itself.
TEST_F(EngineRunTest, AnOptionThatTheEngineLacks) {
  programs_->put("LACKS", "--concurrency\n--no-enable-prefix-caching\n");
  for (const char* engine : {"tensorrt-llm --backend pytorch", "vllm"}) {
    std::filesystem::remove(folder_ / "j.jsonl");
    const Outcome outcome =
        run("run grid.toml --journal j.jsonl --filter number=2 --points decode/b2 --engine " + std::string(engine));
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(statuses("wrong_version").size(), 1u) << engine;
    EXPECT_NE(outcome.err.find("lacks an option"), std::string::npos) << outcome.err;
  }
}

TEST_F(EngineRunTest, NotInstalledAndWrongVersions) {
  write_text(programs_->folder() / "TRTLLM", "0.20.0");
  const Outcome wrong = run(kPytorch);
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_EQ(statuses("wrong_version").size(), 6u);
  const Outcome tried = run(kPytorch + std::string("--attempt --filter 'number=2'"));
  EXPECT_EQ(tried.exit_code, 0) << tried.err;
  fs::remove(programs_->bin() / "vllm");
  const Outcome none = run("run grid.toml --engine vllm --journal v.jsonl");
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_NE(none.err.find("pip install vllm"), std::string::npos) << none.err;
  EXPECT_EQ(ends("v.jsonl").size(), 8u);
}

TEST_F(EngineRunTest, AttemptRunsWhatIsNotListed) {
  write_text(folder_ / "models/modelopt/tiny-trtllm-ckpt-wq_int8_sq-kv_fp16/config.json", "{\"vocab_size\": 320}");
  write_text(folder_ / "models/modelopt/tiny-trtllm-ckpt-wq_int8_sq-kv_fp16/hf_quant_config.json",
             "{\"quantization\": {\"quant_algo\": \"W8A8_SQ\", \"kv_cache_quant_algo\": null}}");
  EXPECT_EQ(run(kPytorch + std::string("--filter 'number=4'")).exit_code, 0);
  EXPECT_TRUE(programs_->calls("trtllm-bench").empty());
  programs_->mode("refuse");
  EXPECT_EQ(run(kPytorch + std::string("--filter 'number=4' --attempt")).exit_code, 0);
  EXPECT_EQ(statuses("engine_refused").size(), 2u);
  programs_->mode("ok");
  const Outcome tried = run(kPytorch + std::string("--filter 'number=4' --attempt --json"));
  EXPECT_EQ(tried.exit_code, 0) << tried.err;
  EXPECT_GT(parse_json(tried.out, "run")[0]["metrics"]["8/16 output_tok_s"].get<double>(), 0);
}

TEST_F(EngineRunTest, KilledItLeavesNothingBehindAndGoesOn) {
  for (int signal : {SIGKILL, SIGTERM, SIGINT}) {
    programs_->mode("family");
    fs::remove(programs_->folder() / "READY");
    fs::remove(programs_->folder() / "PIDS");
    const pid_t child = start({"run", "grid.toml", "--engine", "vllm", "--journal", "j.jsonl"});
    ASSERT_TRUE(wait_for_file(programs_->folder() / "READY", 60)) << signal;
    const std::vector<pid_t> pids = programs_->pids("PIDS");
    ASSERT_EQ(pids.size(), 3u);
    kill(child, signal);
    int status = 0;
    waitpid(child, &status, 0);
    if (signal != SIGKILL) {
      EXPECT_TRUE(WIFEXITED(status));
      EXPECT_EQ(WEXITSTATUS(status), 75);
    }
    for (pid_t pid : pids) EXPECT_TRUE(is_gone(pid, 15)) << "signal " << signal;
  }
  programs_->mode("ok");
  EXPECT_EQ(run("run grid.toml --engine vllm --journal j.jsonl").exit_code, 0);
}

// The shape of a model that the program does not know is read where --model-dir says that it is: without it the
// engine's cache could not be checked.
TEST_F(EngineRunTest, ModelDirStandsForTheGridsModelsDir) {
  std::string grid = std::string(kEngineCases) + kEngineWorkloads;
  grid.replace(grid.find("\"models\""), 8, "\"nowhere\"");
  grid.replace(grid.find("folder = \"models/tiny\"\n"), 23, "");
  write_text(folder_ / "grid.toml", grid);
  programs_->mode("lie", "fp16");
  const Outcome outcome = run(kPytorch + std::string("--filter number=1 --model-dir models"));
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  EXPECT_EQ(statuses("kv_mismatch").size(), 2u);
}

TEST_F(EngineRunTest, WrongUseIsOneClearMessage) {
  struct Wrong {
    const char* arguments;
    int exit_code;
    const char* says;
  };
  for (const Wrong& wrong :
       {Wrong{"--engine vllm --weights-from synth", 1, "--weights-from"},
        Wrong{"--engine vllm --executor cpu", 1, "--executor"},
        Wrong{"--engine vllm --checkpoints-only", 1, "--checkpoints-only"},
        Wrong{"--engine vllm --calib text.txt", 1, "--calib"},
        Wrong{"--engine vllm --points decode/b99", 1, "decode/b99"},
        Wrong{"--engine vllm --target a100", 1, "--target a100"}, Wrong{"--attempt", 1, "--attempt"},
        Wrong{"--engine vllm --gpu 'x y'", 1, "--gpu"}, Wrong{"--engine tensorrt-llm", 1, "none was named"},
        Wrong{"--engine vllm --engine-dir /proc/none", 1, "--engine-dir"},
        Wrong{"--engine vllm --filter number=99", 1, "no case is left"},
        // As a task of a cluster that landed on another card than its own.
        Wrong{"--engine vllm --filter 'gpu=a100'", 4, "no case is left for the card that is here, h100"}}) {
    const Outcome outcome = run("run grid.toml " + std::string(wrong.arguments));
    EXPECT_EQ(outcome.exit_code, wrong.exit_code) << wrong.arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(wrong.says), std::string::npos) << wrong.arguments << "\n" << outcome.err;
    for (const char* left : {"grid.jsonl", "grid-vllm"})
      EXPECT_FALSE(fs::exists(folder_ / left)) << wrong.arguments << " leaves " << left;
  }
  programs_->add("nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9");
  const Outcome none = run("run grid.toml --engine vllm");
  EXPECT_EQ(none.exit_code, 4);
  EXPECT_NE(none.err.find("could not communicate"), std::string::npos) << none.err;
  programs_->add("nvidia-smi", "echo 'garbage'");
  EXPECT_EQ(run("run grid.toml --engine vllm --engine-dir new/deep").exit_code, 4);
  for (const char* left : {"grid.jsonl", "grid-vllm", "new"}) EXPECT_FALSE(fs::exists(folder_ / left)) << left;
}

TEST_F(EngineRunTest, EnginesSaysWhatIsInstalled) {
  const Json list = parse_json(run("engines --json").out, "engines");
  ASSERT_EQ(list.size(), 5u);
  for (const Json& engine : list) {
    const std::string name = engine["name"];
    EXPECT_EQ(engine["installed"], name != "openai") << name;
    if (name == "vllm") {
      EXPECT_EQ(engine["version"], "0.12.0");
    } else if (name == "tensorrt-llm") {
      EXPECT_EQ(engine["version"], "1.1.0");
    }
  }
  fs::remove(programs_->bin() / "vllm");
  const Outcome text = run("engines");
  EXPECT_NE(text.out.find("not installed (vllm is not on the PATH); install: pip install vllm"), std::string::npos)
      << text.out;
  EXPECT_NE(text.out.find("installed: tensorrt_llm 1.1.0"), std::string::npos);
}

}  // namespace
}  // namespace qg
