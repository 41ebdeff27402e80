// What scripts outside this repository rely on: the verbs' JSON (names and meanings of design: the command line), files
// and exit codes, on a tiny model, with figures worked out here a second time.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "core/json.h"
#include "tests/cli/program.h"
#include "tokenizer/tokenizer.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const fs::path kSource = QG_SOURCE_DIR;

// The header of a safetensors file.
Json tensors_of(const fs::path& file) {
  const std::string bytes = read_text(file);
  uint64_t length = 0;
  memcpy(&length, bytes.data(), sizeof length);
  return parse_json(bytes.substr(8, length), file.string());
}

std::vector<float> floats_of(const fs::path& file, const std::string& name) {
  const std::string bytes = read_text(file);
  uint64_t length = 0;
  memcpy(&length, bytes.data(), sizeof length);
  const Json offsets = tensors_of(file)[name]["data_offsets"];
  std::vector<float> values((offsets[1].get<size_t>() - offsets[0].get<size_t>()) / sizeof(float));
  memcpy(values.data(), bytes.data() + 8 + length + offsets[0].get<size_t>(), values.size() * sizeof(float));
  return values;
}

class ContractTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fresh_folder("contract");
    fs::copy(kSource / "tests/golden/models/llama-gqa3-tied-fp16", folder_ / "model", fs::copy_options::recursive);
    std::string text;
    for (int i = 0; i < 600; ++i) text += "word " + std::to_string(i) + " ";
    write_text(folder_ / "text.txt", text);
  }
  void TearDown() override { fs::remove_all(folder_); }

  Outcome run(const std::string& arguments, int exit_code = 0) {
    const Outcome outcome = run_program(arguments, folder_);
    EXPECT_EQ(outcome.exit_code, exit_code) << arguments << ": " << outcome.err;
    return outcome;
  }
  Json json(const std::string& arguments) { return parse_json(run(arguments + " --json").out, arguments); }
  Json quantize(const std::string& weights, const std::string& out, const std::string& more = "") {
    return json("quantize --model model --weights " + weights +
                " --calib text.txt --calib-sequences 4 --calib-tokens 32 --out " + out + " " + more);
  }
  fs::path folder_;
};

TEST_F(ContractTest, PlanListsTheCasesWithTheirFigures) {
  const std::string grid = "plan '" + (kSource / "grids/trt-llm-45.toml").string() + "'";
  const Json plan = json(grid);
  ASSERT_EQ(plan.size(), 45u);
  std::map<std::string, int> sections;
  std::set<std::string> checkpoints;
  for (size_t i = 0; i < plan.size(); ++i) {
    const Json& c = plan[i];
    EXPECT_EQ(c["number"], i + 1);
    ++sections[c["section"].get<std::string>()];
    EXPECT_EQ(c["id"].get<std::string>(), c["model"].get<std::string>() + "/" + c["gpu"].get<std::string>() + "/" +
                                              c["weights"].get<std::string>() + "/kv_" + c["kv"].get<std::string>());
    EXPECT_NE(c["checkpoint"].get<std::string>().find("wq_" + c["weights"].get<std::string>() + "-kv_fp16"),
              std::string::npos);
    if (c["weights"] != "fp16") checkpoints.insert(c["checkpoint"].get<std::string>());
    const std::string status = c["support"]["status"];
    const bool ampere = c["gpu"] == "a100" || c["gpu"] == "a10";
    EXPECT_EQ(status, ampere && c["kv"] == "fp8" ? "emulated" : "native") << c["id"];
    EXPECT_FALSE(c["support"]["reason"].get<std::string>().empty());
    EXPECT_GT(c["max_batch"].get<int64_t>(), 0);
    EXPECT_GT(c["roofline_tok_s"].get<double>(), 0);
  }
  EXPECT_EQ(sections, (std::map<std::string, int>{{"must", 30}, {"baseline", 3}, {"int8", 12}}));
  EXPECT_EQ(checkpoints.size(), 9u) << "six folders, and three of INT8 SmoothQuant";

  // Llama-3.1-8B in 8 bits: 32 layers of (4096 x 6144 + 4096 x 4096 + 3 x 4096 x 14336) bytes; embedding and head
  // in 16.
  const int64_t linear = int64_t{32} * (4096 * 6144 + 4096 * 4096 + 3 * int64_t{4096} * 14336);
  const int64_t tables = 2 * 2 * int64_t{128256} * 4096;
  EXPECT_NEAR(plan[14]["weights_bytes"].get<double>(), static_cast<double>(linear + tables), 2e6);  // norms, scales
  EXPECT_EQ(plan[14]["kv_bytes_per_token"], 2 * 32 * 8 * 128 * 2);
  EXPECT_EQ(plan[15]["kv_bytes_per_token"], 2 * 32 * 8 * 128);

  EXPECT_EQ(json(grid + " --target a10").size(), 12u);
  EXPECT_EQ(json(grid + " --filter 'gpu=a100 & weights=int4_awq'").size(), 6u);
  for (const Json& c : json(grid + " --engine tensorrt-llm --backend pytorch --filter weights=int8_sq"))
    EXPECT_EQ(c["support"]["status"], "unsupported") << c["id"];
  const std::string index = run(grid + " --index").out;
  EXPECT_NE(index.find("Llama-3.1-8B"), std::string::npos) << index;
  EXPECT_NE(run(grid + " --checkpoints").out.find("mistral-7b-instruct-v0.3-trtllm-ckpt-wq_int4_awq-kv_fp16"),
            std::string::npos);
}

TEST_F(ContractTest, BenchMeasuresWhatItSays) {
  const Json b = json("bench --model model --isl 8 --osl 9 --batch 3 --rounds 4");
  for (const char* key : {"output_tok_s", "ci_lo", "ci_hi", "rounds", "total_tok_s", "ttft_ms_p50", "tpot_ms_p50",
                          "itl_ms_p99", "batch_achieved", "kernels", "roofline_share"})
    EXPECT_TRUE(b.contains(key)) << key;
  EXPECT_EQ(b["workload"], "decode/b3");
  EXPECT_EQ(b["rounds"], 4);
  EXPECT_EQ(b["requests"], 3 * 4);
  EXPECT_DOUBLE_EQ(b["batch_achieved"].get<double>(), 3);
  EXPECT_LE(b["ci_lo"].get<double>(), b["output_tok_s"].get<double>());
  EXPECT_LE(b["output_tok_s"].get<double>(), b["ci_hi"].get<double>());
  EXPECT_GT(b["tpot_ms_p50"].get<double>(), 0);
  EXPECT_TRUE(b["roofline_share"].is_null()) << "a processor has no row of a card";

  // One token out, as the scripts of `plan --emit` ask for prefill: prompt tokens a second, and no decoding.
  const Json prefill = json("bench --model model --isl 8 --osl 1 --batch 2 --rounds 3");
  EXPECT_EQ(prefill["workload"], "prefill/8");
  EXPECT_TRUE(prefill["output_tok_s"].is_null());
  EXPECT_LE(prefill["ci_lo"].get<double>(), prefill["prefill_tok_s"].get<double>());
  EXPECT_GT(prefill["prefill_tok_s"].get<double>(), 0);

  const Json once = json("bench --model model --isl 8 --osl 3 --batch 2 --rounds 1");
  EXPECT_TRUE(once["ci_lo"].is_null()) << "one round says nothing of the spread";

  const Json kept = json("bench --model model --isl 6 --osl 5 --concurrency 2 --requests 12");
  EXPECT_EQ(kept["requests"], 12);
  EXPECT_LE(kept["batch_achieved"].get<double>(), 2);
  const Json rated = json("bench --model model --isl 6 --osl 5 --rate 400 --requests 20");
  EXPECT_EQ(rated["requests"], 20);
  EXPECT_EQ(rated["failed"], 0);
}

TEST_F(ContractTest, QuantizeEvalInspect) {
  const Json made = quantize("fp8", "q");
  for (const char* key : {"seconds", "peak_gpu_bytes", "peak_host_bytes", "out"})
    EXPECT_TRUE(made.contains(key)) << key;
  EXPECT_EQ(made["out"], "q");
  EXPECT_EQ(made["peak_gpu_bytes"], 0);
  EXPECT_GT(made["peak_host_bytes"].get<int64_t>(), 1 << 20);
  const Json inspected = json("inspect q");
  EXPECT_EQ(inspected["quantization"]["weights"], "fp8");
  EXPECT_EQ(inspected["quantization"]["activations"], "static_tensor");
  EXPECT_TRUE(inspected["quantization"]["fixed_kv"].is_null());
  EXPECT_EQ(inspected["lineage"]["recipe"]["calibration"]["sequences"], 4);
  EXPECT_EQ(inspected["lineage"]["recipe"]["calibration"]["tokens"], 32);
  for (const char* file : {"config.json", "rank0.safetensors", "kv_scales.safetensors", "tokenizer.json"})
    EXPECT_TRUE(fs::exists(folder_ / "q" / file)) << file;
  fs::create_directory(folder_ / "words");
  fs::rename(folder_ / "model/tokenizer.json", folder_ / "words/tokenizer.json");
  quantize("fp8", "elsewhere", "--tokenizer words");
  EXPECT_TRUE(fs::exists(folder_ / "elsewhere/tokenizer.json")) << "a folder that nothing can be asked of";
  fs::rename(folder_ / "words/tokenizer.json", folder_ / "model/tokenizer.json");
  quantize("fp8", "dynamic", "--activations dynamic");
  EXPECT_EQ(json("inspect dynamic")["quantization"]["activations"], "dynamic_token");

  const std::string eval = "eval --model q --base model --text text.txt --windows 3 --window 24";
  const Json e = json(eval);
  for (const char* key : {"ppl", "base_ppl", "kld_mean", "top1", "windows", "tokens", "protocol"})
    EXPECT_TRUE(e.contains(key)) << key;
  EXPECT_EQ(e["windows"], 3);
  EXPECT_EQ(e["tokens"], 3 * 23) << "the first token of a window is context only";
  EXPECT_NEAR(e["ppl_ratio"].get<double>(), e["ppl"].get<double>() / e["base_ppl"].get<double>(), 1e-9);
  EXPECT_GT(e["kld_mean"].get<double>(), 0);
  EXPECT_EQ(e["compute_path"], "w8a8_fp8");
  const Json cached = json(eval + " --kv fp8");
  EXPECT_EQ(cached["kv"], "fp8");
  EXPECT_NE(cached["ppl"], e["ppl"]) << "the cache's format changes nothing";
  EXPECT_EQ(cached["base_ppl"], e["base_ppl"]) << "the base has a cache of its own";
  const Json both = json(eval + " --also dynamic");
  ASSERT_EQ(both.size(), 2u) << both.dump();
  EXPECT_EQ(both[0], e) << "more models in the pass change nothing of the first";
  EXPECT_EQ(both[1]["model"], "dynamic");
  EXPECT_EQ(both[1], json("eval --model dynamic --base model --text text.txt --windows 3 --window 24"));
  const Json same = json("eval --model model --text text.txt --windows 1 --window 24");
  EXPECT_EQ(same["kld_mean"], 0.0);
  EXPECT_EQ(same["top1"], 1.0);

  write_text(folder_ / "tasks.jsonl",
             "{\"prompt\": \"word 1\", \"choices\": [\" word\", \" x\"], \"answer\": 0}\n"
             "{\"prompt\": \"word 2\", \"choices\": [\" word\", \" y\"], \"answer\": 1}\n");
  const Json tasks = json("eval --model q --base model --tasks tasks.jsonl")["tasks"];
  EXPECT_EQ(tasks["items"], 2);
  EXPECT_EQ(tasks["accuracy"].get<double>() * 2, std::round(tasks["accuracy"].get<double>() * 2));
  EXPECT_TRUE(tasks.contains("flip_rate") && tasks.contains("mcnemar_p"));
}

TEST_F(ContractTest, PerplexityIsThatOfTheLogits) {
  const Json e = json("eval --model model --text text.txt --windows 1 --window 40");
  const Tokenizer tokenizer = Tokenizer::from_folder(folder_ / "model");
  std::vector<TokenId> ids = tokenizer.encode(read_text(folder_ / "text.txt"), false);
  ids.resize(40);
  write_text(folder_ / "ids.json", Json(ids).dump());
  run("logits --model model --tokens ids.json --kv fp16 --out l.safetensors");
  const std::vector<float> logits = floats_of(folder_ / "l.safetensors", "logits");
  const size_t vocab = logits.size() / ids.size();
  double lost = 0;  // sum of -log p of each token but the first
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[i * vocab + v]));
    lost += std::log(sum) - static_cast<double>(logits[i * vocab + static_cast<size_t>(ids[i + 1])]);
  }
  const double expected = std::exp(lost / static_cast<double>(ids.size() - 1));
  EXPECT_NEAR(e["ppl"].get<double>() / expected, 1, 1e-5);
}

TEST_F(ContractTest, LogitsWritesTheTensorsItNames) {
  const Json config = parse_json(read_text(folder_ / "model/config.json"), "config.json");
  const int64_t vocab = config["vocab_size"];
  write_text(folder_ / "one.json", "[1, 2, 3, 4]");
  write_text(folder_ / "two.json", "[[7, 8], [1, 2, 3, 4]]");
  run("logits --model model --tokens one.json --out one.safetensors");
  run("logits --model model --tokens two.json --out two.safetensors");
  const Json one = tensors_of(folder_ / "one.safetensors"), two = tensors_of(folder_ / "two.safetensors");
  EXPECT_EQ(one["logits"]["shape"], Json::array({4, vocab}));
  EXPECT_EQ(one["logits"]["dtype"], "F32");
  EXPECT_EQ(two["logits.0"]["shape"], Json::array({2, vocab}));
  EXPECT_EQ(two["logits.1"]["shape"], Json::array({4, vocab}));
  const std::vector<float> alone = floats_of(folder_ / "one.safetensors", "logits");
  EXPECT_EQ(alone, floats_of(folder_ / "two.safetensors", "logits.1")) << "a sequence depends on its neighbour";
  for (const float v : alone) ASSERT_TRUE(std::isfinite(v));
  // A token's logits do not depend on what comes behind it.
  write_text(folder_ / "begin.json", "[1, 2, 3]");
  run("logits --model model --tokens begin.json --out begin.safetensors");
  const std::vector<float> begin = floats_of(folder_ / "begin.safetensors", "logits");
  ASSERT_EQ(begin.size(), static_cast<size_t>(3 * vocab));
  for (size_t i = 0; i < begin.size(); ++i) ASSERT_NEAR(begin[i], alone[i], 1e-4) << i;
}

TEST_F(ContractTest, AnFp8CacheThatWasNotCalibratedIsToldOf) {
  const Outcome plain = run_program("bench --model model --isl 4 --osl 3 --batch 1 --rounds 1 --kv fp8", folder_);
  EXPECT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_NE(plain.err.find("was not calibrated"), std::string::npos) << plain.err;
  quantize("fp8", "calibrated");
  const Outcome made = run_program("bench --model calibrated --isl 4 --osl 3 --batch 1 --rounds 1 --kv fp8", folder_);
  EXPECT_EQ(made.err.find("was not calibrated"), std::string::npos) << made.err;
}

TEST_F(ContractTest, GenerateIsGreedyUnlessToldOtherwise) {
  const std::string ask = "generate --model model --prompt 'word 1 word 2' --ignore-stop --max-tokens 12";
  const Json first = json(ask);
  EXPECT_EQ(first["tokens"].size(), 12u);
  EXPECT_EQ(first["output_tokens"], 12);
  EXPECT_EQ(first["finish"], "length");
  EXPECT_EQ(json(ask)["tokens"], first["tokens"]);
  const Json drawn = json(ask + " --temperature 1.5 --seed 3");
  EXPECT_EQ(json(ask + " --temperature 1.5 --seed 3")["tokens"], drawn["tokens"]);
  EXPECT_NE(json(ask + " --temperature 1.5 --seed 4")["tokens"], drawn["tokens"]);
  EXPECT_EQ(json(ask + " --temperature 1.5 --seed 4 --top-k 1")["tokens"], first["tokens"]);
}

TEST_F(ContractTest, SynthAndConvert) {
  const std::string shape =
      " --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 256 --vocab 320 --seed ";
  run("synth llama-3.2-3b a" + shape + "4");
  run("synth llama-3.2-3b b" + shape + "4");
  run("synth llama-3.2-3b c" + shape + "5");
  EXPECT_EQ(read_text(folder_ / "a/model.safetensors"), read_text(folder_ / "b/model.safetensors"));
  EXPECT_NE(read_text(folder_ / "a/model.safetensors"), read_text(folder_ / "c/model.safetensors"));

  quantize("fp8", "m-trtllm-ckpt-wq_fp8-kv_fp16");
  for (const char* kv : {"fp8", "int8"}) {
    const std::string out = std::string("m-trtllm-ckpt-wq_fp8-kv_") + kv;
    const Json made = json("convert --model m-trtllm-ckpt-wq_fp8-kv_fp16 --kv " + std::string(kv) + " --out " + out);
    EXPECT_EQ(made["out"], out);
    EXPECT_EQ(json("inspect " + out)["quantization"]["fixed_kv"], kv);
    const Json config = parse_json(read_text(folder_ / out / "config.json"), "config.json");
    EXPECT_EQ(config["quantization"]["kv_cache_quant_algo"], kv == std::string("fp8") ? "FP8" : "INT8");
  }
}

TEST_F(ContractTest, MergeDoesNotDependOnOrderAndReportHasEveryForm) {
  const std::string journal = "'" + (kSource / "results/smollm2-accuracy.jsonl").string() + "' ";
  const std::string speed = "'" + (kSource / "results/h100-speed.jsonl").string() + "' ";
  const Json merged = json("merge " + journal + speed + "-o all.db");
  EXPECT_EQ(json("merge " + speed + journal + "-o other.db")["measurements"], merged["measurements"]);
  EXPECT_GT(merged["measurements"].get<int64_t>(), 50);
  run("report all.db -o a.html --csv a.csv --md a.md");
  run("report other.db -o b.html --csv b.csv");
  EXPECT_EQ(read_text(folder_ / "a.csv"), read_text(folder_ / "b.csv"));
  const std::string csv = read_text(folder_ / "a.csv");
  EXPECT_EQ(static_cast<int64_t>(std::count(csv.begin(), csv.end(), '\n')), merged["measurements"].get<int64_t>() + 1);
  EXPECT_NE(read_text(folder_ / "a.md").find("| "), std::string::npos);
  run("report all.db -o zh.html --lang zh");
  EXPECT_NE(read_text(folder_ / "zh.html").find("lang=\"zh"), std::string::npos);
  EXPECT_EQ(read_text(folder_ / "a.html").find("lang=\"zh"), std::string::npos);
  write_text(folder_ / "prices.toml", "h100 = 3.5\n");
  run("report all.db -o p.html --prices prices.toml");
  EXPECT_NE(read_text(folder_ / "p.html").find("per million tokens"), std::string::npos);
  EXPECT_EQ(read_text(folder_ / "a.html").find("per million tokens"), std::string::npos);

  const Json picks = json("pick all.db");
  EXPECT_FALSE(picks.empty());
  // A summary that is not current is a failed gate.
  run("report all.db -o a.html --summary s.json");
  EXPECT_EQ(run_program("report all.db --summary s.json --check", folder_).exit_code, 0);
  write_text(folder_ / "s.json", "[]");
  EXPECT_EQ(run_program("report all.db --summary s.json --check", folder_).exit_code, 3);
}

// A slip in a card's name must not give a page without costs that nobody notices.
TEST_F(ContractTest, ReportSaysWhichPricesItCannotUse) {
  const std::string command =
      "report '" + (kSource / "results/h100-speed.jsonl").string() + "' -o p.html --prices prices.toml";
  write_text(folder_ / "prices.toml", "h10 = 3.5\nl4 = 0.8\nmy_card = 1\n");
  const Outcome slip = run_program(command, folder_);
  EXPECT_EQ(slip.exit_code, 1);
  for (const char* part : {"prices.toml", "h10, my_card", "did you mean \"h100\"?", "the report has h100"})
    EXPECT_NE(slip.err.find(part), std::string::npos) << part << ": " << slip.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "p.html")) << "the page was written first";

  write_text(folder_ / "prices.toml", "l4 = 0.8\na10 = 1\n");  // cards, but not the report's
  const Outcome none = run(command);
  for (const char* part : {"none of the prices is used", "a10, l4", "the report has h100"})
    EXPECT_NE(none.err.find(part), std::string::npos) << part << ": " << none.err;
  EXPECT_EQ(read_text(folder_ / "p.html").find("per million tokens"), std::string::npos);

  write_text(folder_ / "prices.toml", "h100 = 3.5\nl4 = 0.8\n");  // one file for many reports
  const Outcome some = run(command);
  EXPECT_NE(some.err.find("no results of l4"), std::string::npos) << some.err;
  EXPECT_NE(read_text(folder_ / "p.html").find("per million tokens"), std::string::npos);

  write_text(folder_ / "prices.toml", "h100 = 3.5\n");
  EXPECT_EQ(run(command).err.find("price"), std::string::npos);
}

TEST_F(ContractTest, MachineVerbsAnswer) {
  EXPECT_TRUE(json("devices").contains("gpus"));
  EXPECT_TRUE(json("doctor").contains("findings"));
  std::set<std::string> engines;
  for (const Json& engine : json("engines")) engines.insert(engine["name"].get<std::string>());
  EXPECT_TRUE(engines.contains("native") && engines.contains("tensorrt-llm") && engines.contains("vllm"));
  EXPECT_NE(run("--version").out.find("quantgrid"), std::string::npos);
  for (const char* verb :
       {"devices", "doctor", "plan", "engines", "synth", "quantize", "convert", "inspect", "generate", "logits", "eval",
        "bench", "run", "submit", "merge", "pick", "report", "serve"}) {
    const std::string help = run(std::string(verb) + " --help").out;
    EXPECT_NE(help.find("Example:"), std::string::npos) << verb;
  }
}

}  // namespace
}  // namespace qg
