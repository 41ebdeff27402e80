// Readers of other engines' reports, on real samples (tests/golden/engines/samples/README.md says where they are from).
#include "engines/reports.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"

namespace qg {
namespace {

std::string sample(const std::string& name) {
  return read_file(std::filesystem::path(QG_SOURCE_DIR) / "tests/golden/engines/samples" / name);
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

template <typename Read>
std::string refusal(Read read) {
  try {
    read();
  } catch (const Error& e) {
    return std::string(e.what()) + " | " + e.fix();
  }
  return "";
}

TEST(TrtllmReport, Json) {
  const EngineReport r = parse_trtllm_report(sample("trtllm-report.json"), "total.json");
  EXPECT_EQ(r.version, "1.1.0");
  EXPECT_EQ(r.model, "meta-llama/Llama-3.2-3B-Instruct");
  EXPECT_EQ(r.kv_word, "null");
  EXPECT_EQ(r.kv, KvFormat::fp16);
  EXPECT_EQ(r.requests, 40);
  EXPECT_DOUBLE_EQ(*r.concurrent, 7.9);
  EXPECT_DOUBLE_EQ(*r.mean_isl, 128);
  EXPECT_DOUBLE_EQ(*r.mean_osl, 256);
  EXPECT_DOUBLE_EQ(*r.seconds, 8);
  EXPECT_DOUBLE_EQ(*r.output_tok_s, 1280);
  EXPECT_DOUBLE_EQ(*r.total_tok_s, 1920);
  EXPECT_DOUBLE_EQ(*r.requests_s, 5);
  EXPECT_DOUBLE_EQ(*r.decode_tok_s_per_request, 164.5);
  EXPECT_DOUBLE_EQ(*r.ttft_ms_p50, 24);
  EXPECT_DOUBLE_EQ(*r.ttft_ms_p90, 28);
  EXPECT_DOUBLE_EQ(*r.ttft_ms_p99, 30);
  EXPECT_DOUBLE_EQ(*r.tpot_ms_p50, 6.08);
  EXPECT_DOUBLE_EQ(*r.tpot_ms_p99, 6.3);
  EXPECT_DOUBLE_EQ(*r.e2e_ms_p50, 1575);
  EXPECT_DOUBLE_EQ(*r.e2e_ms_p99, 1600);
}

TEST(TrtllmReport, CacheTypes) {
  const std::string json = sample("trtllm-report.json");
  const auto kv = [&](const std::string& word) {
    return parse_trtllm_report(with(json, "\"kv_cache_dtype\": null", "\"kv_cache_dtype\": " + word), "r").kv;
  };
  EXPECT_EQ(kv("\"FP8\""), KvFormat::fp8);
  EXPECT_EQ(kv("\"INT8\""), KvFormat::int8);
  EXPECT_EQ(kv("\"NVFP4\""), std::nullopt);
  EXPECT_EQ(kv("\"auto\""), std::nullopt);
  EXPECT_EQ(kv("7"), std::nullopt);
}

TEST(TrtllmReport, TextOfTwoVersions) {
  const EngineReport old = parse_trtllm_text(sample("trtllm-1.1.0rc1.txt"), "log");
  EXPECT_EQ(old.version, "1.1.0rc1");
  EXPECT_EQ(old.model, "deepseek-ai/DeepSeek-R1");
  EXPECT_EQ(old.quantization, "NVFP4");
  EXPECT_EQ(old.kv, KvFormat::fp8);
  EXPECT_EQ(old.requests, 6144);
  EXPECT_DOUBLE_EQ(*old.concurrent, 1018.8281);
  EXPECT_DOUBLE_EQ(*old.output_tok_s, 7517.2584);
  EXPECT_FALSE(old.ttft_ms_p50);
  const EngineReport now = parse_trtllm_text("noise\n" + sample("trtllm-1.2.txt"), "log");
  EXPECT_EQ(now.version, "1.2");
  EXPECT_DOUBLE_EQ(*now.requests_s, 0.9765);
  EXPECT_DOUBLE_EQ(*now.output_tok_s, 15999.06);
  EXPECT_DOUBLE_EQ(*now.seconds, 262.1594);
}

TEST(TrtllmReport, TextWithLatencies) {
  std::string text = with(sample("trtllm-0.20-report.txt"), "0.20.0", "1.0.0");
  text = with(text, "Number of requests:             30000",
              "Number of requests: 30000\nNumber of concurrent requests: 13299\nAverage Input Length (tokens): 128.0\n"
              "Average Output Length (tokens): 28.0");
  const EngineReport r = parse_trtllm_text(text + "[TTFT] P50    : 12.5\n[TPOT] P99    : 3.25\n", "log");
  EXPECT_DOUBLE_EQ(*r.e2e_ms_p50, 54486.1063);
  EXPECT_DOUBLE_EQ(*r.e2e_ms_p99, 68887.7569);
  EXPECT_DOUBLE_EQ(*r.ttft_ms_p50, 12.5);
  EXPECT_DOUBLE_EQ(*r.tpot_ms_p99, 3.25);
  EXPECT_DOUBLE_EQ(*r.total_tok_s, 38762.1169);
}

TEST(TrtllmReport, TheLastReportCounts) {
  const EngineReport r = parse_trtllm_text(sample("trtllm-1.1.0rc1.txt") + sample("trtllm-1.2.txt"), "log");
  EXPECT_EQ(r.version, "1.2");
}

TEST(TrtllmReport, OtherVersionsAreRefused) {
  const std::string old = refusal([] { parse_trtllm_text(sample("trtllm-0.20-report.txt"), "total.log"); });
  EXPECT_NE(old.find("0.20.0"), std::string::npos) << old;
  const std::string json = sample("trtllm-report.json");
  for (const char* version : {"1.3.0rc2", "0.17.0", "2.0", "1.10", "", "1.1x"}) {
    const std::string said =
        refusal([&] { parse_trtllm_report(with(json, "\"1.1.0\"", '"' + std::string(version) + '"'), "total.json"); });
    EXPECT_NE(said.find("not known"), std::string::npos) << version << ": " << said;
    EXPECT_NE(said.find("total.json"), std::string::npos);
    EXPECT_NE(said.find("1.0 to 1.2"), std::string::npos) << said;
  }
  EXPECT_NO_THROW(parse_trtllm_report(with(json, "\"1.1.0\"", "\"1.2.0rc6\""), "r"));
  // `--attempt` takes what has all the keys, and still nothing else.
  EXPECT_EQ(parse_trtllm_report(with(json, "\"1.1.0\"", "\"0.20.0\""), "r", true).version, "0.20.0");
  EXPECT_NE(refusal([&] { parse_trtllm_report(with(json, "num_requests", "n"), "r", true); }), "");
}

TEST(TrtllmReport, WhatIsNotAReportIsRefused) {
  const std::string json = sample("trtllm-report.json");
  const auto bad = [&](const std::string& text) { return refusal([&] { parse_trtllm_report(text, "total.json"); }); };
  EXPECT_NE(bad(""), "");
  EXPECT_NE(bad("[]"), "");
  EXPECT_NE(bad("{}").find("no \"engine\""), std::string::npos);
  EXPECT_NE(bad(json.substr(0, json.size() / 2)), "");
  EXPECT_NE(bad(with(json, "\"performance\"", "\"speed\"")).find("no \"performance\""), std::string::npos);
  EXPECT_NE(bad(with(json, "1280.0", "0.0")).find("no measurement"), std::string::npos);
  EXPECT_NE(bad(with(json, "1280.0", "-3")).find("no measurement"), std::string::npos);
  EXPECT_NE(bad(with(json, "1280.0", "NaN")), "");
  EXPECT_NE(bad(with(json, "1280.0", "\"fast\"")), "");
  EXPECT_NE(bad(with(json, "\"num_requests\": 40", "\"num_requests\": 0")), "");
  EXPECT_NE(refusal([] { parse_trtllm_text("Killed\n", "total.log"); }).find("no report"), std::string::npos);
  EXPECT_NE(refusal([] {
              parse_trtllm_text(with(sample("trtllm-1.1.0rc1.txt"), "7517.2584", "fast"), "total.log");
            }).find("not a number"),
            std::string::npos);
}

TEST(TrtllmReport, WithoutStreamingThereAreNoTimesPerToken) {
  const std::string json = sample("trtllm-report.json");
  const EngineReport r = parse_trtllm_report(with(json, "streaming_metrics", "other_metrics"), "r");
  EXPECT_FALSE(r.ttft_ms_p50);
  EXPECT_FALSE(r.decode_tok_s_per_request);
  EXPECT_DOUBLE_EQ(*r.output_tok_s, 1280);
}

TEST(VllmReport, Throughput) {
  const EngineReport r = parse_vllm_throughput(sample("vllm-throughput.json"), "total.json");
  EXPECT_EQ(r.requests, 200);
  EXPECT_DOUBLE_EQ(*r.seconds, 72.38106929324567);
  EXPECT_DOUBLE_EQ(*r.total_tok_s, 1190.9743920852);
  EXPECT_FALSE(r.output_tok_s);  // the file does not say
}

TEST(VllmReport, Latency) {
  const EngineReport r = parse_vllm_latency(sample("vllm-latency.json"), "total.json");
  ASSERT_EQ(r.round_seconds.size(), 15u);
  EXPECT_DOUBLE_EQ(r.round_seconds[0], 7.438288155943155);
}

TEST(VllmReport, WhatIsNotAReportIsRefused) {
  const std::string latency = sample("vllm-latency.json"), throughput = sample("vllm-throughput.json");
  EXPECT_NE(refusal([&] { parse_vllm_latency(throughput, "r"); }), "");
  EXPECT_NE(refusal([&] { parse_vllm_throughput(latency, "r"); }), "");
  EXPECT_NE(refusal([&] { parse_vllm_latency("{", "r"); }), "");
  EXPECT_NE(refusal([&] { parse_vllm_latency("[1]", "r"); }), "");
  EXPECT_NE(refusal([&] { parse_vllm_latency(with(latency, "7.438288155943155", "-1"), "r"); }), "");
  EXPECT_NE(refusal([&] { parse_vllm_latency(with(latency, "7.419569773475329", "70"), "r"); }).find("mean"),
            std::string::npos);
  EXPECT_NE(refusal([&] { parse_vllm_latency(R"({"avg_latency": 1, "latencies": []})", "r"); }), "");
  EXPECT_NE(refusal([&] { parse_vllm_throughput(with(throughput, "200", "201.5"), "r"); }), "");
  EXPECT_NE(refusal([&] { parse_vllm_throughput(with(throughput, "86204", "8620"), "r"); }).find("rates"),
            std::string::npos);
}

TEST(EngineVersions, Known) {
  for (const char* version : {"1.0.0", "1.1.0", "1.1.0rc5", "1.2", "1.2.0rc2"}) EXPECT_TRUE(is_known_trtllm(version));
  for (const char* version : {"0.21.0", "1.3.0", "1.11", "11.1", "", "v1.1"}) EXPECT_FALSE(is_known_trtllm(version));
  for (const char* version : {"0.12.0", "0.10", "0.19.1", "0.11.0rc2"}) EXPECT_TRUE(is_known_vllm(version));
  for (const char* version : {"0.9.2", "0.20.0", "1.0", "", "0.x", "0.120"}) EXPECT_FALSE(is_known_vllm(version));
}

}  // namespace
}  // namespace qg
