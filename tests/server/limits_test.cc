// Each limit has its own answer, and a stop is an orderly one. The model is a fake whose steps the test holds back.
#include <gtest/gtest.h>

#include <chrono>

#include "tests/server/running_server.h"

namespace qg {
namespace {

Json endless(Json more = Json::object()) {
  Json body = completion("abc", 3000, {{"stream", true}, {"ignore_eos", true}});
  body.update(more);
  return body;
}

bool send_completion(HttpClient& client, const Json& body) {
  return client.send_bytes(HttpClient::post_text("/v1/completions", body.dump()));
}

TEST(Limits, BodyAndHeader) {
  ServerOptions options = test_options();
  options.http.max_body_bytes = 2000;
  options.http.max_header_bytes = 1024;
  const FakeServer fake(options);
  const HttpReply body = fake.server->client().post("/v1/completions", completion(std::string(3000, 'a'), 1));
  EXPECT_EQ(body.status, 413);
  EXPECT_EQ(body.json()["error"]["code"], "body_too_long");
  EXPECT_EQ(body.headers.at("connection"), "close");
  // Also when the whole body is sent before the answer is read.
  HttpClient eager = fake.server->client();
  eager.send_bytes("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n");
  EXPECT_TRUE(eager.send_bytes(std::string(3000000, 'x'))) << "the connection was reset, and the answer may be lost";
  EXPECT_EQ(eager.read_reply().status, 413);
  EXPECT_EQ(fake.server->client().get("/health", "X-Long: " + std::string(2000, 'a') + "\r\n").status, 431);
  EXPECT_EQ(fake.server->client().post("/v1/completions", completion("abc", 1)).status, 200);
}

TEST(Limits, PromptTokens) {
  ServerOptions options = test_options();
  options.max_prompt_tokens = 10;
  const FakeServer fake(options);
  HttpClient client = fake.server->client();
  const auto with = [](size_t tokens) {
    return Json{{"model", kModelName}, {"prompt", std::vector<int>(tokens, 5)}, {"max_tokens", 3}};
  };
  EXPECT_EQ(client.post("/v1/completions", with(10)).status, 200);
  const HttpReply reply = client.post("/v1/completions", with(11));
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.json()["error"]["code"], "context_length_exceeded");
}

TEST(Limits, Queue) {
  ServerOptions options = test_options();
  options.max_queue = 2;
  const FakeServer fake(options, 1);
  fake.executor->shut();
  std::vector<HttpClient> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(fake.server->client());
    send_completion(clients.back(), completion("abc", 3, {{"ignore_eos", true}}));
  }
  HttpClient late = fake.server->client();
  ASSERT_TRUE(eventually(
      [&] { return fake.server->client().get("/metrics").body.find("prompt_tokens_total 9\n") != std::string::npos; }));
  const HttpReply full = late.post("/v1/completions", completion("abc", 3));
  EXPECT_EQ(full.status, 429);
  EXPECT_GE(std::stoi(full.headers.at("retry-after")), 1);
  EXPECT_EQ(full.json()["error"]["type"], "rate_limit_error");
  fake.executor->open();
  for (HttpClient& client : clients) EXPECT_EQ(client.read_reply().status, 200);
  EXPECT_EQ(late.post("/v1/completions", completion("abc", 3)).status, 200) << "the queue is empty again";
}

// "Later" would never come.
TEST(Limits, ChoicesThatNeverFit) {
  ServerOptions options = test_options();
  options.max_queue = 2;
  const FakeServer fake(options, 1);
  HttpClient client = fake.server->client();
  const auto refused = [&](const std::string& path, const Json& body, const char* param, const char* most) {
    const HttpReply reply = client.post(path, body);
    EXPECT_EQ(reply.status, 400) << body;
    if (reply.status != 400) return;
    const Json error = reply.json()["error"];
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], param);
    EXPECT_NE(error["message"].get<std::string>().find(most), std::string::npos) << error;
    EXPECT_FALSE(reply.headers.contains("retry-after"));
  };
  const Json two = Json::array({"abc", "abd"}), four = Json::array({"a", "b", "c", "d"});
  const Json chat{
      {"model", kModelName}, {"messages", Json::array({{{"role", "user"}, {"content", "a"}}})}, {"max_tokens", 2}};
  const auto with = [](Json body, const char* name, const Json& value) {
    body[name] = value;
    return body;
  };
  for (const int64_t n : {4, 128, 129, 1000000000})
    refused("/v1/completions", completion("abc", 3, {{"n", n}}), "n", "from 1 to 3");
  refused("/v1/chat/completions", with(chat, "n", 4), "n", "from 1 to 3");
  refused("/v1/completions", completion("", 3, {{"prompt", two}, {"n", 2}}), "n", "at most 1");
  refused("/v1/completions", completion("", 3, {{"prompt", four}}), "prompt", "at most 3 prompts");
  refused("/v1/completions", completion("abc", 3, {{"best_of", 4}}), "best_of", "not supported");
  EXPECT_EQ(client.post("/v1/completions", completion("abc", 3, {{"n", 3}})).status, 200);
  EXPECT_EQ(client.post("/v1/completions", completion("", 3, {{"prompt", Json::array({"a", "b", "c"})}})).status, 200);
  EXPECT_EQ(client.post("/v1/chat/completions", with(chat, "n", 3)).status, 200);
}

TEST(Limits, Connections) {
  ServerOptions options = test_options();
  options.max_connections = 3;
  const FakeServer fake(options);
  std::vector<HttpClient> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(fake.server->client());
    EXPECT_EQ(clients.back().get("/health").status, 200);
  }
  HttpClient refused = fake.server->client();
  const HttpReply reply = refused.get("/health");
  EXPECT_EQ(reply.status, 503);
  EXPECT_TRUE(reply.headers.contains("retry-after"));
  clients.pop_back();
  EXPECT_TRUE(eventually([&] { return fake.server->client().get("/health").status == 200; }));
}

TEST(Limits, BytesOfAllRequestsTogether) {
  ServerOptions options = test_options();
  options.max_buffered_bytes = 100000;
  const FakeServer fake(options);
  HttpClient one = fake.server->client(), two = fake.server->client();
  const std::string head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n";
  one.send_bytes(head + std::string(80000, ' '));
  two.send_bytes(head + std::string(80000, ' '));
  // Whichever came second is refused, and the other goes on.
  pollfd waits[2] = {{one.fd(), POLLIN, 0}, {two.fd(), POLLIN, 0}};
  ASSERT_EQ(poll(waits, 2, 10000), 1);
  HttpClient& refused = waits[0].revents != 0 ? one : two;
  HttpClient& other = waits[0].revents != 0 ? two : one;
  EXPECT_EQ(refused.read_reply().status, 503);
  pollfd quiet{other.fd(), POLLIN, 0};
  EXPECT_EQ(poll(&quiet, 1, 100), 0);
}

TEST(Limits, SlowRequestIsAnsweredAndDropped) {
  ServerOptions options = test_options();
  options.read_timeout_s = .3 * kSlowdown;
  const FakeServer fake(options);
  HttpClient client = fake.server->client();
  const auto start = std::chrono::steady_clock::now();
  const std::string head = "GET /health HTTP/1.1\r\nX-Slow: ";
  client.send_bytes(head);
  // A byte now and then does not buy time.
  for (int i = 0; i < 100 && !client.receive(.02); ++i) client.send_bytes("a");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2 * kSlowdown));
  const HttpReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 408);
  EXPECT_EQ(reply.headers.at("connection"), "close");
  HttpClient body = fake.server->client();
  body.send_bytes("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{");
  EXPECT_EQ(body.read_reply().status, 408);
}

TEST(Limits, IdleConnectionIsClosedWithoutAWord) {
  ServerOptions options = test_options();
  options.idle_timeout_s = .2;
  const FakeServer fake(options);
  HttpClient client = fake.server->client();
  EXPECT_EQ(client.get("/health").status, 200);
  EXPECT_FALSE(client.receive(5));
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(client.received().empty());
}

TEST(Limits, RequestTimeout) {
  ServerOptions options = test_options();
  options.request_timeout_s = .3;
  const FakeServer fake(options);
  fake.executor->shut();
  HttpClient plain = fake.server->client(), streaming = fake.server->client();
  send_completion(plain, completion("abc", 3));
  send_completion(streaming, endless());
  const HttpReply reply = plain.read_reply();
  EXPECT_EQ(reply.status, 504);
  const std::vector<Json> events = sse_events(streaming.read_reply().body);
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back()["error"]["code"], "request_timeout");
  fake.executor->open();
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
}

TEST(Limits, ApiKey) {
  ServerOptions options = test_options();
  options.api_key = "secret";
  const FakeServer fake(options);
  HttpClient client = fake.server->client();
  EXPECT_EQ(client.post("/v1/completions", completion("a", 1)).status, 401);
  EXPECT_EQ(client.get("/v1/models").status, 401);
  EXPECT_EQ(client.get("/v1/models", "Authorization: Bearer wrong\r\n").status, 401);
  EXPECT_EQ(client.get("/v1/models", "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(client.post("/v1/completions", completion("a", 1), "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(client.get("/health").status, 200);
}

TEST(Limits, ForeignHostIsRefused) {
  const FakeServer fake;
  HttpClient client = fake.server->client();
  client.send_bytes("GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 403);
  client.send_bytes("GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 403) << "the target's host counts";
  client.send_bytes("GET http://localhost:1/v1/models?a=b HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 200);
  EXPECT_EQ(client.get("/v1/models").status, 200);
}

TEST(Stop, WaitsForWhatRunsAndTakesNothingNew) {
  FakeServer fake;
  fake.executor->shut();
  HttpClient busy = fake.server->client(), idle = fake.server->client(), half = fake.server->client();
  send_completion(busy, completion("abc", 5, {{"ignore_eos", true}}));
  EXPECT_EQ(idle.get("/health").status, 200);
  half.send_bytes("GET /health HTTP/1.1\r\nHost: local");
  ASSERT_TRUE(eventually([&] { return !fake.server->engine.idle(); }));
  EXPECT_EQ(fake.server->client().get("/health").status, 200);  // accepted after all of these
  fake.server->ask_to_stop();
  EXPECT_FALSE(idle.receive(5));
  EXPECT_TRUE(idle.ended()) << "an idle connection keeps the server from ending";
  half.send_bytes("host\r\n\r\n");
  EXPECT_EQ(half.read_reply().status, 503);
  EXPECT_TRUE(eventually([&] { return !fake.server->client().connected(); })) << "it still listens";
  EXPECT_FALSE(fake.server->stopped);
  fake.executor->open();
  const HttpReply reply = busy.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.json()["usage"]["completion_tokens"], 5);
  EXPECT_EQ(reply.headers.at("connection"), "close");
  EXPECT_TRUE(eventually([&] { return fake.server->stopped.load(); }));
  EXPECT_EQ(fake.server->error, "");
}

TEST(Stop, CancelsWhatTakesTooLong) {
  ServerOptions options = test_options();
  options.drain_timeout_s = .2;
  FakeServer fake(options);
  fake.executor->step_time = std::chrono::milliseconds(5);
  HttpClient streaming = fake.server->client(), plain = fake.server->client();
  send_completion(streaming, endless());
  send_completion(plain, endless({{"stream", false}}));
  ASSERT_TRUE(streaming.receive_until("data: "));
  ASSERT_TRUE(eventually([&] { return fake.server->engine.stats().running == 2; }));
  const auto start = std::chrono::steady_clock::now();
  fake.server->ask_to_stop();
  EXPECT_EQ(sse_events(streaming.read_reply().body).back()["error"]["code"], "shutting_down");
  EXPECT_EQ(plain.read_reply().status, 503);
  EXPECT_TRUE(eventually([&] { return fake.server->stopped.load(); }));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3 * kSlowdown));
}

TEST(EngineFailure, TellsEverybodyAndGoesOn) {
  FakeServer fake;
  fake.executor->shut();
  HttpClient plain = fake.server->client(), streaming = fake.server->client();
  send_completion(plain, completion("abc", 5));
  send_completion(streaming, endless());
  ASSERT_TRUE(streaming.receive_until("\r\n\r\n"));
  ASSERT_TRUE(eventually([&] { return !fake.server->engine.idle(); }));
  fake.executor->fail_at_step = 3;
  fake.executor->open();
  const HttpReply reply = plain.read_reply();
  const std::vector<Json> events = sse_events(streaming.read_reply().body);
  EXPECT_TRUE(reply.status == 500 || reply.status == 200) << "it may have ended before";
  EXPECT_EQ(events.back()["error"]["type"], "server_error");
  EXPECT_NE(events.back()["error"]["message"].get<std::string>().find("as it was told to"), std::string::npos);
  EXPECT_EQ(fake.server->client().post("/v1/completions", completion("abc", 5)).status, 200);
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
}

TEST(EngineFailure, OfOneStepIsOverWhenAStepIsGood) {
  FakeServer fake;
  fake.executor->fail_at_step = 1;
  EXPECT_EQ(fake.server->client().post("/v1/completions", completion("abc", 5)).status, 500);
  // Nobody asks; still it is found out.
  EXPECT_TRUE(eventually([&] { return fake.server->client().get("/health").status == 200; }));
  EXPECT_FALSE(fake.server->stopped);
  EXPECT_EQ(fake.server->client().post("/v1/completions", completion("abc", 5)).status, 200);
}

// A model that knows nothing but NaN has an engine that works.
TEST(EngineFailure, IsOverThoughTheModelIsBroken) {
  FakeServer fake;
  fake.executor->poison = {0};  // what the server asks for itself
  fake.executor->fail_at_step = 1;
  EXPECT_EQ(fake.server->client().post("/v1/completions", completion("abc", 5)).status, 500);
  EXPECT_TRUE(eventually([&] { return fake.server->client().get("/health").status == 200; }));
}

TEST(EngineFailure, OfEveryStepEndsTheServer) {
  FakeServer fake;
  fake.executor->fail_from_step = 1;
  EXPECT_EQ(fake.server->client().post("/v1/completions", completion("abc", 5)).status, 500);
  EXPECT_EQ(fake.server->client().get("/health").status, 503);
  EXPECT_TRUE(eventually([&] { return fake.server->stopped.load(); }));
  EXPECT_NE(fake.server->error.find("the engine"), std::string::npos) << fake.server->error;
}

TEST(EngineFailure, OfOneRequestsLogitsIsItsOwn) {
  FakeServer fake;
  fake.executor->poison = {7};
  const auto with = [](std::vector<int> prompt) {
    return Json{{"model", kModelName}, {"prompt", std::move(prompt)}, {"max_tokens", 3}, {"ignore_eos", true}};
  };
  fake.executor->shut();
  HttpClient good = fake.server->client(), bad = fake.server->client();
  send_completion(good, with({5, 6}));
  send_completion(bad, with({5, 7}));
  ASSERT_TRUE(eventually([&] { return !fake.server->engine.idle(); }));
  fake.executor->open();
  const HttpReply reply = bad.read_reply();
  EXPECT_EQ(reply.status, 500);
  EXPECT_NE(reply.json()["error"]["message"].get<std::string>().find("not finite"), std::string::npos);
  EXPECT_EQ(good.read_reply().status, 200);
  EXPECT_EQ(fake.server->client().get("/health").status, 200);
  // Of two prompts one fails: nobody waits for the other, which would go on for 40 steps without a 7.
  Request other;
  other.prompt = {5, 6};
  other.max_tokens = 40;
  ASSERT_EQ(expected_reply(other, 331, {7}).finish, FinishReason::length);
  fake.executor->step_time = std::chrono::milliseconds(50);
  const Json two = {{"model", kModelName},
                    {"prompt", {{5, 6}, {5, 7}}},
                    {"max_tokens", 40},
                    {"ignore_eos", true},
                    {"temperature", 0}};
  EXPECT_EQ(fake.server->client().post("/v1/completions", two).status, 500);
  EXPECT_TRUE(eventually([&] { return all_free(fake.server->engine); }));
  EXPECT_EQ(fake.server->engine.stats().cancelled, 1);
}

}  // namespace
}  // namespace qg
