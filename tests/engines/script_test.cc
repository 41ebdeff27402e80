// Emitted scripts: all 45 cases on three engines, sound for bash, and run whole with stand-ins for the engines.
#include "engines/script.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "tests/engines/golden.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr EngineId kDriven[] = {EngineId::trtllm_tensorrt, EngineId::trtllm_pytorch, EngineId::vllm};

std::vector<EmittedFile> scripts_of(const Grid& grid, EngineId engine, const fs::path& dir = "out",
                                    Profile profile = Profile::quick) {
  const PlanOptions options = options_for(engine, profile);
  return engine_scripts(grid, make_plan(grid, grid.cases, options), options, dir);
}

std::string text_of(const std::vector<EmittedFile>& files, const std::string& name) {
  for (const EmittedFile& file : files)
    if (file.name == name) return file.text;
  throw std::runtime_error("no " + name);
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

class Folder {
 public:
  explicit Folder(const std::string& name)
      : path(fs::temp_directory_path() / ("quantgrid-engines-" + name + "-" + std::to_string(getpid()))) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  const fs::path path;
};

void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

void write_program(const fs::path& path, const std::string& text) {
  write_text(path, text);
  fs::permissions(path, fs::perms::owner_all);
}

int shell(const fs::path& folder, const std::string& command) {
  const int status = std::system(("cd '" + folder.string() + "' && { " + command + "; } > said 2>&1").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(EngineScripts, AllCasesOnEveryEngine) {
  for (const EngineId engine : kDriven) {
    const auto files = scripts_of(plan_of_45(), engine);
    const bool writes_tokens = engine != EngineId::vllm;
    EXPECT_EQ(files.size(), 15u + (writes_tokens ? 1 : 0));
    std::string all;
    for (const EmittedFile& file : files) all += file.text;
    for (const Case& c : plan_of_45().cases) {
      const std::string title = "# Case " + std::to_string(c.number) + ": " + c.id() + " (";
      EXPECT_EQ(count(all, title), 1u) << title;
      const Support s = support(plan_of_45(), c, engine);
      EXPECT_NE(all.find(s.reason), std::string::npos) << s.reason;
      const bool runs = s.status != SupportStatus::unsupported;
      EXPECT_EQ(count(all, "run_case " + c.id() + " "), runs ? 1u : 0u) << c.id();
    }
  }
}

// Also for shellcheck, where it is installed.
TEST(EngineScripts, SoundForBash) {
  const Folder folder("syntax");
  const bool has_shellcheck = shell(folder.path, "command -v shellcheck") == 0;
  for (const EngineId engine : kDriven)
    for (const Profile profile : {Profile::quick, Profile::full})
      for (const EmittedFile& file : scripts_of(plan_of_45(), engine, "out", profile)) {
        write_text(folder.path / file.name, file.text);
        if (!file.name.ends_with(".sh")) continue;
        EXPECT_EQ(shell(folder.path, "bash -n " + file.name), 0) << file.name << read_file(folder.path / "said");
        // One model is as the others for it.
        if (!has_shellcheck || profile != Profile::quick || !file.name.starts_with("mistral")) continue;
        EXPECT_EQ(shell(folder.path, "shellcheck " + file.name), 0) << read_file(folder.path / "said");
      }
}

TEST(EngineScripts, Golden) {
  expect_golden("tensorrt-llm-tensorrt-a10.sh",
                text_of(scripts_of(plan_of_45(), EngineId::trtllm_tensorrt), "llama-3.2-3b-a10.sh"));
  expect_golden("tensorrt-llm-pytorch-a10.sh",
                text_of(scripts_of(plan_of_45(), EngineId::trtllm_pytorch), "llama-3.2-3b-a10.sh"));
  expect_golden("vllm-h100.sh", text_of(scripts_of(plan_of_45(), EngineId::vllm), "llama-3.2-3b-h100.sh"));
}

TEST(EngineScripts, KvRuleInFolderNames) {
  const std::string tensorrt = text_of(scripts_of(plan_of_45(), EngineId::trtllm_tensorrt), "mistral-7b-h100.sh");
  EXPECT_NE(tensorrt.find("wq_fp8-kv_fp16"), std::string::npos);
  EXPECT_NE(tensorrt.find("wq_fp8-kv_fp8"), std::string::npos);
  EXPECT_NE(tensorrt.find("--kv fp8"), std::string::npos);
  const std::string pytorch = text_of(scripts_of(plan_of_45(), EngineId::trtllm_pytorch), "mistral-7b-h100.sh");
  EXPECT_NE(pytorch.find("wq_fp8-kv_fp16"), std::string::npos);
  EXPECT_EQ(pytorch.find("wq_fp8-kv_fp8"), std::string::npos);
}

TEST(EngineScripts, EnginesWithoutCommands) {
  EXPECT_THROW(scripts_of(plan_of_45(), EngineId::native), Error);
  EXPECT_THROW(scripts_of(plan_of_45(), EngineId::openai), Error);
}

// --- scripts that run, with stand-ins for the engines and folders of nasty names

const char* const kSmallGrid = R"(title = "it's $HOME\nexit 9"
models_dir = "it's \"a\" $HOME `folder`"
[models.tiny]
[cases]
must = [[1, "tiny", "h100", "fp8", "fp16"], [2, "tiny", "h100", "fp8", "fp8"]]
int8 = [[3, "tiny", "h100", "int8_sq", "fp16"]]
[[workloads]]
name = "decode/b2"
kind = "decode"
isl = 8
osl = 4
batch = 2
rounds = 2
[[workloads]]
name = "8/8"
kind = "throughput"
isl = 8
osl = 8
requests = 3
)";

// Answers as the engines do: the report's cache type comes from the file KV_TYPE, which a test sets.
const char* const kTrtllmBench = R"sh(#!/bin/bash
[[ "$*" == "--model any latency --help" ]] && { echo "  --extra_llm_api_options TEXT"; exit 0; }
echo "run $*" >> "$STAND_IN/calls"
[ -f "$STAND_IN/fail" ] && { echo "CUDA out of memory"; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --report_json) report=$2 ;;
    --extra_llm_api_options) grep -q 'dtype: fp8' "$2" && fp8=1 ;;
    --engine_dir) grep -q FP8 "$2/config.json" && fp8=1 ;;
    --dataset) [ -s "$2" ] || exit 3 ;;
  esac
  shift
done
kv=null
[ "${fp8:-0}" = 1 ] || [ -f "$STAND_IN/always_fp8" ] && kv='"FP8"'
printf '{\n  "engine": {\n    "kv_cache_dtype": %s,\n    "quantization": "FP8"\n  }\n}\n' "$kv" > "$report"
)sh";

// The engine keeps the checkpoint's cache type.
const char* const kTrtllmBuild = R"sh(#!/bin/bash
echo "build $*" >> "$STAND_IN/calls"
while [ $# -gt 0 ]; do
  case $1 in
    --checkpoint_dir) from=$2 ;;
    --output_dir) to=$2 ;;
  esac
  shift
done
cp "$from/config.json" "$to/config.json" && printf 12345 > "$to/rank0.engine"
)sh";

const char* const kVllm = R"sh(#!/bin/bash
echo "run $*" >> "$STAND_IN/calls"
while [ $# -gt 0 ]; do
  case $1 in
    --output-json) report=$2 ;;
    --kv-cache-dtype) echo "INFO Initializing an engine with config: dtype=torch.bfloat16, kv_cache_dtype=$2, seed=0" ;;
  esac
  shift
done
echo '{"avg_latency": 1}' > "$report"
)sh";

struct Stage {
  explicit Stage(const std::string& name, EngineId engine = EngineId::trtllm_pytorch) : folder(name) {
    grid = parse_grid(kSmallGrid, "g.toml");
    bin = folder.path / "bin";
    write_program(bin / "trtllm-bench", kTrtllmBench);
    write_program(bin / "trtllm-build", kTrtllmBuild);
    write_program(bin / "vllm", kVllm);
    write_program(bin / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3'\n");
    // The version is asked of python3; all else goes to the real one.
    write_program(bin / "python3",
                  "#!/bin/bash\n[ \"$1\" = -c ] && { echo 1.1.0; exit 0; }\nexec /usr/bin/python3 \"$@\"\n");
    const GridModel& model = grid.model("tiny");
    write_text(folder.path / model.folder / "config.json", "{\"vocab_size\": 500}");
    write_text(quant_config(), "{\"quantization\": {\"quant_algo\": \"FP8\", \"kv_cache_quant_algo\": null}}");
    const auto files = scripts_of(grid, engine, "my \"out\" $x");
    fs::current_path(folder.path);
    write_emitted(files, "my \"out\" $x", false);
  }
  ~Stage() { fs::current_path("/"); }

  int run(const std::string& variables = "") {
    return shell(folder.path, variables + " STAND_IN=\"$PWD\" PATH=\"$PWD/bin:$PATH\" './my \"out\" $x/tiny-h100.sh'");
  }
  std::string said() { return read_file(folder.path / "said"); }
  size_t calls() { return fs::exists(folder.path / "calls") ? count(read_file(folder.path / "calls"), "run ") : 0; }
  fs::path quant_config() { return checkpoint("modelopt", "fp16") / "hf_quant_config.json"; }
  // A quantized folder; layout: "" for TensorRT-LLM's own.
  fs::path checkpoint(const std::string& layout, const std::string& kv) {
    return folder.path / grid.models_dir / layout / ("tiny-trtllm-ckpt-wq_fp8-kv_" + kv);
  }
  fs::path result(const std::string& name) { return folder.path / "my \"out\" $x/results/tiny/h100/fp8" / name; }

  Folder folder;
  Grid grid;
  fs::path bin;
};

TEST(EngineScriptsRun, MeasuresOnceAndSkipsWhatIsDone) {
  Stage stage("run");
  ASSERT_EQ(stage.run(), 0) << stage.said();
  EXPECT_EQ(stage.calls(), 4u);
  for (const char* kv : {"kv_fp16", "kv_fp8"})
    for (const char* workload : {"decode/b2", "8/8"}) {
      const fs::path stem = stage.result(kv) / workload;
      EXPECT_TRUE(fs::exists(stem / "total.done")) << stem;
      EXPECT_TRUE(fs::exists(stem / "total.seconds")) << stem;
      EXPECT_NE(read_file(stem / "total.kv").find(std::string("reported: ") + (kv + 3)), std::string::npos);
    }
  ASSERT_EQ(stage.run(), 0) << stage.said();
  EXPECT_EQ(stage.calls(), 4u);
  fs::remove(stage.result("kv_fp8/8/8/total.done"));
  ASSERT_EQ(stage.run(), 0) << stage.said();
  EXPECT_EQ(stage.calls(), 5u);
}

TEST(EngineScriptsRun, AnotherCommandIsMeasuredAgain) {
  Stage stage("command");
  ASSERT_EQ(stage.run(), 0) << stage.said();
  write_text(stage.result("kv_fp8/8/8/total.command"), "trtllm-bench of yesterday");
  ASSERT_EQ(stage.run(), 0) << stage.said();
  EXPECT_EQ(stage.calls(), 5u);
}

TEST(EngineScriptsRun, TensorrtBuildsAnEngineForEachCacheType) {
  Stage stage("tensorrt", EngineId::trtllm_tensorrt);
  write_text(stage.checkpoint("", "fp16") / "config.json",
             "{\"architecture\": \"LlamaForCausalLM\", \"quantization\": {\"kv_cache_quant_algo\": null}}");
  const fs::path fp8 = stage.checkpoint("", "fp8") / "config.json";
  write_text(fp8, "{\"architecture\": \"LlamaForCausalLM\", \"quantization\": {\"kv_cache_quant_algo\": null}}");
  write_text(stage.checkpoint("", "fp16").parent_path() / "tiny-trtllm-ckpt-wq_int8_sq-kv_fp16/config.json",
             "{\"architecture\": \"LlamaForCausalLM\"}");
  EXPECT_EQ(stage.run(), 2);  // the folder called kv_fp8 is none
  EXPECT_NE(stage.said().find("fixes a fp16 cache, not fp8"), std::string::npos) << stage.said();
  write_text(fp8, "{\"architecture\": \"LlamaForCausalLM\", \"quantization\": {\"kv_cache_quant_algo\": \"FP8\"}}");
  ASSERT_EQ(stage.run(), 0) << stage.said();
  EXPECT_EQ(count(read_file(stage.folder.path / "calls"), "build "), 3u);
  EXPECT_EQ(stage.calls(), 6u);
  const fs::path engine = stage.result("../../../engines/tiny-trtllm-ckpt-wq_fp8-kv_fp8-h100");
  EXPECT_EQ(read_file(engine / "build.bytes"), "5\n");
  EXPECT_TRUE(fs::exists(engine / "build.seconds"));
  EXPECT_TRUE(fs::exists(stage.result("kv_fp8/8/8/total.done")));
}

TEST(EngineScriptsRun, VllmTimesDecodingAsADifference) {
  Stage stage("vllm", EngineId::vllm);
  const std::string config = "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\"";
  for (const char* weights : {"fp8", "int8_sq"})
    write_text(stage.checkpoint("compressed-tensors", "fp16").parent_path() /
                   ("tiny-trtllm-ckpt-wq_" + std::string(weights) + "-kv_fp16/config.json"),
               config + ", \"kv_cache_scheme\": null}}");
  ASSERT_EQ(stage.run(), 0) << stage.said();
  EXPECT_EQ(stage.calls(), 9u);
  EXPECT_TRUE(fs::exists(stage.result("kv_fp8/decode/b2/first.done")));
  EXPECT_TRUE(fs::exists(stage.result("kv_fp8/decode/b2/total.done")));
  write_text(stage.checkpoint("compressed-tensors", "fp16") / "config.json",
             config + ", \"kv_cache_scheme\": {\"num_bits\": 8}}}");
  EXPECT_EQ(stage.run(), 2);
  EXPECT_NE(stage.said().find("kv_cache_scheme"), std::string::npos);
}

TEST(EngineScriptsRun, AnotherCacheTypeIsInvalid) {
  Stage stage("invalid");
  write_text(stage.folder.path / "always_fp8", "");
  EXPECT_EQ(stage.run(), 2);
  EXPECT_NE(stage.said().find("INVALID: the KV cache was to be fp16, the engine reports fp8"), std::string::npos);
  EXPECT_TRUE(fs::exists(stage.result("kv_fp16/8/8/total.invalid")));
  EXPECT_FALSE(fs::exists(stage.result("kv_fp16/8/8/total.done")));
  EXPECT_TRUE(fs::exists(stage.result("kv_fp8/8/8/total.done")));
  fs::remove(stage.folder.path / "always_fp8");
  EXPECT_EQ(stage.run(), 0) << stage.said();
  EXPECT_FALSE(fs::exists(stage.result("kv_fp16/8/8/total.invalid")));
}

TEST(EngineScriptsRun, AFailureDoesNotStopTheOthers) {
  Stage stage("fail");
  write_text(stage.folder.path / "fail", "");
  EXPECT_EQ(stage.run(), 2);
  EXPECT_EQ(stage.calls(), 4u);
  EXPECT_NE(stage.said().find("2 cases failed or are invalid"), std::string::npos);
  EXPECT_NE(read_file(stage.result("kv_fp8/8/8/total.log")).find("out of memory"), std::string::npos);
}

TEST(EngineScriptsRun, ACheckpointThatFixesTheCacheIsRefused) {
  Stage stage("fixed");
  write_text(stage.quant_config(), "{\"quantization\": {\"kv_cache_quant_algo\": \"FP8\"}}");
  EXPECT_EQ(stage.run(), 2);
  EXPECT_EQ(stage.calls(), 0u);
  EXPECT_NE(stage.said().find("fixes a cache type"), std::string::npos);
  fs::remove(stage.quant_config());
  EXPECT_EQ(stage.run(), 2);
  EXPECT_NE(stage.said().find("not in the modelopt layout"), std::string::npos);
}

TEST(EngineScriptsRun, AnotherCardIsRefused) {
  Stage stage("card");
  write_program(stage.bin / "nvidia-smi", "#!/bin/sh\necho 'NVIDIA H200'\n");
  EXPECT_EQ(stage.run(), 4);
  EXPECT_NE(stage.said().find("this script is for h100, here is NVIDIA H200"), std::string::npos);
}

// nvidia-smi and CUDA must mean the same card, and a card that a scheduler gave is not swapped for the first one.
TEST(EngineScriptsRun, TheEngineRunsOnTheCardThatIsChecked) {
  Stage stage("which-card");
  write_program(stage.bin / "trtllm-bench",
                "#!/bin/bash\necho \"$CUDA_DEVICE_ORDER $CUDA_VISIBLE_DEVICES\" >> \"$STAND_IN/cards\"\nexit 1\n");
  write_program(stage.bin / "nvidia-smi", "#!/bin/sh\necho \"$2\" >> asked\necho 'NVIDIA H100 80GB HBM3'\n");
  const auto card = [&](const std::string& variables) {
    for (const char* file : {"cards", "asked"}) fs::remove(stage.folder.path / file);
    stage.run(variables);
    const std::string seen = read_file(stage.folder.path / "cards"), asked = read_file(stage.folder.path / "asked");
    return seen.substr(0, seen.find('\n')) + " " + asked.substr(0, asked.find('\n'));
  };
  EXPECT_EQ(card("CUDA_VISIBLE_DEVICES="), "PCI_BUS_ID 0 0");
  EXPECT_EQ(card("CUDA_VISIBLE_DEVICES=2,3"), "PCI_BUS_ID 2 2");
  EXPECT_EQ(card("CUDA_VISIBLE_DEVICES=2 GPU=GPU-1f"), "PCI_BUS_ID GPU-1f GPU-1f");
}

TEST(EngineScriptsRun, NoCardAndNoVersionAreSaidPlainly) {
  Stage stage("nothing-here");
  write_program(
      stage.bin / "python3",
      "#!/bin/bash\n[ \"$1\" = -c ] && { echo PackageNotFoundError >&2; exit 1; }\nexec /usr/bin/python3 \"$@\"\n");
  ASSERT_EQ(stage.run(), 0) << stage.said();
  EXPECT_NE(stage.said().find("warning: written for tensorrt_llm 1.1.0, here is unknown"), std::string::npos);
  write_program(stage.bin / "nvidia-smi", "#!/bin/sh\necho 'No devices were found'\nexit 6\n");
  EXPECT_EQ(stage.run(), 4);
  EXPECT_NE(stage.said().find("nvidia-smi shows no card 0: No devices were found"), std::string::npos) << stage.said();
}

TEST(EngineScriptsRun, SaysHowToInstallTheEngine) {
  Stage stage("absent");
  fs::remove(stage.bin / "trtllm-bench");
  EXPECT_EQ(stage.run(), 4);
  EXPECT_NE(stage.said().find("tensorrt-llm==1.1.0"), std::string::npos);
}

TEST(EngineScriptsRun, RandomPrompts) {
  const Folder folder("tokens");
  write_text(folder.path / "random_tokens.py", tokens_program());
  write_text(folder.path / "model/config.json", "{\"vocab_size\": 32768}");
  const std::string command =
      "python3 random_tokens.py --model model --input 5 --output 7 --requests 3 --seed 1 --out ";
  ASSERT_EQ(shell(folder.path, command + "a.jsonl && " + command + "sub/b.jsonl"), 0)
      << read_file(folder.path / "said");
  const std::string text = read_file(folder.path / "a.jsonl");
  EXPECT_EQ(text, read_file(folder.path / "sub/b.jsonl"));
  ASSERT_EQ(count(text, "\n"), 3u);
  const Json first = Json::parse(text.substr(0, text.find('\n')));
  EXPECT_EQ(first["output_tokens"], 7);
  ASSERT_EQ(first["input_ids"].size(), 5u);
  for (const Json& id : first["input_ids"]) {
    EXPECT_GE(id.get<int>(), 1000);
    EXPECT_LT(id.get<int>(), 31768);
  }
}

// --- the folder

TEST(EmitFolder, NewEmptyOrForced) {
  const Folder folder("emit");
  const fs::path dir = folder.path / "out";
  write_emitted({{"a.sh", "one", true}}, dir, false);
  EXPECT_EQ(read_file(dir / "a.sh"), "one");
  EXPECT_NE(fs::status(dir / "a.sh").permissions() & fs::perms::owner_exec, fs::perms::none);
  EXPECT_FALSE(fs::exists(folder.path / "out.partial"));
  EXPECT_THROW(write_emitted({{"a.sh", "two", true}}, dir, false), Error);
  EXPECT_EQ(read_file(dir / "a.sh"), "one");
  write_text(dir / "results/kept", "yes");
  write_emitted({{"a.sh", "two", true}}, dir, true);
  EXPECT_EQ(read_file(dir / "a.sh"), "two");
  EXPECT_EQ(read_file(dir / "results/kept"), "yes");
  fs::create_directories(folder.path / "empty");
  write_emitted({{"a.sh", "one", true}}, folder.path / "empty", false);
  EXPECT_EQ(read_file(folder.path / "empty/a.sh"), "one");
}

TEST(EmitFolder, WhatAStoppedRunLeftIsNotKept) {
  const Folder folder("stopped");
  write_text(folder.path / "out.partial/old.sh", "old");
  write_emitted({{"a.sh", "one", true}}, folder.path / "out", false);
  EXPECT_FALSE(fs::exists(folder.path / "out/old.sh"));
}

TEST(EmitFolder, AFileIsNoFolder) {
  const Folder folder("file");
  write_text(folder.path / "out", "mine");
  for (const bool force : {false, true})
    EXPECT_THROW(write_emitted({{"a.sh", "one", true}}, folder.path / "out", force), Error);
  EXPECT_THROW(write_emitted({{"a.sh", "one", true}}, folder.path / "out/below", false), Error);
  EXPECT_EQ(read_file(folder.path / "out"), "mine");
}

TEST(ShellCommand, QuotesOnlyWhatNeedsIt) {
  EXPECT_EQ(shell_command({"a", "--b", "c d", "--e", "it's", ""}, "  "),
            "  a \\\n    --b 'c d' \\\n    --e 'it'\\''s' \\\n    ''");
  EXPECT_EQ(shell_command({"a", "b", "--c", "d", "e", "--f"}, ""), "a b \\\n  --c d \\\n  e \\\n  --f");
}

}  // namespace
}  // namespace qg
