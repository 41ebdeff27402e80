// Thousands of streams at once from the load client's one thread, against the server in this process: none is lost,
// every token is counted, and what the client adds is known.
#include <gtest/gtest.h>

#include <cstdio>

#include "core/open_files.h"
#include "engines/openai_load.h"
#include "tests/server/running_server.h"

namespace qg {
namespace {

TEST(OpenAiClientLoad, ThousandsOfStreamsFromOneThread) {
  constexpr int64_t kStreams = kSlowdown > 1 ? 300 : 3000;
  if (room_for_open_files(2 * kStreams + 200) < 2 * kStreams + 200)
    FAIL() << "this process may open too few files; raise the limit (ulimit -n)";
  ServerOptions options = test_options();
  options.max_connections = options.max_queue = kStreams + 64;
  FakeServer fake(options, 512, 16384);

  Load load;
  load.name = "8/20";
  load.isl = 8;
  load.osl = 20;
  load.batch = kStreams;
  load.rounds = 2;
  load.speed = SpeedKind::throughput;
  BenchResult result;
  const EngineRun run =
      measure_server({"http://127.0.0.1:" + std::to_string(fake.server->port), "", "", 331}, load, {}, &result);
  ASSERT_TRUE(run.ok()) << run.reason;
  EXPECT_EQ(result.requests, 2 * kStreams);
  EXPECT_EQ(result.failed, 0);
  EXPECT_EQ(result.output_tokens, 2 * kStreams * 20);
  double lag = -1, share = -1;
  for (const EngineMetric& metric : run.metrics) {
    if (metric.name == "client_lag_ms_p99") lag = metric.value;
    if (metric.name == "client_cpu_share") share = metric.value;
  }
  EXPECT_GE(lag, 0);
  EXPECT_GT(share, 0);
  std::printf(
      "%lld streams at once, %.0f tokens/s each in an event of its own, lag p99 %.1f ms, %.0f %% of a processor\n",
      static_cast<long long>(kStreams), result.output_tok_s.value, lag, 100 * share);
}

}  // namespace
}  // namespace qg
