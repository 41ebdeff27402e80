// The load client against servers that behave and servers that do not: what it counts, when, and what it says.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "engines/openai_load.h"
#include "tests/engines/rude_server.h"
#include "tests/sanitized.h"

namespace qg {
namespace {

Load small_load(int64_t batch = 4, int64_t osl = 5) {
  Load load;
  load.name = "decode/small";
  load.isl = 8;
  load.osl = osl;
  load.batch = batch;
  load.rounds = 2;
  load.speed = SpeedKind::throughput;  // these servers send all tokens of a reply at once
  return load;
}

ServerAddress address_of(const RudeServer& server) {
  return {server.url(), "", "", 1000};
}

OpenAiLoadOptions quick_options() {
  OpenAiLoadOptions options;
  options.stall_timeout_s = 0.5 * kSlowdown;
  return options;
}

double metric_of(const EngineRun& run, const std::string& name) {
  for (const EngineMetric& metric : run.metrics)
    if (metric.name == name) return metric.value;
  return -1;
}

std::string good(const RudeRequest& request) {
  return RudeServer::good(static_cast<int>(number_in(request.body, "max_tokens")));
}

TEST(OpenAiLoad, MeasuresAServerThatBehaves) {
  RudeServer server(good);
  BenchResult result;
  const EngineRun run = measure_server(address_of(server), small_load(), quick_options(), &result);
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_EQ(run.engine_version, "rude 1.2");
  EXPECT_EQ(run.requests, 8);
  EXPECT_EQ(run.failed, 0);
  EXPECT_EQ(result.output_tokens, 8 * 5);
  EXPECT_EQ(metric_of(run, "output_tokens_mean"), 5);
  EXPECT_EQ(metric_of(run, "prompt_tokens_mean"), 8);
  EXPECT_GE(metric_of(run, "client_lag_ms_p99"), 0);
  EXPECT_GE(metric_of(run, "client_cpu_share"), 0);
  EXPECT_EQ(server.completions(), 1 + 4 + 8);  // probe, warm-up, two rounds
  EXPECT_LE(server.connections(), 3 + 4);      // kept and used again
}

TEST(OpenAiLoad, TheFirstTokenIsTimedFromTheOffer) {
  RudeServer server([](const RudeRequest& request) {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    return good(request);
  });
  BenchResult result;
  const EngineRun run = measure_server(address_of(server), small_load(2, 3), quick_options(), &result);
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_GE(result.ttft_ms_p50, 55);
  EXPECT_LT(result.ttft_ms_p50, 60 * 5 * kSlowdown);
}

TEST(OpenAiLoad, FieldsThatAServerRefusesAreLeftOut) {
  RudeServer server([](const RudeRequest& request) {
    for (const char* field : {"min_tokens", "continuous_usage_stats"})
      if (request.body.find(field) != std::string::npos)
        return RudeServer::json(std::string(R"({"error":{"message":"unknown field )") + field + R"("}})",
                                "400 Bad Request");
    return good(request);
  });
  const EngineRun run = measure_server(address_of(server), small_load(), quick_options());
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_EQ(run.engine_flags, "model m; token prompts, ignore_eos, usage at the end");
}

TEST(OpenAiLoad, AServerThatCountsNothingIsCountedByPieces) {
  RudeServer server([](const RudeRequest& request) {
    std::string text = RudeServer::stream_head();
    for (int64_t i = number_in(request.body, "max_tokens"); i > 0; --i) text += RudeServer::piece("b");
    return text + RudeServer::finish();
  });
  const EngineRun run = measure_server(address_of(server), small_load(), quick_options());
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_NE(run.engine_flags.find("counted by pieces of text"), std::string::npos) << run.engine_flags;
  EXPECT_EQ(metric_of(run, "output_tokens_mean"), 5);
}

TEST(OpenAiLoad, TokensThatWereCountedButNotSeenComeWithTheLast) {
  RudeServer server([](const RudeRequest& request) {
    const int64_t tokens = number_in(request.body, "max_tokens");
    return RudeServer::stream_head() + RudeServer::piece("x") + RudeServer::piece("yz") +
           RudeServer::finish(RudeServer::event(R"({"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":)" +
                                                std::to_string(tokens) + "}}"));
  });
  BenchResult result;
  const EngineRun run = measure_server(address_of(server), small_load(), quick_options(), &result);
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_EQ(result.output_tokens, 8 * 5);
}

struct Wrong {
  const char* name;
  RudeServer::Say say;  // from the second request on; the probe is answered well
  const char* code;
  const char* reason;
  CaseStatus status = CaseStatus::failed;
};

class Misbehaving : public testing::TestWithParam<Wrong> {};

TEST_P(Misbehaving, IsAStatusWithAReason) {
  const Wrong& wrong = GetParam();
  RudeServer server(
      [&](const RudeRequest& request) { return request.number == 0 ? good(request) : wrong.say(request); });
  const EngineRun run = measure_server(address_of(server), small_load(), quick_options());
  EXPECT_EQ(run.status, wrong.status) << run.reason;
  EXPECT_EQ(run.error_code, wrong.code);
  EXPECT_NE(run.reason.find(wrong.reason), std::string::npos) << run.reason;
  EXPECT_EQ(run.engine_version, "rude 1.2");
}

std::string cut_stream(std::string_view how) {
  return RudeServer::stream_head() + RudeServer::piece("a") + RudeServer::piece("b") + std::string(how);
}

INSTANTIATE_TEST_SUITE_P(
    OpenAiLoad, Misbehaving,
    testing::Values(
        Wrong{"TooMany",
              [](const RudeRequest&) {
                return RudeServer::json(R"({"error":{"message":"queue full"}})", "429 Too Many");
              },
              "http_429", "HTTP 429: queue full"},
        Wrong{"InternalError", [](const RudeRequest&) { return RudeServer::json("oops", "500 No"); }, "http_500",
              "HTTP 500: oops"},
        Wrong{"OutOfMemory",
              [](const RudeRequest&) {
                return RudeServer::json(R"({"error":{"message":"CUDA out of memory"}})", "500 No");
              },
              "http_500", "out of memory", CaseStatus::oom},
        Wrong{"Nothing", [](const RudeRequest&) { return std::string(RudeServer::kHold); }, "timeout",
              "no byte from the server", CaseStatus::timeout},
        Wrong{"Closes", [](const RudeRequest&) { return std::string(); }, "stream_cut", "closed without an answer"},
        Wrong{"Garbage",
              [](const RudeRequest&) { return std::string("220 mail ESMTP\r\n\r\n") + std::string(RudeServer::kDrop); },
              "garbage", "not a sound HTTP answer"},
        Wrong{"CutInTheMiddle", [](const RudeRequest&) { return cut_stream(RudeServer::kDrop); }, "stream_cut",
              "cut off after 2 tokens"},
        Wrong{"StopsInTheMiddle", [](const RudeRequest&) { return cut_stream(RudeServer::kHold); }, "timeout",
              "no byte from the server", CaseStatus::timeout},
        Wrong{"EndsWithoutAnEnd", [](const RudeRequest&) { return cut_stream(RudeServer::chunk("")); }, "stream_cut",
              "without a finish reason"},
        Wrong{"ErrorInTheStream",
              [](const RudeRequest&) {
                return cut_stream(RudeServer::event(R"({"error":{"message":"preempted"}})") + RudeServer::finish());
              },
              "server_error", "the server reports: preempted"},
        Wrong{"NoJson",
              [](const RudeRequest&) { return cut_stream(RudeServer::event("<html>") + RudeServer::finish()); },
              "garbage", "no JSON object"},
        Wrong{"AnotherType", [](const RudeRequest&) { return RudeServer::json(R"({"choices":[]})"); }, "content_type",
              "\"application/json\", not text/event-stream"},
        Wrong{"AGiantLine",
              [](const RudeRequest&) {
                return RudeServer::stream_head() + RudeServer::chunk("data: " + std::string(3 << 20, 'x'));
              },
              "garbage", "longer than"},
        Wrong{"CountsFewer",
              [](const RudeRequest&) {
                return cut_stream(RudeServer::finish(
                    RudeServer::event(R"({"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":1}})")));
              },
              "wrong_count", "counts 1 tokens, but sent 2 pieces"},
        Wrong{"NoToken", [](const RudeRequest&) { return RudeServer::stream_head() + RudeServer::finish(); },
              "stream_cut", "without a token"},
        Wrong{"TooShort", [](const RudeRequest&) { return RudeServer::good(3); }, "short_output",
              "ended before 5 tokens", CaseStatus::invalid},
        Wrong{"OtherPrompts", [](const RudeRequest&) { return RudeServer::good(5, 30); }, "prompt_length",
              "counts 30.0 tokens a prompt, the workload has 8", CaseStatus::invalid}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(OpenAiLoad, OneFailureOfManyIsNotHidden) {
  RudeServer server([](const RudeRequest& request) {
    return request.number == 9 ? RudeServer::json("busy", "503 Busy") : good(request);
  });
  const EngineRun run = measure_server(address_of(server), small_load(), quick_options());
  EXPECT_EQ(run.status, CaseStatus::failed);
  EXPECT_EQ(run.failed, 1);
  EXPECT_EQ(run.requests, 8);
  EXPECT_EQ(run.reason, "1 requests failed (1 x http_503); the first: HTTP 503: busy");
  EXPECT_EQ(server.completions(), 1 + 4 + 8);  // nothing was sent twice
}

TEST(OpenAiLoad, AFailureOfTheWarmUpIsNotHiddenEither) {
  RudeServer server([](const RudeRequest& request) {
    return request.number == 2 ? RudeServer::json("busy", "503 Busy") : good(request);
  });
  const EngineRun run = measure_server(address_of(server), small_load(), quick_options());
  EXPECT_EQ(run.status, CaseStatus::failed);
  EXPECT_EQ(run.error_code, "http_503");
}

TEST(OpenAiLoad, WhatTheProbeFindsEndsTheRunBeforeItBegins) {
  const auto reason = [](RudeServer::Say say, const std::string& models, const std::string& name = "") {
    RudeServer server(std::move(say));
    if (!models.empty()) server.models = models;
    ServerAddress address = address_of(server);
    address.model = name;
    const EngineRun run = measure_server(address, small_load(), quick_options());
    EXPECT_FALSE(run.ok());
    EXPECT_LE(server.completions(), 6);
    return run.error_code + ": " + run.reason;
  };
  EXPECT_NE(reason(good, R"({"data":[{"id":"a"},{"id":"b"}]})").find("several models (a, b)"), std::string::npos);
  EXPECT_NE(reason(good, "", "llama").find("no model \"llama\"; it lists m"), std::string::npos);
  EXPECT_NE(reason(good, "[]").find("names no model"), std::string::npos);
  EXPECT_NE(reason(
                [](const RudeRequest&) {
                  return RudeServer::json(R"({"detail":[{"loc":["body","prompt"],"msg":"a valid string"}]})", "422 No");
                },
                "")
                .find("use --prompts text"),
            std::string::npos);
  EXPECT_NE(reason([](const RudeRequest&) { return RudeServer::json("who?", "401 No"); }, "").find("http_401"),
            std::string::npos);
}

// Each reply is in time, but there are too many of them.
TEST(OpenAiLoad, ALoadHasALimit) {
  RudeServer server([](const RudeRequest& request) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    return good(request);
  });
  Load load = small_load(1);
  load.rounds = 1000;
  OpenAiLoadOptions options = quick_options();
  options.limit_s = 1;
  const EngineRun run = measure_server(address_of(server), load, options);
  EXPECT_EQ(run.status, CaseStatus::timeout) << run.reason;
  EXPECT_EQ(run.error_code, "time_limit");
  EXPECT_LT(run.seconds, 3 * kSlowdown);
  EXPECT_LT(server.completions(), 100);
  EXPECT_TRUE(run.metrics.empty());
}

// A server for short requests takes a short probe only.
TEST(OpenAiLoad, TheProbeIsNoLongerThanTheRequests) {
  std::atomic<int64_t> most = 0;
  RudeServer server([&](const RudeRequest& request) {
    const std::string prompt = request.body.substr(0, request.body.find("],"));
    const int64_t tokens = std::count(prompt.begin(), prompt.end(), ',') + number_in(request.body, "max_tokens");
    if (tokens > most) most = tokens;
    return good(request);
  });
  Load load = small_load(2, 1);
  load.speed = SpeedKind::prefill;
  measure_server(address_of(server), load, quick_options());
  EXPECT_GE(server.completions(), 2);
  EXPECT_LE(most, 8 + 1);
}

// Servers close what was idle for some seconds (uvicorn: 5), and a request that meets that is lost.
TEST(OpenAiLoad, AConnectionThatWasIdleForLongIsNotUsedAgain) {
  RudeServer* it = nullptr;
  RudeServer server([&](const RudeRequest& request) {
    return request.number > 0 && it->connections() == 1 ? std::string() : good(request);  // its time is up
  });
  it = &server;
  ClientOptions options;
  options.base = parse_base_url(server.url());
  OpenAiClient client(options);
  for (int i = 0; i < 2; ++i) {
    if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    client.post(i, "/v1/completions", "{\"max_tokens\":3}", 3);
    while (client.in_flight() > 0) client.run_until(ClientClock::now() + std::chrono::milliseconds(10));
  }
  for (const StreamEvent& event : client.take_events()) EXPECT_EQ(event.error, "");
  EXPECT_EQ(client.counts().ended, 2);
}

TEST(OpenAiLoad, NobodyListens) {
  std::string url;
  {
    RudeServer gone(good);
    url = gone.url();
  }
  const EngineRun run = measure_server({url, "", "", 1000}, small_load(), quick_options());
  EXPECT_EQ(run.status, CaseStatus::failed);
  EXPECT_EQ(run.error_code, "connect");
  EXPECT_NE(run.reason.find("is the server up?"), std::string::npos) << run.reason;
}

TEST(OpenAiLoad, TextPromptsAndChat) {
  std::mutex mutex;
  std::string last;
  RudeServer server([&](const RudeRequest& request) {
    const std::lock_guard lock(mutex);
    last = request.head.substr(0, request.head.find('\r')) + "\n" + request.body;
    return good(request);
  });
  OpenAiLoadOptions options = quick_options();
  options.prompts = PromptKind::text;
  options.text = [](std::span<const int32_t> ids) { return std::to_string(ids.size()) + " words"; };
  ASSERT_TRUE(measure_server(address_of(server), small_load(), options).ok());
  EXPECT_NE(last.find("\"prompt\":\"8 words\""), std::string::npos) << last;
  options.chat = true;
  const EngineRun run = measure_server(address_of(server), small_load(), options);
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_NE(last.find("POST /v1/chat/completions"), std::string::npos) << last;
  EXPECT_NE(last.find(R"("messages":[{"role":"user","content":"8 words"}])"), std::string::npos) << last;
}

TEST(OpenAiLoad, OpenLoopOffersOnTimeWhateverTheServerDoes) {
  // Each reply takes 0.3 s, requests come 40 a second: a client that waited for replies would offer 4 at a time.
  std::atomic<int> open = 0, most = 0;
  RudeServer server([&](const RudeRequest& request) {
    const int now = ++open;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    --open;
    return good(request);
  });
  Load load = small_load();
  load.arrival = Arrival::rate;
  load.rate_per_s = 40;
  load.requests = 40;
  load.speed = SpeedKind::throughput;
  OpenAiLoadOptions options = quick_options();
  options.stall_timeout_s = 20;
  BenchResult result;
  const EngineRun run = measure_server(address_of(server), load, options, &result);
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_EQ(result.requests, 40);
  EXPECT_GE(most, 6);
  EXPECT_GE(metric_of(run, "ttft_ms_p50"), 290);
  EXPECT_GE(metric_of(run, "e2e_ms_p90"), metric_of(run, "ttft_ms_p50"));
  EXPECT_GT(metric_of(run, "requests_s"), 10);
  load.requests = 8;
  load.max_ttft_ms = 100;
  EXPECT_EQ(metric_of(measure_server(address_of(server), load, options), "goodput_share"), 0);
  load.max_ttft_ms = 20000;
  EXPECT_EQ(metric_of(measure_server(address_of(server), load, options), "goodput_share"), 1);

  load.arrival = Arrival::concurrency;
  load.batch = 3;
  load.requests = 9;
  most = 0;
  ASSERT_TRUE(measure_server(address_of(server), load, options, &result).ok());
  EXPECT_EQ(result.requests, 9);
  EXPECT_EQ(most, 3);
}

}  // namespace
}  // namespace qg
