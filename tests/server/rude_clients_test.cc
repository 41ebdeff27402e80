// Clients that leave, dawdle or talk nonsense: nothing of them may stay, and nobody else may notice.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>

#include "core/memory.h"
#include "core/rng.h"
#include "tests/server/running_server.h"

namespace qg {
namespace {

std::string stream_request(int64_t max_tokens) {
  return HttpClient::post_text(
      "/v1/completions",
      completion("abc", max_tokens,
                 {{"stream", true}, {"ignore_eos", true}, {"stream_options", {{"include_usage", true}}}})
          .dump());
}

int64_t tokens_of(const HttpReply& stream) {
  const std::vector<Json> events = sse_events(stream.body);
  return events.empty() ? -1 : events.back()["usage"]["completion_tokens"].get<int64_t>();
}

double metric(const FakeServer& fake, const std::string& name) {
  const std::string text = "\n" + fake.server->client().get("/metrics").body;
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
}

TEST(RudeClients, LeavingMidStreamFreesThePagesAtTheNextStep) {
  for (const bool abrupt : {false, true}) {
    const FakeServer fake;
    fake.executor->step_time = std::chrono::milliseconds(1);
    HttpClient client = fake.server->client();
    client.send_bytes(stream_request(50000));
    ASSERT_TRUE(client.receive_until("data: "));
    EXPECT_GT(fake.server->engine.stats().pages_used, 0);
    fake.executor->shut();  // so that the steps after the client has left are counted
    abrupt ? client.reset() : client.close_now();
    ASSERT_TRUE(eventually([&] { return metric(fake, "quantgrid_clients_gone_total") == 1; }));
    fake.executor->allow(2);  // the one under way, and at most one that was planned meanwhile
    EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); })) << "abrupt " << abrupt;
    EXPECT_EQ(fake.server->engine.stats().cancelled, 1);
  }
}

TEST(RudeClients, LeavingBeforeTheAnswerCancelsToo) {
  const FakeServer fake;
  fake.executor->step_time = std::chrono::milliseconds(1);
  {
    HttpClient client = fake.server->client();
    client.send_bytes(
        HttpClient::post_text("/v1/completions", completion("abc", 50000, {{"n", 5}, {"ignore_eos", true}}).dump()));
    ASSERT_TRUE(eventually([&] { return fake.server->engine.stats().running == 5; }));
  }
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
  EXPECT_EQ(fake.server->engine.stats().cancelled, 5);
}

TEST(RudeClients, WhoDoesNotReadIsDropped) {
  ServerOptions options = test_options();
  options.max_unsent_bytes = 20000;
  options.send_buffer_bytes = 4096;
  const FakeServer fake(options);
  HttpClient slow = fake.server->client(4096);
  slow.send_bytes(stream_request(60000));
  EXPECT_TRUE(eventually([&] { return fake.server->engine.stats().cancelled == 1; })) << "it runs for nobody";
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
  EXPECT_EQ(metric(fake, "quantgrid_clients_slow_total"), 1);
}

TEST(RudeClients, WhoIsSentMuchAtOnceIsNotDropped) {
  ServerOptions options = test_options();
  options.max_unsent_bytes = 1024;
  const FakeServer fake(options);
  HttpClient client = fake.server->client();
  const HttpReply reply =
      client.post("/v1/completions",
                  completion(std::string(2000, 'a'), 3, {{"echo", true}, {"stream", true}, {"ignore_eos", true}}));
  EXPECT_TRUE(reply.whole);
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  EXPECT_EQ(metric(fake, "quantgrid_clients_slow_total"), 0);
}

TEST(RudeClients, WhoTakesNoByteInTimeIsDropped) {
  ServerOptions options = test_options();
  options.write_timeout_s = .3;
  options.send_buffer_bytes = 4096;
  const FakeServer fake(options);
  fake.executor->step_time = std::chrono::microseconds(200);
  HttpClient slow = fake.server->client(4096);
  slow.send_bytes(stream_request(60000));
  EXPECT_TRUE(eventually([&] { return fake.server->engine.stats().cancelled == 1; }));
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
}

TEST(RudeClients, SilentStreamsAreKeptAliveByComments) {
  ServerOptions options = test_options();
  options.keep_alive_s = .05;
  const FakeServer fake(options);
  fake.executor->shut();
  HttpClient client = fake.server->client();
  client.send_bytes(stream_request(3));
  EXPECT_TRUE(client.receive_until(": keep-alive\n\n"));
  fake.executor->open();
  EXPECT_FALSE(sse_events(client.read_reply().body).empty());
}

TEST(RudeClients, PipelinedRequestsAreAnsweredInOrder) {
  const FakeServer fake;
  HttpClient client = fake.server->client();
  const std::string get = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  client.send_bytes(get + stream_request(20) + get + stream_request(3) + get);
  EXPECT_EQ(client.read_reply().status, 200);
  EXPECT_EQ(tokens_of(client.read_reply()), 20);
  EXPECT_EQ(client.read_reply().json()["status"], "ok");
  EXPECT_EQ(tokens_of(client.read_reply()), 3);
  EXPECT_EQ(client.read_reply().json()["status"], "ok");
}

TEST(RudeClients, PipelinedGarbageEndsTheConnectionAfterTheAnswer) {
  const FakeServer fake;
  HttpClient client = fake.server->client();
  client.send_bytes(stream_request(20) + "\x01\x02 garbage that is no request\r\n\r\n" + std::string(200000, 'x'));
  EXPECT_EQ(tokens_of(client.read_reply()), 20);
  EXPECT_EQ(client.read_reply().status, 400);
  while (client.receive(5)) {
  }
  EXPECT_TRUE(client.ended());
}

TEST(RudeClients, GarbageOfEveryKindIsAnsweredOrDropped) {
  const FakeServer fake;
  Rng rng(11);
  const std::string sound = stream_request(2);
  for (int round = 0; round < 300; ++round) {
    HttpClient client = fake.server->client();
    std::string bytes = sound;
    switch (rng.next_below(4)) {
      case 0:  // random bytes
        bytes.resize(rng.next_below(2000));
        for (char& c : bytes) c = static_cast<char>(rng.next_bits());
        break;
      case 1:  // a sound request with a few bytes changed
        for (int i = 0; i < 3; ++i) bytes[rng.next_below(bytes.size())] = static_cast<char>(rng.next_bits());
        break;
      case 2:  // broken off
        bytes.resize(rng.next_below(bytes.size()));
        break;
      default:  // twice, with something between
        bytes += "\r\nGET" + sound;
    }
    client.send_bytes(bytes);
    if (rng.next_below(2) == 0) client.end_sending();
    if (rng.next_below(2) == 0) client.receive(.01);
    if (rng.next_below(3) == 0) client.reset();
  }
  EXPECT_EQ(fake.server->client().post("/v1/completions", completion("abc", 3)).status, 200);
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
  EXPECT_TRUE(eventually([&] { return metric(fake, "quantgrid_connections") == 1; })) << "connections leaked";
}

TEST(RudeClients, ExpectContinueIsAnswered) {
  const FakeServer fake;
  HttpClient client = fake.server->client();
  const std::string body = completion("abc", 2).dump();
  client.send_bytes(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: "
      "100-continue\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_EQ(client.read_reply(true).status, 100);
  client.send_bytes(body);
  EXPECT_EQ(client.read_reply().status, 200);
}

// The event loop answers while a step is under way.
TEST(RudeClients, AStepBlocksNobody) {
  const FakeServer fake;
  fake.executor->shut();
  HttpClient client = fake.server->client();
  client.send_bytes(stream_request(3));
  ASSERT_TRUE(eventually([&] { return !fake.server->engine.idle(); }));
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 50; ++i) EXPECT_EQ(fake.server->client().get("/health").status, 200);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5 * kSlowdown));
}

TEST(RudeClients, AThousandIdleStreamsCostLittle) {
  // Both ends of each are open files here.
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &files);
  ASSERT_GE(files.rlim_cur, 2200u);
  ServerOptions options = test_options();
  options.max_queue = 2000;
  const FakeServer fake(options);
  fake.executor->shut();
  std::vector<HttpClient> clients;
  const auto open_streams = [&](int count) {
    for (int i = 0; i < count; ++i) {
      clients.push_back(fake.server->client());
      clients.back().send_bytes(stream_request(4));
    }
    for (HttpClient& client : clients) ASSERT_TRUE(client.receive_until("\r\n\r\n"));
  };
  open_streams(24);  // what is allocated once
  const int64_t before = anonymous_rss_bytes();
  constexpr int kStreams = 1000;
  open_streams(kStreams);
  // This test's own clients are in it too.
  const int64_t each = (anonymous_rss_bytes() - before) / kStreams;
  std::printf("memory of an idle stream: %lld bytes\n", static_cast<long long>(each));
  RecordProperty("bytes_per_idle_stream", static_cast<int>(each));
  EXPECT_LT(each, 64 << 10 << (kSlowdown > 1 ? 2 : 0));
  fake.executor->open();
  for (HttpClient& client : clients) EXPECT_FALSE(sse_events(client.read_reply().body).empty());
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
}

}  // namespace
}  // namespace qg
