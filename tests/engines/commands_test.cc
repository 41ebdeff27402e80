// Command lines of other engines: every weight format, KV format and kind of workload, against golden files.
#include "engines/commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "grid/support.h"
#include "tests/engines/golden.h"

namespace qg {
namespace {

const std::vector<Workload> kWorkloads{
    {"decode/b1", WorkloadKind::decode, 128, 256, 1, 0, 5, Profile::quick},
    {"decode/b8", WorkloadKind::decode, 128, 256, 8, 0, 5, Profile::quick},
    {"1000/1000", WorkloadKind::throughput, 1000, 1000, 1, 0, 1, Profile::quick},
    {"20000/2000", WorkloadKind::throughput, 20000, 2000, 1, 77, 1, Profile::full},
    {"prefill/512", WorkloadKind::prefill, 512, 1, 4, 0, 3, Profile::full},
};

EngineCase a_case(EngineId engine, WeightFormat weights, KvFormat kv) {
  EngineCase e;
  e.engine = engine;
  e.c = {7, Section::must, "llama-3.2-3b", "h100", weights, kv};
  e.model_id = "meta-llama/Llama-3.2-3B-Instruct";
  e.original = "models/llama-3.2-3b-instruct";
  const EngineSpec& spec = engine_spec(engine);
  e.checkpoint = runs_original_model(spec, weights)
                     ? e.original
                     : std::filesystem::path("models") / case_checkpoint(spec, "llama-3.2-3b-instruct", weights, kv);
  e.tools = "scripts";
  e.out = "out";
  e.workloads = kWorkloads;
  return e;
}

std::string line(const CommandLine& command) {
  std::string text;
  for (const std::string& word : command.argv) text += (text.empty() ? "" : " ") + word;
  return text + "\n";
}

std::string all_commands(EngineId engine) {
  std::string text;
  for (const WeightFormat weights :
       {WeightFormat::fp16, WeightFormat::fp8, WeightFormat::int4_awq, WeightFormat::int8_sq})
    for (const KvFormat kv : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8}) {
      if (support(engine, *find_card("h100"), weights, kv).status == SupportStatus::unsupported) continue;
      const EngineCase e = a_case(engine, weights, kv);
      text += "== " + e.c.id() + "\n";
      if (const auto build = build_command(e)) text += line(*build);
      for (const Workload& w : kWorkloads) {
        const Measurement m = measurement(e, w);
        text += "-- " + w.name + "\n";
        for (const WrittenFile& file : m.files) text += file.path.string() + ":\n" + file.text;
        if (m.tokens) text += line(*m.tokens);
        for (const BenchRun& run : m.runs) text += line(run.command);
      }
      const ServeCommand serve = serve_command(e, 8000);
      text += "-- serve\n";
      for (const WrittenFile& file : serve.files) text += file.path.string() + ":\n" + file.text;
      text += line(serve.command);
    }
  return text;
}

bool has(const CommandLine& command, const std::string& option, const std::string& value) {
  const auto it = std::find(command.argv.begin(), command.argv.end(), option);
  return it != command.argv.end() && it + 1 != command.argv.end() && *(it + 1) == value;
}

bool has(const CommandLine& command, const std::string& word) {
  return std::find(command.argv.begin(), command.argv.end(), word) != command.argv.end();
}

TEST(EngineCommands, TrtllmPytorchGolden) {
  expect_golden("tensorrt-llm-pytorch.txt", all_commands(EngineId::trtllm_pytorch));
}

TEST(EngineCommands, TrtllmTensorrtGolden) {
  expect_golden("tensorrt-llm-tensorrt.txt", all_commands(EngineId::trtllm_tensorrt));
}

TEST(EngineCommands, VllmGolden) {
  expect_golden("vllm.txt", all_commands(EngineId::vllm));
}

// One checkpoint, two runs on the PyTorch back end; one checkpoint and one engine for each KV format on the other.
TEST(EngineCommands, KvRule) {
  const auto pyt16 = a_case(EngineId::trtllm_pytorch, WeightFormat::fp8, KvFormat::fp16);
  const auto pyt8 = a_case(EngineId::trtllm_pytorch, WeightFormat::fp8, KvFormat::fp8);
  EXPECT_EQ(pyt16.checkpoint, pyt8.checkpoint);
  EXPECT_NE(measurement(pyt16, kWorkloads[0]).files.at(0).text.find("  dtype: auto\n"), std::string::npos);
  EXPECT_NE(measurement(pyt8, kWorkloads[0]).files.at(0).text.find("  dtype: fp8\n"), std::string::npos);
  EXPECT_FALSE(build_command(pyt8));

  const auto trt16 = a_case(EngineId::trtllm_tensorrt, WeightFormat::fp8, KvFormat::fp16);
  const auto trt8 = a_case(EngineId::trtllm_tensorrt, WeightFormat::fp8, KvFormat::fp8);
  EXPECT_NE(trt16.checkpoint, trt8.checkpoint);
  EXPECT_NE(trt16.engine_folder(), trt8.engine_folder());
  EXPECT_TRUE(has(*build_command(trt8), "--checkpoint_dir", trt8.checkpoint.string()));
  EXPECT_TRUE(measurement(trt8, kWorkloads[0]).files.empty());  // no options: dtype must stay auto

  EXPECT_TRUE(has(measurement(a_case(EngineId::vllm, WeightFormat::fp8, KvFormat::fp8), kWorkloads[0]).runs[0].command,
                  "--kv-cache-dtype", "fp8"));
}

TEST(EngineCommands, PagedContextOnlyWhereItHasKernels) {
  const auto paged = [](WeightFormat weights, KvFormat kv) {
    return has(*build_command(a_case(EngineId::trtllm_tensorrt, weights, kv)), "--use_paged_context_fmha", "enable");
  };
  EXPECT_TRUE(paged(WeightFormat::fp16, KvFormat::fp16));
  EXPECT_TRUE(paged(WeightFormat::fp8, KvFormat::fp8));
  EXPECT_FALSE(paged(WeightFormat::int4_awq, KvFormat::fp8));
  EXPECT_FALSE(paged(WeightFormat::fp8, KvFormat::int8));
  EXPECT_TRUE(has(*build_command(a_case(EngineId::trtllm_tensorrt, WeightFormat::fp8, KvFormat::fp8)),
                  "--use_fp8_context_fmha"));
  EXPECT_FALSE(has(*build_command(a_case(EngineId::trtllm_tensorrt, WeightFormat::fp8, KvFormat::fp16)),
                   "--use_fp8_context_fmha"));
}

// An engine is built once and must hold the longest of the workloads.
TEST(EngineCommands, EngineHoldsTheLongestWorkload) {
  const CommandLine build = *build_command(a_case(EngineId::trtllm_tensorrt, WeightFormat::fp16, KvFormat::fp16));
  EXPECT_TRUE(has(build, "--max_input_len", "20000"));
  EXPECT_TRUE(has(build, "--max_seq_len", "22000"));
  EXPECT_TRUE(has(build, "--max_num_tokens", "20000"));
}

// Only `throughput` takes a batch: `latency` runs one request at a time. On the PyTorch back end `latency` takes no
// options file before 1.2, so that no KV format could be chosen.
TEST(EngineCommands, LatencyForOneRequestThroughputForMore) {
  for (const EngineId engine : {EngineId::trtllm_pytorch, EngineId::trtllm_tensorrt}) {
    const EngineCase e = a_case(engine, WeightFormat::int4_awq, KvFormat::fp16);
    const bool tensorrt = engine == EngineId::trtllm_tensorrt;
    const CommandLine one = measurement(e, kWorkloads[0]).runs.at(0).command;
    EXPECT_EQ(has(one, "latency"), tensorrt);
    EXPECT_EQ(has(one, "--extra_llm_api_options"), !tensorrt);
    EXPECT_EQ(has(one, "--max_batch_size", "1"), !tensorrt);
    EXPECT_EQ(has(one, "--streaming"), !tensorrt);
    EXPECT_TRUE(has(one, "--concurrency", "1"));
    const CommandLine eight = measurement(e, kWorkloads[1]).runs.at(0).command;
    EXPECT_TRUE(has(eight, "throughput"));
    EXPECT_TRUE(has(eight, "--concurrency", "8"));
    EXPECT_TRUE(has(eight, "--max_batch_size", "8"));
    EXPECT_TRUE(has(eight, "--streaming"));
  }
}

TEST(EngineCommands, Servers) {
  const EngineCase pyt = a_case(EngineId::trtllm_pytorch, WeightFormat::fp8, KvFormat::fp8);
  const ServeCommand pytorch = serve_command(pyt, 8123);
  EXPECT_EQ(pytorch.command.argv.at(1), pyt.checkpoint.string());
  EXPECT_TRUE(has(pytorch.command, "--backend", "pytorch"));
  EXPECT_TRUE(has(pytorch.command, "--port", "8123"));
  EXPECT_TRUE(has(pytorch.command, "--extra_llm_api_options", pytorch.files.at(0).path.string()));
  EXPECT_NE(pytorch.files.at(0).text.find("dtype: fp8"), std::string::npos);
  const EngineCase trt = a_case(EngineId::trtllm_tensorrt, WeightFormat::fp8, KvFormat::fp8);
  const ServeCommand tensorrt = serve_command(trt, 1);
  EXPECT_EQ(tensorrt.command.argv.at(1), trt.engine_folder().string());
  EXPECT_TRUE(has(tensorrt.command, "--tokenizer", trt.original.string()));
  EXPECT_TRUE(tensorrt.files.empty());  // no options: dtype must stay auto
  const ServeCommand vllm = serve_command(a_case(EngineId::vllm, WeightFormat::fp8, KvFormat::fp8), 1);
  EXPECT_TRUE(has(vllm.command, "--kv-cache-dtype", "fp8"));
  EXPECT_TRUE(has(vllm.command, "--max-model-len", "22064"));
  EXPECT_THROW(serve_command(a_case(EngineId::native, WeightFormat::fp16, KvFormat::fp16), 1), Error);
}

// vLLM times rounds as a whole: decoding is the difference of two runs.
TEST(EngineCommands, VllmDecodeIsADifference) {
  const Measurement m = measurement(a_case(EngineId::vllm, WeightFormat::fp16, KvFormat::fp16), kWorkloads[1]);
  ASSERT_EQ(m.runs.size(), 2u);
  EXPECT_TRUE(has(m.runs[0].command, "--output-len", "1"));
  EXPECT_TRUE(has(m.runs[1].command, "--output-len", "256"));
  EXPECT_NE(m.runs[0].report, m.runs[1].report);
}

TEST(EngineCommands, OtherEnginesHaveNone) {
  EXPECT_THROW(measurement(a_case(EngineId::native, WeightFormat::fp16, KvFormat::fp16), kWorkloads[0]), Error);
  EXPECT_THROW(measurement(a_case(EngineId::openai, WeightFormat::fp16, KvFormat::fp16), kWorkloads[0]), Error);
}

}  // namespace
}  // namespace qg
