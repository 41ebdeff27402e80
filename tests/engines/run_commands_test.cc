// Other engines driven through stand-ins: good runs, and each way in which they go wrong as a status with its reason.
#include "engines/run_commands.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "engines/run_card.h"
#include "engines/run_folder.h"
#include "engines/run_server.h"
#include "tests/engines/stand_in_engines.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const Workload kDecode1{"decode/b1", WorkloadKind::decode, 8, 5, 1, 0, 3, Profile::quick};
const Workload kDecode4{"decode/b4", WorkloadKind::decode, 8, 5, 4, 0, 3, Profile::quick};
const Workload kThroughput{"8/16", WorkloadKind::throughput, 8, 16, 1, 20, 1, Profile::quick};
const Workload kPrefill{"prefill/64", WorkloadKind::prefill, 64, 1, 2, 0, 3, Profile::quick};

// A model of 512 bytes of FP16 cache a token, as the stand-ins allocate it.
ModelShape tiny_shape() {
  ModelShape shape;
  shape.family = "llama";
  shape.layers = 2;
  shape.hidden = 128;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 32;
  shape.ffn = 256;
  shape.vocab = 320;
  return shape;
}

class EngineDriverTest : public testing::Test {
 protected:
  void SetUp() override {
    programs_ = std::make_unique<EngineStandIns>("driver");
    options_.scratch = programs_->folder();
    options_.bench_limit_s = 30;
    write("model/config.json", "{\"vocab_size\": 320}");
    write("modelopt/config.json", "{\"vocab_size\": 320}");
    write("modelopt/hf_quant_config.json",
          "{\"quantization\": {\"quant_algo\": \"FP8\", \"kv_cache_quant_algo\": null}}");
    for (const char* kv : {"FP16", "FP8"})
      write(std::string("trtllm-") + kv + "/config.json",
            std::string("{\"architecture\": \"LlamaForCausalLM\", \"quantization\": {\"quant_algo\": \"FP8\", "
                        "\"kv_cache_quant_algo\": ") +
                (std::string(kv) == "FP8" ? "\"FP8\"" : "null") + "}}");
    write("compressed/config.json",
          "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": null}}");
  }
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((at(name)).parent_path());
    std::ofstream(at(name), std::ios::binary) << text;
  }
  fs::path at(const std::string& name) const { return programs_->folder() / name; }
  EngineCase a_case(EngineId engine, KvFormat kv = KvFormat::fp16) const {
    EngineCase e;
    e.engine = engine;
    e.c = {1, Section::must, "tiny", "h100", WeightFormat::fp8, kv};
    e.model_id = "tiny";
    e.original = at("model");
    e.checkpoint = engine == EngineId::vllm             ? at("compressed")
                   : engine == EngineId::trtllm_pytorch ? at("modelopt")
                   : kv == KvFormat::fp8                ? at("trtllm-FP8")
                                                        : at("trtllm-FP16");
    e.tools = at("out");
    e.out = at("out/results");
    e.workloads = {kDecode1, kDecode4, kThroughput, kPrefill};
    e.shape = tiny_shape();
    return e;
  }
  std::unique_ptr<EngineDriver> driver(EngineId engine) { return make_command_driver(engine, options_); }
  // check, prepare and one workload.
  EngineRun run(const EngineCase& e, const Workload& w) {
    const auto d = driver(e.engine);
    for (EngineRun ready : {d->check(), d->prepare(e)})
      if (!ready.ok()) return ready;
    const EngineRun result = d->run(e, w);
    d->finish();
    return result;
  }
  static double metric(const EngineRun& run, const std::string& name) {
    for (const EngineMetric& m : run.metrics)
      if (m.name == name) return m.value;
    return NAN;
  }
  std::unique_ptr<EngineStandIns> programs_;
  DriverOptions options_;
};

constexpr EngineId kDriven[] = {EngineId::trtllm_tensorrt, EngineId::trtllm_pytorch, EngineId::vllm};

TEST_F(EngineDriverTest, GoodRunsOfAllEngines) {
  for (const EngineId engine : kDriven)
    for (const KvFormat kv : {KvFormat::fp16, KvFormat::fp8}) {
      const EngineCase e = a_case(engine, kv);
      for (const Workload& w : {kDecode1, kDecode4, kThroughput, kPrefill}) {
        const EngineRun r = run(e, w);
        ASSERT_TRUE(r.ok()) << e.c.id() << " " << w.name << ": " << r.reason;
        EXPECT_EQ(r.kv_reported, kv);
        EXPECT_EQ(r.engine_version, engine == EngineId::vllm ? "0.12.0" : "1.1.0");
        const bool prefill = w.kind == WorkloadKind::prefill;
        EXPECT_GT(metric(r, prefill ? "prefill_tok_s" : "output_tok_s"), 0) << w.name;
        for (const Record& row : engine_rows({}, r)) EXPECT_FALSE(row.unit.empty());
      }
    }
}

TEST_F(EngineDriverTest, FiguresAreThoseOfTheReport) {
  // 100 tokens/s a request, four requests side by side.
  const EngineRun trt = run(a_case(EngineId::trtllm_pytorch), kDecode4);
  EXPECT_DOUBLE_EQ(metric(trt, "output_tok_s"), 400);
  EXPECT_DOUBLE_EQ(metric(trt, "ttft_ms_p50"), 20);
  EXPECT_DOUBLE_EQ(metric(trt, "tpot_ms_p50"), 10);
  EXPECT_EQ(trt.requests, 12);
  EXPECT_NEAR(*trt.batch_achieved, 3.88, 1e-9);
  // 50 ms to the first token, 10 ms for each of the four others.
  const EngineRun vllm = run(a_case(EngineId::vllm), kDecode4);
  EXPECT_NEAR(metric(vllm, "output_tok_s"), 400, 1e-6);
  EXPECT_NEAR(metric(vllm, "ttft_ms_p50"), 50, 1e-6);
  EXPECT_NEAR(metric(vllm, "tpot_ms_p50"), 10, 1e-6);
  const EngineRun all = run(a_case(EngineId::vllm), kThroughput);
  EXPECT_NEAR(metric(all, "output_tok_s"), 20 * 16 / 2.0, 1e-6);
  EXPECT_NEAR(metric(all, "total_tok_s"), 20 * 24 / 2.0, 1e-6);
  const EngineRun prefill = run(a_case(EngineId::vllm), kPrefill);
  EXPECT_NEAR(metric(prefill, "prefill_tok_s"), 2 * 64 / 0.05, 1e-6);
}

// Asked of nvidia-smi by the same name: CUDA alone counts cards in another order.
TEST_F(EngineDriverTest, EnginesAndServersRunOnTheCardThatIsNamed) {
  options_.gpu = "2";
  programs_->add("vllm", "echo \"$CUDA_DEVICE_ORDER $CUDA_VISIBLE_DEVICES\" >> '" + at("cards").string() + "'; exit 1");
  const EngineCase e = a_case(EngineId::vllm);
  EXPECT_FALSE(run(e, kPrefill).ok());
  options_.served_load = [](const ServerAddress&, const EngineCase&, const Workload&) { return EngineRun{}; };
  EXPECT_FALSE(driver(e.engine)->prepare(e).ok());
  EXPECT_EQ(programs_->text("cards"), "PCI_BUS_ID 2\nPCI_BUS_ID 2\n");
}

TEST(DefaultGpu, IsTheFirstThatTheEnvironmentAllows) {
  const char* before = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string kept = before ? before : "";
  for (const auto& [visible, gpu] : {std::pair{"", "0"}, {"3", "3"}, {"2,5", "2"}, {"GPU-1f", "GPU-1f"}}) {
    setenv("CUDA_VISIBLE_DEVICES", visible, 1);
    EXPECT_EQ(default_gpu(), gpu) << visible;
  }
  if (before)
    setenv("CUDA_VISIBLE_DEVICES", kept.c_str(), 1);
  else
    unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST_F(EngineDriverTest, EachFailureIsAStatus) {
  struct Way {
    const char* mode;
    CaseStatus status;
    const char* code;
    const char* says;
  };
  options_.bench_limit_s = 2;
  for (const Way& way : {Way{"oom", CaseStatus::oom, "cuda_oom", "Tried to allocate"},
                         Way{"hang", CaseStatus::timeout, "time_limit", "2 s"},
                         Way{"crash", CaseStatus::crash, "signal_11", "signal 11"},
                         Way{"refuse", CaseStatus::skipped_unsupported, "engine_refused", "FP8 FMHA"},
                         Way{"garbage", CaseStatus::failed, "bad_report", "total.json"},
                         Way{"silent", CaseStatus::failed, "bad_report", "total"}}) {
    programs_->mode(way.mode);
    for (const EngineId engine : {EngineId::trtllm_pytorch, EngineId::vllm}) {
      const EngineRun r = run(a_case(engine), kThroughput);
      EXPECT_EQ(r.status, way.status) << way.mode << ": " << r.reason;
      EXPECT_EQ(r.error_code, way.code) << way.mode;
      EXPECT_NE(r.reason.find(way.says), std::string::npos) << way.mode << ": " << r.reason;
      EXPECT_TRUE(engine_rows({}, r).empty());
    }
  }
}

TEST_F(EngineDriverTest, ATextReportWillDoForTrtllm) {
  programs_->mode("silent");
  programs_->add("trtllm-bench", "cat '" QG_SOURCE_DIR "/tests/golden/engines/samples/trtllm-1.1.0rc1.txt'");
  EngineCase e = a_case(EngineId::trtllm_pytorch, KvFormat::fp8);
  e.shape.reset();
  const Workload w{"1024/1024", WorkloadKind::throughput, 1024, 1024, 1, 20, 1, Profile::quick};
  const EngineRun r = run(e, w);
  EXPECT_TRUE(r.ok()) << r.reason;
  EXPECT_DOUBLE_EQ(metric(r, "output_tok_s"), 7517.2584);
  EXPECT_EQ(r.engine_version, "1.1.0rc1");
}

TEST_F(EngineDriverTest, AnotherCacheMakesTheRowInvalid) {
  for (const char* mode : {"fp8", "lie"})
    for (const EngineId engine : kDriven) {
      programs_->mode(mode);
      const EngineRun r = run(a_case(engine), kThroughput);
      EXPECT_EQ(r.status, CaseStatus::invalid) << mode << " " << engine_spec(engine).key();
      EXPECT_EQ(r.error_code, "kv_mismatch");
      ASSERT_FALSE(engine_rows({}, r).empty());  // kept, but not counted
      for (const Record& row : engine_rows({}, r)) {
        EXPECT_FALSE(row.valid);
        EXPECT_EQ(row.invalid_reasons, Json::array({"kv_mismatch"}));
      }
    }
}

TEST_F(EngineDriverTest, AReportOfAnotherVersionIsRefused) {
  programs_->mode("old");
  const EngineRun r = run(a_case(EngineId::trtllm_pytorch), kThroughput);
  EXPECT_EQ(r.error_code, "bad_report");
  EXPECT_NE(r.reason.find("0.17.0"), std::string::npos) << r.reason;
}

TEST_F(EngineDriverTest, OtherLengthsAndAHalfEmptyBatchAreInvalid) {
  const EngineCase e = a_case(EngineId::trtllm_pytorch);
  const auto d = driver(e.engine);
  ASSERT_TRUE(d->prepare(e).ok());
  // Prompts of another length lie where this workload's would be made.
  const Measurement m = measurement(e, kThroughput);
  fs::create_directories(m.tokens_file.parent_path());
  std::ofstream prompts(m.tokens_file);
  for (int i = 0; i < 20; ++i) prompts << "{\"task_id\": 0, \"input_ids\": [1, 2], \"output_tokens\": 16}\n";
  prompts.close();
  const EngineRun r = d->run(e, kThroughput);
  EXPECT_EQ(r.status, CaseStatus::invalid);
  EXPECT_EQ(r.error_code, "wrong_lengths");
}

TEST_F(EngineDriverTest, NotInstalledAndWrongVersions) {
  programs_->put("TRTLLM", "0.20.0");
  programs_->put("VLLM", "0.9.2");
  EXPECT_EQ(driver(EngineId::vllm)->check().error_code, "wrong_version");
  const EngineRun wrong = driver(EngineId::trtllm_pytorch)->check();
  EXPECT_EQ(wrong.error_code, "wrong_version");
  EXPECT_NE(wrong.reason.find("0.20.0"), std::string::npos);
  EXPECT_NE(wrong.reason.find("pip install"), std::string::npos);
  options_.any_version = true;
  EXPECT_TRUE(driver(EngineId::trtllm_pytorch)->check().ok());
  options_.any_version = false;
  fs::remove(programs_->bin() / "vllm");
  const EngineRun none = driver(EngineId::vllm)->check();
  EXPECT_EQ(none.error_code, "not_installed");
  EXPECT_NE(none.reason.find("pip install vllm"), std::string::npos) << none.reason;
  programs_->add("python3", "echo 'PackageNotFoundError: tensorrt_llm' >&2; exit 1");
  EXPECT_EQ(driver(EngineId::trtllm_pytorch)->check().error_code, "unknown_version");
}

TEST_F(EngineDriverTest, TheEngineIsBuiltOnceAndMeasured) {
  const EngineCase e = a_case(EngineId::trtllm_tensorrt, KvFormat::fp8);
  const auto d = driver(e.engine);
  const EngineRun built = d->prepare(e);
  ASSERT_TRUE(built.ok()) << built.reason;
  EXPECT_DOUBLE_EQ(metric(built, "engine_bytes"), 5);
  EXPECT_GT(metric(built, "engine_build_s"), 0);
  const EngineRun again = d->prepare(e);
  EXPECT_EQ(metric(again, "engine_build_s"), metric(built, "engine_build_s"));
  EXPECT_EQ(programs_->calls("trtllm-build").size(), 1u);
  EngineCase longer = e;
  longer.workloads.push_back({"99/1", WorkloadKind::throughput, 99999, 1, 1, 1, 1, Profile::quick});
  ASSERT_TRUE(d->prepare(longer).ok());
  EXPECT_EQ(programs_->calls("trtllm-build").size(), 2u);  // another command, another engine
}

TEST_F(EngineDriverTest, ABuildOutOfMemory) {
  programs_->mode("oom");
  const EngineRun r = run(a_case(EngineId::trtllm_tensorrt), kThroughput);
  EXPECT_EQ(r.status, CaseStatus::oom);
  EXPECT_EQ(r.error_code, "build_oom");
  EXPECT_NE(r.reason.find("could not be built"), std::string::npos);
}

TEST_F(EngineDriverTest, FoldersAreChecked) {
  const auto problem = [&](EngineId engine, KvFormat kv = KvFormat::fp16) {
    return folder_problem(a_case(engine, kv));
  };
  for (const EngineId engine : kDriven) EXPECT_EQ(problem(engine), "");
  write("modelopt/hf_quant_config.json", "{\"quantization\": {\"kv_cache_quant_algo\": \"FP8\"}}");
  EXPECT_NE(problem(EngineId::trtllm_pytorch).find("fixes a cache type"), std::string::npos);
  write("modelopt/hf_quant_config.json", "{");
  EXPECT_NE(problem(EngineId::trtllm_pytorch), "");
  write("trtllm-FP8/config.json", "{\"architecture\": \"LlamaForCausalLM\"}");
  EXPECT_NE(problem(EngineId::trtllm_tensorrt, KvFormat::fp8).find("fixes a fp16 cache, not fp8"), std::string::npos);
  write(
      "compressed/config.json",
      "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": {\"num_bits\": 8}}}");
  EXPECT_NE(problem(EngineId::vllm).find("kv_cache_scheme"), std::string::npos);
  write("compressed/config.json", "{}");
  EXPECT_NE(problem(EngineId::vllm).find("not in the compressed-tensors layout"), std::string::npos);
  fs::remove_all(at("modelopt"));
  EXPECT_NE(problem(EngineId::trtllm_pytorch).find("is not here"), std::string::npos);
  fs::remove_all(at("model"));
  EXPECT_NE(problem(EngineId::vllm).find("Hugging Face"), std::string::npos);
}

TEST_F(EngineDriverTest, AMissingCheckpointIsMade) {
  EngineCase e = a_case(EngineId::trtllm_pytorch);
  e.checkpoint = at("made");
  programs_->add("quantgrid-stand-in",
                 "while [ $# -gt 0 ]; do [ \"$1\" = --out ] && out=$2; shift; done\n"
                 "cp -r '" +
                     at("modelopt").string() + "' \"$out\"");
  CommandLine make;
  make.argv = {"quantgrid", "quantize", "--out", e.checkpoint.string()};
  e.make_checkpoint = make;
  options_.quantgrid = (programs_->bin() / "quantgrid-stand-in").string();
  EXPECT_TRUE(run(e, kThroughput).ok());
  fs::remove_all(e.checkpoint);
  programs_->add("quantgrid-stand-in", "echo 'error: no calibration text' >&2; exit 1");
  const EngineRun r = run(e, kThroughput);
  EXPECT_EQ(r.error_code, "no_checkpoint");
  EXPECT_NE(r.reason.find("no calibration text"), std::string::npos) << r.reason;
}

TEST_F(EngineDriverTest, AServerIsStartedLoadedAndEnded) {
  EngineCase e = a_case(EngineId::vllm);
  std::vector<ServerAddress> seen;
  options_.served_load = [&](const ServerAddress& address, const EngineCase&, const Workload&) {
    seen.push_back(address);
    EngineRun r;
    r.metrics.push_back({"output_tok_s", 7});
    return r;
  };
  const auto d = driver(e.engine);
  ASSERT_TRUE(d->prepare(e).ok());
  const EngineRun r = d->run(e, kDecode4);
  EXPECT_TRUE(r.ok()) << r.reason;
  EXPECT_EQ(r.kv_reported, KvFormat::fp16);
  EXPECT_EQ(r.engine_version, "0.12.0");
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].model, e.checkpoint.string());
  EXPECT_EQ(seen[0].vocab, 320);
  EXPECT_TRUE(seen[0].url.starts_with("http://127.0.0.1:"));
  const pid_t server = programs_->pids("PIDS").at(0);
  EXPECT_EQ(kill(server, 0), 0);
  d->finish();
  EXPECT_TRUE(is_gone(server));
  EXPECT_EQ(d->run(e, kDecode4).error_code, "no_server");
}

TEST_F(EngineDriverTest, AServerThatIsNotUpInTimeOrDies) {
  const EngineCase e = a_case(EngineId::vllm);
  options_.served_load = [](const ServerAddress&, const EngineCase&, const Workload&) { return EngineRun{}; };
  options_.server_limit_s = 1;
  programs_->mode("hang");
  const EngineRun slow = driver(e.engine)->prepare(e);
  EXPECT_EQ(slow.status, CaseStatus::timeout);
  EXPECT_NE(slow.reason.find("was not up"), std::string::npos) << slow.reason;
  options_.server_limit_s = 30;
  programs_->mode("oom");
  EXPECT_EQ(driver(e.engine)->prepare(e).status, CaseStatus::oom);
  // What the load sees is a broken stream; what became of the server is known a moment later, and is the reason.
  programs_->mode("ok");
  options_.served_load = [&](const ServerAddress&, const EngineCase&, const Workload& w) {
    if (w.name != kDecode4.name) return EngineRun{};
    std::thread([pid = programs_->pids("PIDS").back()] {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      kill(pid, SIGSEGV);
      kill(pid, SIGCONT);
    }).detach();
    kill(programs_->pids("PIDS").back(), SIGSTOP);  // it does not answer meanwhile
    return failed_run(CaseStatus::failed, "stream_cut", "the stream was cut off");
  };
  const auto d = driver(e.engine);
  ASSERT_TRUE(d->prepare(e).ok());
  const EngineRun dead = d->run(e, kDecode4);
  EXPECT_EQ(dead.status, CaseStatus::crash) << dead.reason;
  EXPECT_NE(dead.reason.find("under load"), std::string::npos);
  // The next workload gets a new one.
  const EngineRun next = d->run(e, kThroughput);
  EXPECT_TRUE(next.ok()) << next.reason;
  EXPECT_EQ(programs_->calls("vllm").size(), 4u);
}

}  // namespace
}  // namespace qg
