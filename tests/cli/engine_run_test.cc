// `run --engine` as a person types it, with stand-ins for the engines and a card: rows beside the native engine's, each
// failure with its reason, the same commands as `plan --emit`, and nothing left behind when it is killed.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "core/json.h"
#include "tests/cli/program.h"
#include "tests/engines/stand_in_engines.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// Cases of the H100 that the stand-in nvidia-smi shows, and one of another card.
const char* const kGrid = R"(title = "tiny"
models_dir = "models"
[models.tiny]
folder = "models/tiny"
[cases]
must = [[1, "tiny", "h100", "fp8", "fp16"], [2, "tiny", "h100", "fp8", "fp8"], [9, "tiny", "a100", "int4_awq", "fp16"]]
baseline = [[3, "tiny", "h100", "fp16", "fp16"]]
int8 = [[4, "tiny", "h100", "int8_sq", "fp16"]]
[[workloads]]
name = "decode/b2"
kind = "decode"
isl = 8
osl = 5
batch = 2
rounds = 3
[[workloads]]
name = "8/16"
kind = "throughput"
isl = 8
osl = 16
requests = 12
)";

constexpr const char* kPytorch = "run grid.toml --engine tensorrt-llm --backend pytorch --journal j.jsonl ";

class EngineRunTest : public testing::Test {
 protected:
  void SetUp() override {
    programs_ = std::make_unique<EngineStandIns>("engine-run");
    folder_ = fresh_folder("engine-run");
    write_text(folder_ / "grid.toml", kGrid);
    const Outcome made = run_program(
        "synth llama-3.2-3b models/tiny --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 256 --vocab "
        "320 --seed 4",
        folder_);
    ASSERT_EQ(made.exit_code, 0) << made.err;
    write_text(folder_ / "models/modelopt/tiny-trtllm-ckpt-wq_fp8-kv_fp16/hf_quant_config.json",
               "{\"quantization\": {\"quant_algo\": \"FP8\", \"kv_cache_quant_algo\": null}}");
    for (const char* weights : {"fp8", "int8_sq"})
      write_text(folder_ / "models/compressed-tensors" /
                     ("tiny-trtllm-ckpt-wq_" + std::string(weights) + "-kv_fp16/config.json"),
                 "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": null}}");
    for (const char* formats : {"fp8-kv_fp16", "fp8-kv_fp8", "fp16-kv_fp16", "int8_sq-kv_fp16"})
      write_text(folder_ / "models" / ("tiny-trtllm-ckpt-wq_" + std::string(formats)) / "config.json",
                 std::string("{\"architecture\": \"LlamaForCausalLM\", \"quantization\": {\"kv_cache_quant_algo\": ") +
                     (std::string(formats).ends_with("kv_fp8") ? "\"FP8\"" : "null") + "}}");
  }
  void TearDown() override { fs::remove_all(folder_); }

  Outcome run(const std::string& arguments) { return run_program(arguments, folder_); }
  // Lines of a journal that end a case.
  std::vector<Json> ends(const std::string& journal = "j.jsonl") {
    std::vector<Json> list;
    std::ifstream file(folder_ / journal);
    for (std::string line; std::getline(file, line);) {
      const Json entry = parse_json(line, journal);
      if (entry.at("kind") == "case_done") list.push_back(entry);
    }
    return list;
  }
  std::vector<std::string> statuses(const std::string& code) {
    std::vector<std::string> found;
    for (const Json& end : ends())
      if (end.value("error_code", std::string()) == code) found.push_back(end.value("error_msg", std::string()));
    return found;
  }
  std::unique_ptr<EngineStandIns> programs_;
  fs::path folder_;
};

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
  for (const char* part : {"tensorrt-llm/pytorch", "tensorrt-llm/tensorrt", "vllm", "Engines side by side"})
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
  EXPECT_EQ(read_text(folder_ / "r.md").find("200"), std::string::npos);
}

TEST_F(EngineRunTest, AHangIsATimeout) {
  programs_->mode("hang");
  const Outcome outcome = run(kPytorch + std::string("--filter 'number=2' --points 8/16 --limit-minutes 0.02"));
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(statuses("time_limit").size(), 1u);
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
    const pid_t child = fork();
    if (child == 0) {
      if (chdir(folder_.c_str()) != 0) _exit(9);
      if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(9);
      execl(QG_BINARY, QG_BINARY, "run", "grid.toml", "--engine", "vllm", "--journal", "j.jsonl", nullptr);
      _exit(9);
    }
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

TEST_F(EngineRunTest, WrongUseIsOneClearMessage) {
  struct Wrong {
    const char* arguments;
    int exit_code;
    const char* says;
  };
  for (const Wrong& wrong :
       {Wrong{"--engine vllm --weights-from synth", 1, "--weights-from"},
        Wrong{"--engine vllm --executor cpu", 1, "--executor"},
        Wrong{"--engine vllm --target a100", 1, "--target a100"}, Wrong{"--attempt", 1, "--attempt"},
        Wrong{"--engine vllm --gpu 'x y'", 1, "--gpu"}, Wrong{"--engine tensorrt-llm", 1, "none was named"},
        Wrong{"--engine vllm --engine-dir /proc/none", 1, "--engine-dir"},
        Wrong{"--engine vllm --filter 'gpu=a100'", 1, "no case is left"}}) {
    const Outcome outcome = run("run grid.toml " + std::string(wrong.arguments));
    EXPECT_EQ(outcome.exit_code, wrong.exit_code) << wrong.arguments << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(wrong.says), std::string::npos) << wrong.arguments << "\n" << outcome.err;
  }
  programs_->add("nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9");
  const Outcome none = run("run grid.toml --engine vllm");
  EXPECT_EQ(none.exit_code, 4);
  EXPECT_NE(none.err.find("could not communicate"), std::string::npos) << none.err;
  programs_->add("nvidia-smi", "echo 'garbage'");
  EXPECT_EQ(run("run grid.toml --engine vllm").exit_code, 4);
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
