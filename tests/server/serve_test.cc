// A golden model behind the server, asked through real sockets: what it answers must be what the engine says.
#include <gtest/gtest.h>

#include <algorithm>

#include "server/token_logprobs.h"
#include "tests/server/running_server.h"
#include "tokenizer/chat.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

// The engine alone, without a server: the tokens of a reply, and its text.
std::vector<int32_t> engine_tokens(const std::string& prompt, int64_t max_tokens, bool ignore_eos = false,
                                   SamplingParams how = {}) {
  const Tokenizer tokenizer = chatting_tokenizer();
  Engine engine(golden_executor(), {});
  Request request;
  request.prompt = tokenizer.encode(prompt, true);
  request.max_tokens = max_tokens;
  request.stop_tokens = tokenizer.eos();
  request.ignore_stop = ignore_eos;
  request.sampling = how;
  engine.add(request);
  std::vector<int32_t> tokens;
  while (!engine.idle())
    engine.step([&](const TokenEvent& event) {
      if (event.token >= 0 && event.finish != FinishReason::stop) tokens.push_back(event.token);
    });
  return tokens;
}

std::string engine_text(const std::string& prompt, int64_t max_tokens, bool ignore_eos = false,
                        SamplingParams how = {}) {
  return chatting_tokenizer().decode(engine_tokens(prompt, max_tokens, ignore_eos, how));
}

class Serve : public testing::Test {
 protected:
  std::unique_ptr<RunningServer> server = golden_server();
  HttpReply complete(const Json& body) { return server->client().post("/v1/completions", body); }
  HttpReply chat(Json more = Json::object()) {
    Json body{{"model", kModelName},
              {"messages", {{{"role", "user"}, {"content", "hello"}}}},
              {"temperature", 0},
              {"max_tokens", 12}};
    body.update(more);
    return server->client().post("/v1/chat/completions", body);
  }
};

TEST_F(Serve, CompletionIsTheEnginesReply) {
  const HttpReply reply = complete(completion("the quick", 20));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json json = reply.json();
  EXPECT_EQ(json["choices"][0]["text"], engine_text("the quick", 20));
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["model"], kModelName);
  EXPECT_EQ(json["choices"].size(), 1u);
  EXPECT_EQ(json["usage"]["prompt_tokens"], chatting_tokenizer().encode("the quick", true).size());
  EXPECT_EQ(json["usage"]["total_tokens"],
            json["usage"]["prompt_tokens"].get<int>() + json["usage"]["completion_tokens"].get<int>());
}

// With a running count each token is an event, also one whose text is held back: so clients know when tokens came.
TEST(ServeWithoutModel, ARunningCountShowsEachToken) {
  FakeServer fake;  // its tokens are drawn from the whole vocabulary: some have no text
  const HttpReply reply = fake.server->client().post(
      "/v1/completions", completion("the quick", 1000,
                                    {{"stream", true},
                                     {"ignore_eos", true},
                                     {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}}));
  ASSERT_EQ(reply.status, 200);
  int64_t tokens = 0, without_text = 0;
  for (const Json& event : sse_events(reply.body)) {
    if (event["choices"].empty()) continue;
    ASSERT_EQ(event["usage"]["completion_tokens"], ++tokens);
    without_text += event["choices"][0]["text"] == "" && event["choices"][0]["finish_reason"].is_null();
  }
  EXPECT_EQ(tokens, 1000);
  EXPECT_GT(without_text, 0) << "no token without text was met, so nothing was tested";
}

TEST_F(Serve, StreamIsTheSameText) {
  const HttpReply reply =
      complete(completion("the quick", 20, {{"stream", true}, {"stream_options", {{"include_usage", true}}}}));
  ASSERT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.whole);
  EXPECT_TRUE(reply.headers.at("content-type").starts_with("text/event-stream"));
  const std::vector<Json> events = sse_events(reply.body);
  EXPECT_EQ(streamed_text(events), engine_text("the quick", 20));
  EXPECT_GT(events.size(), 10u) << "it came at once, not token by token";
  EXPECT_EQ(events.back()["usage"]["completion_tokens"],
            complete(completion("the quick", 20)).json()["usage"]["completion_tokens"]);
  EXPECT_TRUE(events.back()["choices"].empty());
  int ends = 0;
  for (const Json& event : events) {
    EXPECT_EQ(event["id"], events.front()["id"]);
    for (const Json& choice : event["choices"]) ends += !choice["finish_reason"].is_null();
  }
  EXPECT_EQ(ends, 1);
  const std::vector<Json> without = sse_events(complete(completion("a", 3, {{"stream", true}})).body);
  for (const Json& event : without) EXPECT_FALSE(event.contains("usage"));
}

TEST_F(Serve, ChatUsesTheTemplate) {
  const Tokenizer tokenizer = chatting_tokenizer();
  const HttpReply reply = chat();
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json choice = reply.json()["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  const Json ids(tokenizer.encode(render_chat(tokenizer, std::vector<ChatMessage>{{"user", "hello"}}, true), false));
  const Json same = complete({{"model", kModelName}, {"prompt", ids}, {"max_tokens", 12}, {"temperature", 0}}).json();
  EXPECT_EQ(choice["message"]["content"], same["choices"][0]["text"]);
  EXPECT_EQ(choice["finish_reason"], same["choices"][0]["finish_reason"]);
  const std::vector<Json> events = sse_events(chat({{"stream", true}}).body);
  EXPECT_EQ(choice["message"]["content"], streamed_text(events));
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_FALSE(events[1]["choices"][0]["delta"].contains("role"));
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
}

TEST_F(Serve, SeveralPromptsAndChoices) {
  const Json json = complete({{"model", kModelName},
                              {"prompt", {"abc", "xyz"}},
                              {"n", 3},
                              {"max_tokens", 10},
                              {"temperature", 1},
                              {"seed", 5},
                              {"ignore_eos", true}})
                        .json();
  ASSERT_EQ(json["choices"].size(), 6u) << json.dump();
  SamplingParams how;
  how.temperature = 1;
  for (int i = 0; i < 6; ++i) {
    how.seed = static_cast<uint64_t>(5 + i % 3);
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["text"], engine_text(i < 3 ? "abc" : "xyz", 10, true, how)) << i;
  }
  EXPECT_NE(json["choices"][0]["text"], json["choices"][1]["text"]);
  EXPECT_EQ(json["usage"]["completion_tokens"], 60);
}

TEST_F(Serve, SeedsRepeatAndTheirAbsenceDoesNot) {
  const Json how = {{"temperature", 1}, {"ignore_eos", true}};
  Json seeded = how;
  seeded["seed"] = -7;
  EXPECT_EQ(complete(completion("x", 30, seeded)).json()["choices"],
            complete(completion("x", 30, seeded)).json()["choices"]);
  EXPECT_NE(complete(completion("x", 30, how)).json()["choices"], complete(completion("x", 30, how)).json()["choices"]);
}

TEST_F(Serve, StopStringsEndTheText) {
  const std::string text = engine_text("the quick", 30, true);
  // Three characters of it that span tokens, from the eighth on.
  std::vector<size_t> places;
  for (size_t at = 0; at < text.size(); at += code_point_at(text, at).bytes) places.push_back(at);
  ASSERT_GT(places.size(), 12u);
  const std::string stop = text.substr(places[7], places[10] - places[7]);
  const size_t at = text.find(stop);
  const Json how = {{"ignore_eos", true}, {"stop", {"never", stop}}};
  const Json json = complete(completion("the quick", 30, how)).json();
  EXPECT_EQ(json["choices"][0]["text"], text.substr(0, at));
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_LT(json["usage"]["completion_tokens"], 30);
  Json streamed = how;
  streamed["stream"] = true;
  EXPECT_EQ(streamed_text(sse_events(complete(completion("the quick", 30, streamed)).body)), text.substr(0, at));
  Json kept = how;
  kept["include_stop_str_in_output"] = true;
  EXPECT_EQ(complete(completion("the quick", 30, kept)).json()["choices"][0]["text"], text.substr(0, at) + stop);
  // The engine is told, and does not go on to the last token.
  ASSERT_TRUE(eventually([&] { return all_free(server->engine); }));
  const int64_t cancelled = server->engine.stats().cancelled;
  complete(completion("the quick", 240, how));
  EXPECT_TRUE(eventually([&] { return server->engine.stats().cancelled == cancelled + 1; }, 3));
  EXPECT_TRUE(eventually([&] { return all_free(server->engine); })) << "what was stopped still runs";
}

TEST_F(Serve, StopTokensEndTheText) {
  const std::vector<int32_t> tokens = engine_tokens("the quick", 20);
  const auto first = std::ranges::find(tokens, tokens.at(4)) - tokens.begin();
  const Json cut = complete(completion("the quick", 20, {{"stop_token_ids", {tokens[4]}}})).json();
  EXPECT_EQ(cut["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(cut["usage"]["completion_tokens"], first + 1);
  EXPECT_EQ(cut["choices"][0]["text"],
            chatting_tokenizer().decode(std::span<const int32_t>(tokens).first(static_cast<size_t>(first))));
}

// Log-probabilities of a prompt against rows computed without engine or server.
TEST_F(Serve, EchoedLogprobsAreTheModels) {
  const Tokenizer tokenizer = chatting_tokenizer();
  const std::vector<int32_t> prompt = tokenizer.encode("some words to score, héllo", true);
  const auto executor = golden_executor();
  std::vector<int32_t> pages(static_cast<size_t>(executor->num_pages()));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
  SequencePiece piece;
  piece.num_tokens = static_cast<int64_t>(prompt.size());
  piece.pages = std::span<const int32_t>(pages).first((prompt.size() + 7) / 8);
  piece.sample = true;
  StepOutput output;
  executor->step({prompt, {&piece, 1}, LogitsWanted::all}, output);
  const size_t vocab = output.logits.size() / prompt.size();

  for (const int max_tokens : {0, 2})
    for (const bool stream : {false, true}) {
      Json body{{"model", kModelName}, {"prompt", prompt}, {"max_tokens", max_tokens}, {"temperature", 0},
                {"logprobs", 2},       {"echo", true},     {"stream", stream}};
      const HttpReply reply = complete(body);
      ASSERT_EQ(reply.status, 200) << reply.body;
      Json logprobs{{"tokens", Json::array()}, {"token_logprobs", Json::array()}, {"top_logprobs", Json::array()}};
      std::string text;
      for (const Json& event : stream ? sse_events(reply.body) : std::vector<Json>{reply.json()}) {
        text += event["choices"][0]["text"].get<std::string>();
        for (auto& [key, list] : logprobs.items())
          for (const Json& item : event["choices"][0]["logprobs"][key]) list.push_back(item);
      }
      ASSERT_EQ(logprobs["token_logprobs"].size(), prompt.size() + max_tokens);
      EXPECT_TRUE(text.starts_with("some words to score, héllo"));
      EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
      for (size_t i = 1; i < prompt.size(); ++i) {
        const auto row = std::span<const float>(output.logits).subspan((i - 1) * vocab, vocab);
        const TokenLogprobs want = token_logprobs(row, prompt[i], 2);
        EXPECT_NEAR(logprobs["token_logprobs"][i].get<double>(), want.chosen, 1e-5) << i;
        EXPECT_NEAR(logprobs["top_logprobs"][i][tokenizer.decode({&want.top[0].first, 1}, false)].get<double>(),
                    want.top[0].second, 1e-5);
        EXPECT_GE(logprobs["top_logprobs"][i].size(), 2u);
      }
    }
}

TEST_F(Serve, ChatLogprobs) {
  const Json content = chat({{"logprobs", true}, {"top_logprobs", 3}}).json()["choices"][0]["logprobs"]["content"];
  ASSERT_GT(content.size(), 3u);
  for (const Json& token : content) {
    ASSERT_EQ(token["top_logprobs"].size(), 3u);
    EXPECT_EQ(token["top_logprobs"][0]["logprob"], token["logprob"]) << "greedy, so it is the likeliest";
    EXPECT_LE(token["logprob"], 0.);
    std::string bytes;
    for (const Json& byte : token["bytes"]) bytes += static_cast<char>(byte.get<int>());
    EXPECT_EQ(token["token"], repaired_utf8(bytes));
  }
  EXPECT_TRUE(chat({{"logprobs", true}}).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"].empty());
}

TEST_F(Serve, ManyStreamsAtOnceAreWhatEachWouldBeAlone) {
  constexpr int kStreams = 32;
  std::vector<std::string> prompts;
  std::vector<HttpClient> clients;
  for (int i = 0; i < kStreams; ++i) {
    prompts.push_back(i % 4 == 0 ? "the same beginning " + std::to_string(i % 3) : "words " + std::to_string(i * 77));
    clients.push_back(server->client());
    clients.back().send_bytes(HttpClient::post_text(
        "/v1/completions", completion(prompts.back(), 24 + i % 9, {{"stream", true}, {"ignore_eos", true}}).dump()));
  }
  for (int i = 0; i < kStreams; ++i) {
    const HttpReply reply = clients[static_cast<size_t>(i)].read_reply();
    ASSERT_EQ(reply.status, 200);
    EXPECT_EQ(streamed_text(sse_events(reply.body)), engine_text(prompts[static_cast<size_t>(i)], 24 + i % 9, true))
        << i;
  }
  const EngineStats stats = server->engine.stats();
  EXPECT_GT(stats.batch_sum, 4 * stats.steps) << "they did not run together";
  EXPECT_TRUE(eventually([&] { return all_free(server->engine); }));
}

TEST_F(Serve, SmallPaths) {
  HttpClient client = server->client();
  EXPECT_EQ(client.get("/health").json()["status"], "ok");
  EXPECT_TRUE(client.get("/version").json().contains("commit"));
  EXPECT_EQ(client.get("/v1/models").json()["data"][0]["id"], kModelName);
  EXPECT_EQ(client.get("/v1/models/tiny").json()["id"], kModelName);
  EXPECT_EQ(client.get("/v1/models/huge").status, 404);
  EXPECT_EQ(client.get("/v1/models/%74in%79").json()["id"], kModelName);
  EXPECT_EQ(client.get("/v1/models/tin%7").status, 404);
  EXPECT_EQ(client.get("/openapi.json").json()["openapi"], "3.1.0");
  EXPECT_TRUE(client.get("/").headers.at("content-type").starts_with("text/html"));
  EXPECT_EQ(client.get("/nowhere").status, 404);
  EXPECT_EQ(client.get("/nowhere").json()["error"]["code"], "unknown_path");
  EXPECT_EQ(client.get("/v1/completions").status, 405);
  EXPECT_EQ(client.get("/v1/completions").headers.at("allow"), "POST");
  EXPECT_EQ(client.post("/health", Json::object()).status, 405);
  client.send_bytes("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(client.read_reply(true).status, 200);
  client.send_bytes(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(client.read_reply().status, 415);
  complete(completion("abc", 5));
  const std::string metrics = client.get("/metrics").body;
  EXPECT_NE(metrics.find("quantgrid_generation_tokens_total 5\n"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("quantgrid_time_to_first_token_seconds_count 1\n"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("quantgrid_http_requests_total{path=\"/v1/completions\",code=\"405\"} 2\n"),
            std::string::npos);
}

TEST_F(Serve, ErrorsLeaveTheConnectionUsable) {
  HttpClient client = server->client();
  EXPECT_EQ(client.post("/v1/completions", {{"model", kModelName}}).json()["error"]["param"], "prompt");
  const HttpReply wrong = client.post("/v1/completions", completion("x", 100000));
  EXPECT_EQ(wrong.status, 400);
  EXPECT_EQ(wrong.json()["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(client.post("/v1/completions", {{"model", "gpt-4"}, {"prompt", "x"}}).status, 404);
  EXPECT_EQ(client.post("/v1/completions", completion("the quick", 4)).json()["choices"][0]["text"],
            engine_text("the quick", 4));
  client.send_bytes("POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
                    std::to_string(completion("a", 3, {{"stream", true}}).dump().size()) + "\r\n\r\n" +
                    completion("a", 3, {{"stream", true}}).dump());
  const HttpReply old = client.read_reply();
  EXPECT_FALSE(old.headers.contains("transfer-encoding")) << "HTTP/1.0 knows no chunks";
  EXPECT_EQ(streamed_text(sse_events(old.body)), engine_text("a", 3));
}

}  // namespace
}  // namespace qg
