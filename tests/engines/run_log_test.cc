// What logs of real runs say: why it ended, the version, the cache.
#include "engines/run_log.h"

#include <gtest/gtest.h>

#include <csignal>

#include "core/file.h"
#include "grid/models.h"

namespace qg {
namespace {

EngineLog log_of(const std::string& name) {
  EngineLog log;
  log.take(read_file(std::filesystem::path(QG_SOURCE_DIR) / "tests/golden/engines/samples" / name));
  return log;
}

ProcessResult ended(ProcessEnd end, int code) {
  ProcessResult result;
  result.end = end;
  result.code = code;
  return result;
}

ModelShape shape_8b() {
  return find_known_model("llama-3.1-8b")->shape;
}

TEST(EngineLog, RealFailures) {
  struct Sample {
    const char* file;
    CaseStatus status;
    const char* code;
  };
  for (const Sample& s : {Sample{"trtllm-oom.log", CaseStatus::oom, "cuda_oom"},
                          Sample{"trtllm-build-oom.log", CaseStatus::oom, "build_oom"},
                          Sample{"trtllm-runtime-oom.log", CaseStatus::oom, "cuda_oom"},
                          Sample{"vllm-oom.log", CaseStatus::oom, "cuda_oom"},
                          Sample{"vllm-no-cache.log", CaseStatus::oom, "no_cache_memory"},
                          Sample{"trtllm-unsupported.log", CaseStatus::skipped_unsupported, "engine_refused"},
                          Sample{"vllm-unsupported.log", CaseStatus::skipped_unsupported, "engine_refused"}}) {
    const EngineLog log = log_of(s.file);
    ASSERT_TRUE(log.verdict()) << s.file;
    EXPECT_EQ(log.verdict()->status, s.status) << s.file;
    EXPECT_EQ(log.verdict()->code, s.code) << s.file;
    const RunEnd end = judge_end(ended(ProcessEnd::exited, 1), log, 60);
    EXPECT_EQ(end.status, s.status) << s.file;
    EXPECT_NE(end.reason.find(log.verdict()->line.substr(0, 40)), std::string::npos) << end.reason;
    EXPECT_LT(end.reason.size(), 500u);
    // An engine that recovered and ended well is well.
    EXPECT_EQ(judge_end(ended(ProcessEnd::exited, 0), log, 60).status, CaseStatus::ok);
    // One that hung after saying so ran out of memory too, not out of time.
    EXPECT_EQ(judge_end(ended(ProcessEnd::limit, 0), log, 60).status, s.status);
  }
}

TEST(EngineLog, LinesThatOnlyMentionMemoryAreNoVerdict) {
  for (const char* line : {"[TRT-LLM] [W] insufficient GPU memory for CUDA graphs, capturing fewer batch sizes",
                           "free_gpu_memory_fraction=0.8, out of 7.70 GiB total", "Available memory: 3.5 GB",
                           "[TRT-LLM] [I] Memory used after loading: out of memory budget 0"}) {
    EngineLog log;
    EXPECT_FALSE(log.take_line(line)) << line;
    EXPECT_FALSE(log.verdict()) << line;
  }
}

TEST(EngineLog, TheTellingLineCounts) {
  EngineLog log;
  log.take(
      "vllm: error: unrecognized arguments: --x\ntorch.OutOfMemoryError: CUDA out of memory. a\n"
      "torch.OutOfMemoryError: CUDA out of memory. b\nFMHA kernels are not found\n");
  EXPECT_EQ(log.verdict()->code, "cuda_oom");
  EXPECT_NE(log.verdict()->line.find(". a"), std::string::npos);
}

TEST(EngineLog, EndsWithoutAKnownLine) {
  EngineLog log;
  log.take("fine\n[09/17] [TRT-LLM] [E] Failed to do the thing\nlater\n");
  EXPECT_EQ(judge_end(ended(ProcessEnd::limit, 0), log, 60).status, CaseStatus::timeout);
  const RunEnd crash = judge_end(ended(ProcessEnd::signalled, SIGSEGV), log, 60);
  EXPECT_EQ(crash.status, CaseStatus::crash);
  EXPECT_EQ(crash.code, "signal_11");
  EXPECT_NE(crash.reason.find("Failed to do the thing"), std::string::npos);
  EXPECT_EQ(judge_end(ended(ProcessEnd::exited, 139), log, 60).code, "signal_11");
  EXPECT_EQ(judge_end(ended(ProcessEnd::signalled, SIGKILL), log, 60).status, CaseStatus::oom);
  const RunEnd plain = judge_end(ended(ProcessEnd::exited, 2), log, 60);
  EXPECT_EQ(plain.status, CaseStatus::failed);
  EXPECT_EQ(plain.code, "exit_2");
}

TEST(EngineLog, AnOptionThatIsNotThereIsAWrongVersion) {
  EngineLog log;
  log.take("Usage: trtllm-bench latency [OPTIONS]\nError: No such option: --extra_llm_api_options\n");
  EXPECT_EQ(judge_end(ended(ProcessEnd::exited, 2), log, 60).code, "wrong_version");
}

TEST(EngineLog, VersionAndCache) {
  const EngineLog trt = log_of("trtllm-0.20-start.log");
  EXPECT_EQ(trt.version(), "0.20.0");
  EXPECT_NEAR(*trt.cache_bytes_per_token(), 65536, 100);  // FP8 weights brought an FP8 cache
  const EngineLog vllm = log_of("vllm-start.log");
  EXPECT_EQ(vllm.version(), "0.19.1");
  EXPECT_EQ(vllm.kv_word(), "auto");
  EXPECT_NEAR(*vllm.cache_bytes_per_token(), 49139, 50);
}

TEST(EngineLog, LongAndBinaryLinesAreShortened) {
  EngineLog log;
  log.take_line("torch.OutOfMemoryError: CUDA out of memory. \x01\x02 " + std::string(5000, 'x'));
  EXPECT_LT(log.verdict()->line.size(), 310u);
  EXPECT_EQ(log.verdict()->line.find('\x01'), std::string::npos);
  EngineLog words;
  std::string line = "Error: ";
  for (int i = 0; i < 200; ++i) line += "錯誤";
  words.take_line(line);
  EXPECT_EQ(words.last_error().substr(words.last_error().size() - 3), "…");
}

TEST(CacheCheck, ReportAndMemoryMustSayTheCase) {
  const auto fp16 = KvFormat::fp16, fp8 = KvFormat::fp8;
  EXPECT_EQ(check_cache(fp16, fp16, "null", shape_8b(), 131072).mismatch, "");
  EXPECT_EQ(check_cache(fp8, fp8, "FP8", shape_8b(), 65600).mismatch, "");
  // What the report computes from its configuration may not be what was allocated.
  const CacheCheck lied = check_cache(fp16, fp16, "null", shape_8b(), 65537);
  EXPECT_NE(lied.mismatch.find("65537 bytes"), std::string::npos) << lied.mismatch;
  EXPECT_NE(check_cache(fp16, fp8, "FP8", shape_8b(), 65536).mismatch, "");
  EXPECT_NE(check_cache(fp8, fp16, "null", std::nullopt, std::nullopt).mismatch, "");
  EXPECT_NE(check_cache(fp8, std::nullopt, "NVFP4", shape_8b(), 65536).mismatch, "");
  EXPECT_NE(check_cache(fp8, std::nullopt, "", std::nullopt, std::nullopt).mismatch, "");
  // An engine that does not name it but allocates it.
  const CacheCheck silent = check_cache(fp8, std::nullopt, "", shape_8b(), 65536);
  EXPECT_EQ(silent.mismatch, "");
  EXPECT_EQ(silent.reported, fp8);
}

}  // namespace
}  // namespace qg
