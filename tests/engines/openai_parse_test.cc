// Events, responses, streams, URLs and requests of the load client: bytes in, values out.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"
#include "engines/openai_request.h"
#include "engines/openai_response.h"
#include "engines/openai_sse.h"
#include "engines/openai_stream.h"

namespace qg {
namespace {

std::vector<std::string> events_of(std::string_view bytes, size_t step, size_t limit = 1 << 20) {
  SseParser parser(limit);
  std::vector<std::string> events;
  for (size_t at = 0; at < bytes.size(); at += step)
    parser.feed(bytes.substr(at, step), [&](std::string_view data) { events.emplace_back(data); });
  return events;
}

TEST(Sse, TheSameEventsWhereverTheyAreCut) {
  const std::string bytes =
      "\xef\xbb\xbf: a comment\ndata: one\n\ndata:two\r\n\r\nevent: x\rdata: thr\rdata: ee\r\r"
      "data\n\nid: 7\ndata:  four\n\n\n\ndata: cut off";
  const std::vector<std::string> wanted{"one", "two", "thr\nee", "", " four"};
  for (size_t step = 1; step <= bytes.size(); ++step)
    EXPECT_EQ(events_of(bytes, step), wanted) << "in steps of " << step;
}

TEST(Sse, GiantEventsAreRefusedBeforeTheyAreKept) {
  EXPECT_EQ(events_of("data: " + std::string(90, 'x') + "\n\n", 7, 100).size(), 1u);
  EXPECT_THROW(events_of("data: " + std::string(200, 'x'), 7, 100), Error);
  std::string many;
  for (int i = 0; i < 30; ++i) many += "data: xxxx\n";
  EXPECT_THROW(events_of(many, 7, 100), Error);
  EXPECT_THROW(events_of(": " + std::string(200, 'x'), 200, 100), Error);
}

std::string read_all(std::string_view bytes, size_t step, bool end, int* status = nullptr) {
  ResponseReader reader;
  std::string in, body;
  for (size_t at = 0; at < bytes.size() && !reader.done(); at += step) {
    in += bytes.substr(at, step);
    body += reader.feed(in);
  }
  if (end && !reader.done()) reader.feed_end();
  if (status && reader.has_header()) *status = reader.status();
  EXPECT_TRUE(reader.done());
  return body;
}

TEST(Response, ChunksLengthsAndEndsByClosing) {
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
  for (size_t step : {1, 2, 3, 7, 1000}) {
    int status = 0;
    EXPECT_EQ(
        read_all(head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", step, false, &status),
        "abcde");
    EXPECT_EQ(status, 200);
    EXPECT_EQ(read_all(head + "Content-Length: 4\r\n\r\nwxyz", step, false), "wxyz");
    EXPECT_EQ(read_all(head + "\r\nuntil the end", step, true), "until the end");
  }
}

TEST(Response, CutOffGarbageAndPromisesWithoutEnd) {
  const std::string head = "HTTP/1.1 200 OK\r\n";
  EXPECT_THROW(read_all(head + "Content-Length: 40\r\n\r\nwxyz", 5, true), Error);
  EXPECT_THROW(read_all(head + "Transfer-Encoding: chunked\r\n\r\n5\r\nab", 5, true), Error);
  EXPECT_THROW(read_all("SSH-2.0-OpenSSH_9.2\r\n\r\n", 100, true), Error);
  EXPECT_THROW(read_all(head + "X: " + std::string(100000, 'x'), 1000, true), Error);
  // A length that nobody has memory for is only a number.
  ResponseReader reader;
  std::string in = head + "Content-Length: 9000000000000000000\r\n\r\nab";
  EXPECT_EQ(reader.feed(in), "ab");
  EXPECT_FALSE(reader.done());
}

TEST(Stream, CountsPiecesAndTakesTheServersCount) {
  CompletionStream stream;
  EXPECT_EQ(stream.take(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})"), 0);
  EXPECT_EQ(stream.take(R"({"choices":[{"delta":{"content":"He"}}]})"), 1);
  EXPECT_EQ(stream.take(R"({"choices":[{"text":"llo","finish_reason":null}],"usage":null})"), 1);
  EXPECT_FALSE(stream.finished());
  EXPECT_EQ(stream.take(R"({"choices":[{"text":"","finish_reason":"length"}]})"), 0);
  EXPECT_TRUE(stream.finished());
  EXPECT_EQ(stream.take(R"({"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}})"), 0);
  EXPECT_EQ(stream.take("[DONE]"), 0);
  EXPECT_TRUE(stream.done());
  EXPECT_EQ(stream.counted(), 2);
  EXPECT_EQ(stream.completion_tokens(), 3);
  EXPECT_EQ(stream.prompt_tokens(), 5);
  EXPECT_THROW(stream.take("{}"), Error);
}

TEST(Stream, ARunningCountIsBelievedOverPieces) {
  CompletionStream stream;
  EXPECT_EQ(stream.take(R"({"choices":[{"text":"a"}],"usage":{"prompt_tokens":5,"completion_tokens":1}})"), 1);
  EXPECT_EQ(stream.take(R"({"choices":[{"text":""}],"usage":{"prompt_tokens":5,"completion_tokens":2}})"), 1);
  EXPECT_EQ(stream.take(R"({"choices":[{"text":"bcd"}],"usage":{"prompt_tokens":5,"completion_tokens":5}})"), 3);
  EXPECT_EQ(stream.counted(), 5);
  EXPECT_THROW(stream.take(R"({"choices":[{"text":"x"}],"usage":{"completion_tokens":4}})"), Error);
}

TEST(Stream, ErrorsAndGarbageSayWhatWasThere) {
  const auto problem = [](const char* data) {
    CompletionStream stream;
    try {
      stream.take(data);
    } catch (const Error& e) {
      return e.problem();
    }
    return std::string();
  };
  EXPECT_EQ(problem(R"({"error":{"message":"CUDA out of memory","code":500}})"),
            "the server reports: CUDA out of memory");
  EXPECT_EQ(problem(R"({"object":"error","message":"no"})"), "the server reports: no");
  EXPECT_NE(problem("<html>\x01").find("no JSON object: <html>"), std::string::npos);
  EXPECT_NE(problem("[1]"), "");
  EXPECT_NE(problem(R"({"choices":7})"), "");
  EXPECT_NE(problem(R"({"choices":[7]})"), "");
  EXPECT_NE(problem(R"({"choices":[{"text":7}]})"), "");
  EXPECT_NE(problem(R"({"choices":[],"usage":{"completion_tokens":-1}})"), "");
  EXPECT_NE(problem(R"({"choices":[],"usage":{"completion_tokens":1e30}})"), "");
  EXPECT_EQ(problem("{}"), "");
}

TEST(Stream, ReasonsOfRefusals) {
  EXPECT_EQ(error_message(R"({"error":{"message":"too\nmany"}})"), "too many");
  EXPECT_EQ(error_message(R"({"detail":"Not Found"})"), "Not Found");
  EXPECT_EQ(error_message(R"({"detail":[{"loc":["body","prompt"]}]})"), R"([{"loc":["body","prompt"]}])");
  EXPECT_EQ(error_message(R"({"error":"no"})"), "no");
  EXPECT_EQ(error_message(""), "an empty body");
  EXPECT_EQ(error_message("<h1>Bad\tGateway</h1>"), "<h1>Bad Gateway</h1>");
  EXPECT_LE(error_message(std::string(100000, 'x')).size(), 300u);
  EXPECT_EQ(error_message("\xff\xfe!"), "\xef\xbf\xbd\xef\xbf\xbd!");
}

TEST(Request, BaseUrls) {
  const BaseUrl plain = parse_base_url("http://127.0.0.1:8000");
  EXPECT_EQ(plain.host + "|" + plain.port + "|" + plain.prefix, "127.0.0.1|8000|");
  EXPECT_EQ(parse_base_url("http://localhost:80/v1/").prefix, "");
  EXPECT_EQ(parse_base_url("http://gpu-7/openai/v1").prefix, "/openai");
  EXPECT_EQ(parse_base_url("http://gpu-7/openai").port, "80");
  EXPECT_EQ(parse_base_url("http://[::1]:9").authority(), "[::1]:9");
  for (const char* wrong : {"", "127.0.0.1:8000", "https://x", "http://", "http://:80", "http://x:0", "http://x:99999",
                            "http://x:8a", "http://x y", "http://u:p@x", "http://x/?q", "http://[::1"})
    EXPECT_THROW(parse_base_url(wrong), Error) << wrong;
}

TEST(Request, BodiesAreJsonWithWhatTheDialectHas) {
  RequestDialect dialect;
  dialect.model = "a \"model\"";
  const std::vector<int32_t> ids{5, 70000, 0};
  Json body = parse_json(request_body(dialect, ids, "", 9), "body");
  EXPECT_EQ(
      body.dump(),
      R"({"model":"a \"model\"","prompt":[5,70000,0],"max_tokens":9,"temperature":0,"stream":true,"ignore_eos":true,)"
      R"("min_tokens":9,"stream_options":{"include_usage":true,"continuous_usage_stats":true}})");
  dialect.token_prompts = dialect.ignore_eos = dialect.min_tokens = dialect.running_usage = false;
  body = parse_json(request_body(dialect, ids, "say \"hi\"\n", 9), "body");
  EXPECT_EQ(body["prompt"], "say \"hi\"\n");
  EXPECT_FALSE(body.contains("ignore_eos"));
  EXPECT_EQ(body["stream_options"].dump(), R"({"include_usage":true})");
  dialect.chat = true;
  dialect.include_usage = false;
  body = parse_json(request_body(dialect, ids, "hi", 9), "body");
  EXPECT_EQ(body["messages"][0]["content"], "hi");
  EXPECT_FALSE(body.contains("stream_options"));
  EXPECT_FALSE(body.contains("prompt"));
}

TEST(Request, WhatIsRefusedIsLeftOutOnce) {
  RequestDialect dialect;
  EXPECT_EQ(leave_out_refused(dialect, "min_tokens: an end-of-text token"), "min_tokens");
  EXPECT_FALSE(dialect.min_tokens);
  EXPECT_TRUE(dialect.ignore_eos);
  EXPECT_EQ(leave_out_refused(dialect, "Extra inputs are not permitted"), "continuous_usage_stats");
  EXPECT_TRUE(dialect.include_usage);
  EXPECT_EQ(leave_out_refused(dialect, "stream_options is unknown"), "stream_options");
  EXPECT_EQ(leave_out_refused(dialect, "prompt should be a valid string"), "");
  EXPECT_EQ(leave_out_refused(dialect, "bad"), "ignore_eos");
  EXPECT_EQ(leave_out_refused(dialect, "bad"), "");
}

TEST(Request, HttpHeadsCarryHostAndKey) {
  const BaseUrl base = parse_base_url("http://h:1/p");
  const std::string text = http_request(base, "POST", "/v1/completions", "secret", "{}");
  EXPECT_EQ(text,
            "POST /p/v1/completions HTTP/1.1\r\nHost: h:1\r\nUser-Agent: quantgrid\r\nAuthorization: Bearer secret\r\n"
            "Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(http_request(base, "GET", "/version", "", ""),
            "GET /p/version HTTP/1.1\r\nHost: h:1\r\nUser-Agent: quantgrid\r\n\r\n");
}

}  // namespace
}  // namespace qg
