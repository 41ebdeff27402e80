#pragma once
// A grid of small cases on engines that stand-ins play, for tests of `run --engine` as a person types it.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "tests/cli/program.h"
#include "tests/engines/stand_in_engines.h"

namespace qg {

// Cases of the H100 that the stand-in nvidia-smi shows, and one of another card.
inline const char* const kEngineCases = R"(title = "tiny"
models_dir = "models"
[models.tiny]
folder = "models/tiny"
[cases]
must = [[1, "tiny", "h100", "fp8", "fp16"], [2, "tiny", "h100", "fp8", "fp8"], [9, "tiny", "a100", "int4_awq", "fp16"]]
baseline = [[3, "tiny", "h100", "fp16", "fp16"]]
int8 = [[4, "tiny", "h100", "int8_sq", "fp16"]]
)";

inline const char* const kEngineWorkloads = R"([[workloads]]
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

inline constexpr const char* kPytorch = "run grid.toml --engine tensorrt-llm --backend pytorch --journal j.jsonl ";

class EngineRunTest : public testing::Test {
 protected:
  void SetUp() override {
    programs_ = std::make_unique<EngineStandIns>("engine-run");
    folder_ = fresh_folder("engine-run");
    write_grid(kEngineWorkloads);
    const Outcome made = run_program(
        "synth llama-3.2-3b models/tiny --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 256 --vocab "
        "320 --seed 4",
        folder_);
    ASSERT_EQ(made.exit_code, 0) << made.err;
    write_text(folder_ / "models/modelopt/tiny-trtllm-ckpt-wq_fp8-kv_fp16/config.json", "{\"vocab_size\": 320}");
    write_text(folder_ / "models/modelopt/tiny-trtllm-ckpt-wq_fp8-kv_fp16/hf_quant_config.json",
               "{\"quantization\": {\"quant_algo\": \"FP8\", \"kv_cache_quant_algo\": null}}");
    for (const char* weights : {"fp8", "int8_sq"})
      write_text(folder_ / "models/compressed-tensors" /
                     ("tiny-trtllm-ckpt-wq_" + std::string(weights) + "-kv_fp16/config.json"),
                 "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": null}}");
    for (const char* formats : {"fp8-kv_fp16", "fp8-kv_fp8", "fp16-kv_fp16", "int8_sq-kv_fp16"})
      write_text(folder_ / "models" / ("tiny-trtllm-ckpt-wq_" + std::string(formats)) / "config.json",
                 std::string("{\"architecture\": \"LlamaForCausalLM\", \"quantization\": {\"quant_algo\": ") +
                     (std::string(formats).starts_with("fp8") ? "\"FP8\"" : "null") + ", \"kv_cache_quant_algo\": " +
                     (std::string(formats).ends_with("kv_fp8") ? "\"FP8\"" : "null") + "}}");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write_grid(const std::string& workloads) { write_text(folder_ / "grid.toml", kEngineCases + workloads); }
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
  // Ends of the newest run by workload, of one cache type.
  std::map<std::string, Json> ends_by_workload(const std::string& kv = "fp16") {
    std::map<std::string, Json> found;
    for (Json& end : ends())
      if (end["kv"] == kv) found[end["workload"]] = end;
    return found;
  }
  // The program as a child of this test, silent.
  pid_t start(std::vector<std::string> words) {
    const pid_t child = fork();
    if (child != 0) return child;
    std::vector<char*> argv{const_cast<char*>(QG_BINARY)};
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (chdir(folder_.c_str()) != 0) _exit(9);
    if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(9);
    execv(QG_BINARY, argv.data());
    _exit(9);
  }
  std::unique_ptr<EngineStandIns> programs_;
  std::filesystem::path folder_;
};

}  // namespace qg
