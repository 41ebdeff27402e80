// What `plan` computes and prints, without the command line.
#include "grid/plan.h"

#include <gtest/gtest.h>

#include <sstream>

#include "core/error.h"
#include "grid/commands.h"
#include "grid/plan_text.h"

namespace qg {
namespace {

const Grid& grid() {
  static const Grid kGrid = load_grid(std::filesystem::path(QG_SOURCE_DIR) / "grids/trt-llm-45.toml");
  return kGrid;
}

PlanOptions options(EngineId engine = EngineId::native) {
  PlanOptions o;
  o.engine = engine;
  o.machine.memory_bytes = 8'000'000'000;
  return o;
}

std::vector<PlanRow> plan(EngineId engine = EngineId::native) {
  return make_plan(grid(), grid().cases, options(engine));
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

// The contract with scripts: these keys, of these types.
TEST(Plan, JsonKeys) {
  const Json list = to_json(plan());
  ASSERT_EQ(list.size(), 45u);
  for (const Json& row : list) {
    EXPECT_TRUE(row["number"].is_number_integer());
    for (const char* key : {"section", "id", "model", "gpu", "weights", "kv", "checkpoint"})
      EXPECT_TRUE(row[key].is_string()) << key;
    EXPECT_TRUE(row["support"]["status"].is_string());
    EXPECT_TRUE(row["support"]["reason"].is_string());
    for (const char* key : {"weights_bytes", "kv_bytes_per_token", "max_batch"})
      EXPECT_GT(row[key].get<int64_t>(), 0) << key;
    EXPECT_GT(row["roofline_tok_s"].get<double>(), 0);
  }
  EXPECT_EQ(list[1]["id"], "llama-3.2-3b/a100/int4_awq/kv_fp8");
  EXPECT_EQ(list[1]["support"]["status"], "emulated");
  EXPECT_EQ(list[1]["checkpoint"], "llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16");
  EXPECT_EQ(list[1]["kv_bytes_per_token"], 57344);
  EXPECT_EQ(list[30]["section"], "baseline");
  EXPECT_EQ(list[30]["checkpoint_origin"], "original");
  EXPECT_NEAR(list[15]["roofline_tok_s"].get<double>(), 416, 1);
}

// On a GPU the native engine holds a tied embedding twice: as a table, and repacked as lm_head. Other engines share it.
TEST(Plan, ATiedEmbeddingCountsAsOftenAsTheEngineHoldsIt) {
  const auto native = plan(), shared = plan(EngineId::vllm);
  ASSERT_EQ(native.size(), shared.size());
  for (size_t i = 0; i < native.size(); ++i) {
    const bool tied = native[i].c.model == "llama-3.2-3b";
    EXPECT_EQ(*native[i].weights_bytes - *shared[i].weights_bytes, tied ? int64_t{2} * 128256 * 3072 : 0)
        << native[i].c.id();
    if (tied)
      EXPECT_LT(*native[i].max_batch, *shared[i].max_batch) << native[i].c.id();
    else
      EXPECT_EQ(*native[i].max_batch, *shared[i].max_batch) << native[i].c.id();
    EXPECT_EQ(native[i].roofline_tok_s, shared[i].roofline_tok_s) << "a step reads one of the two";
    EXPECT_EQ(native[i].disk_bytes, shared[i].disk_bytes);
  }
}

TEST(Plan, CheckpointsOfTheNativeEngine) {
  const auto folders = plan_checkpoints(grid(), plan());
  int made = 0, original = 0;
  for (const PlanCheckpoint& f : folders) {
    EXPECT_TRUE(f.is_needed);
    made += f.origin == CheckpointOrigin::quantized;
    original += f.origin == CheckpointOrigin::original;
  }
  EXPECT_EQ(made, 9);
  EXPECT_EQ(original, 3);
  EXPECT_EQ(folders[0].layout, "trtllm");
  EXPECT_EQ(to_json(folders)[0]["layout"], "trtllm");
  EXPECT_EQ(folders[0].cases, (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(folders[1].cases, (std::vector<int>{5, 6, 7, 8, 9, 10}));
}

// Two folders for each weight format; those whose cases Ampere cannot run there are listed and marked.
TEST(Plan, CheckpointsOfTheTensorRtBackEnd) {
  const auto folders = plan_checkpoints(grid(), plan(EngineId::trtllm_tensorrt));
  std::vector<std::string> not_needed;
  int made = 0, converted = 0;
  for (const PlanCheckpoint& f : folders) {
    made += f.origin == CheckpointOrigin::quantized;
    converted += f.origin == CheckpointOrigin::converted;
    if (!f.is_needed) not_needed.push_back(f.name);
  }
  EXPECT_EQ(made, 18);
  EXPECT_EQ(converted, 3);
  ASSERT_EQ(not_needed.size(), 6u);
  EXPECT_EQ(not_needed[0], "llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp8");
}

// The layout is what the engine loads; the original model's folder stays as it is.
TEST(Plan, CheckpointsHaveTheEnginesLayout) {
  for (const auto& [engine, layout] :
       {std::pair{EngineId::trtllm_pytorch, "modelopt"}, {EngineId::vllm, "compressed-tensors"}})
    for (const PlanCheckpoint& f : plan_checkpoints(grid(), plan(engine)))
      EXPECT_EQ(f.layout, f.origin == CheckpointOrigin::original ? "huggingface" : layout) << f.name;
}

TEST(Plan, WhatThisMachineCanDo) {
  PlanOptions o = options();
  const auto status = [&](int number) { return make_plan(grid(), {*grid().find_case(number)}, o).front().here.status; };
  EXPECT_EQ(status(1), HereStatus::accuracy_only);  // 2.2 GB of weights in 8 GB
  EXPECT_EQ(status(32), HereStatus::no);            // 16 GB
  o.machine.cards = {"h100"};
  const Here no_kernels = make_plan(grid(), {*grid().find_case(5)}, o).front().here;
  EXPECT_EQ(no_kernels.status, HereStatus::accuracy_only);
  EXPECT_NE(no_kernels.reason.find("no CUDA executor"), std::string::npos) << no_kernels.reason;
  o.machine.has_cuda_executor = true;
  o.machine.cards = {"l40"};
  EXPECT_EQ(status(9), HereStatus::yes);
  EXPECT_EQ(status(1), HereStatus::cross_target);   // an A100's kernels run on an L40
  EXPECT_EQ(status(5), HereStatus::accuracy_only);  // an H100's do not
  o.engine = EngineId::vllm;                        // `run --engine vllm` runs the cases of the card that is here
  EXPECT_EQ(status(9), HereStatus::yes);
  EXPECT_EQ(status(1), HereStatus::no);
  o.engine = EngineId::openai;
  EXPECT_EQ(status(9), HereStatus::no);
}

TEST(Plan, IndexIsThePlansOwn) {
  const auto rows = plan();
  const auto index = plan_index(rows);
  ASSERT_EQ(index.size(), 15u);
  EXPECT_EQ(index[0].model, "llama-3.2-3b");
  EXPECT_EQ(index[2].gpu, "h100");
  for (const PlanIndexRow& row : index) ASSERT_EQ(row.must.size(), 2u);
  const auto text = lines(index_table(index));
  ASSERT_EQ(text.size(), 17u);
  EXPECT_EQ(text[2].substr(0, 65), "Llama-3.2-3B  A100  W4A16 AWQ + FP16 KV (#1)   W4A16 AWQ + FP8 KV");
  EXPECT_NE(text[4].find("H100  FP8 + FP16 KV (#5)"), std::string::npos) << text[4];
}

TEST(PlanText, FitsATerminal) {
  for (const EngineSpec& engine : engines()) {
    const auto rows = plan(engine.id);
    for (const std::string& text : {plan_table(grid(), rows, options(engine.id)), index_table(plan_index(rows)),
                                    checkpoint_table(plan_checkpoints(grid(), rows))})
      for (const std::string& line : lines(text)) EXPECT_LE(line.size(), 150u) << line;
  }
  EXPECT_EQ(plan_table(grid(), {}, options()), "No case is left.\n");
}

TEST(PlanText, CountsCases) {
  const std::string text = plan_table(grid(), plan(), options());
  EXPECT_NE(text.find("45 cases: 33 native, 12 emulated, 0 unsupported."), std::string::npos);
  EXPECT_NE(text.find("9 folders to make"), std::string::npos);
}

TEST(PlanText, Numbers) {
  EXPECT_EQ(duration_text(0.2), "1 s");
  EXPECT_EQ(duration_text(99), "99 s");
  EXPECT_EQ(duration_text(600), "10 min");
  EXPECT_EQ(duration_text(7200), "2.0 h");
  EXPECT_EQ(count_text(9999), "9999");
  EXPECT_EQ(count_text(57344), "57.3k");
  EXPECT_EQ(count_text(131072), "131k");
  EXPECT_EQ(count_text(1.24e6), "1.2M");
  EXPECT_EQ(ranges_text({1, 2, 3, 5, 7, 8}), "1-3, 5, 7-8");
  EXPECT_EQ(ranges_text({}), "");
}

TEST(Plan, UnknownShapesAreNullNotZero) {
  const Grid mine = parse_grid(
      "[models.other]\nfolder = \"/nowhere\"\n[cases]\nmust = [[1, \"other\", \"a10\", \"fp8\", "
      "\"fp8\"]]\n",
      "g.toml");
  const auto rows = make_plan(mine, mine.cases, options());
  const Json j = to_json(rows)[0];
  EXPECT_TRUE(j["weights_bytes"].is_null());
  EXPECT_TRUE(j["roofline_tok_s"].is_null());
  EXPECT_EQ(rows[0].here.status, HereStatus::no);
  EXPECT_NE(plan_table(mine, rows, options()).find("?"), std::string::npos);
}

TEST(Commands, ScriptOfACase) {
  const auto rows = plan();
  const std::string text = case_script(grid(), rows[1], options());
  EXPECT_TRUE(text.starts_with("#!/bin/sh\n"));
  EXPECT_NE(text.find("quantgrid quantize"), std::string::npos);
  EXPECT_NE(text.find("--kv fp8 --isl 128 --osl 256 --batch 64"), std::string::npos);
  EXPECT_NE(text.find("--isl 1000 --osl 1000 --concurrency 1500 --requests 1500"), std::string::npos);
  EXPECT_NE(text.find("quantgrid eval"), std::string::npos);
  EXPECT_EQ(case_script(grid(), rows[30], options()).find("quantize --model"),
            std::string::npos);                           // FP16: nothing to make
  const auto tensorrt = plan(EngineId::trtllm_tensorrt);  // their scripts are made elsewhere
  EXPECT_THROW(case_script(grid(), tensorrt[1], options(EngineId::trtllm_tensorrt)), Error);
  EXPECT_EQ(script_name(*grid().find_case(2)), "case-02.sh");
}

// A 16-bit model's 8-bit cache has its calibration beside the folder, as `run` makes and takes it.
TEST(Commands, ScalesOfA16BitModel) {
  const Grid mine = parse_grid(R"(
models_dir = "m"
[cases]
must = [[1, "llama-3.1-8b", "h100", "fp16", "int8"], [2, "llama-3.1-8b", "h100", "fp16", "fp16"]]
[[workloads]]
name = "decode/b1"
kind = "decode"
isl = 8
osl = 8
[calibration]
text = "t.txt"
)",
                               "g.toml");
  const auto rows = make_plan(mine, mine.cases, options());
  const std::string text = case_script(mine, rows[0], options());
  const std::string file = "'m/llama-3.1-8b-instruct-kv_scales.safetensors'";
  EXPECT_NE(text.find("[ -e " + file + " ] || quantgrid quantize"), std::string::npos) << text;
  EXPECT_NE(text.find("--seed 1 --kv-scales " + file + "\n"), std::string::npos) << text;
  EXPECT_NE(text.find("--kv int8 --kv-scales " + file + " --isl"), std::string::npos) << text;
  EXPECT_EQ(case_script(mine, rows[1], options()).find("kv-scales"), std::string::npos);
}

TEST(Commands, QuotesAndComments) {
  EXPECT_EQ(shell_quoted("a b"), "'a b'");
  EXPECT_EQ(shell_quoted("it's; rm"), "'it'\\''s; rm'");
}

}  // namespace
}  // namespace qg
