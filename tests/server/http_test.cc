// Bytes to requests, keys, hosts, and the text of /metrics.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "server/api_error.h"
#include "server/api_key.h"
#include "server/http_reader.h"
#include "server/metrics.h"

namespace qg {
namespace {

// Feeds `bytes` in parts; the status of the refusal, 200 for a whole request, 0 for one that is not whole yet.
int fed(const std::string& bytes, size_t step, const HttpLimits& limits = {}, HttpRequest* request = nullptr,
        std::string* left = nullptr) {
  HttpReader reader(limits);
  std::string in;
  try {
    for (size_t at = 0; at < bytes.size(); at += step) {
      in += bytes.substr(at, step);
      if (!reader.feed(in)) continue;
      if (left) *left = in + bytes.substr(std::min(bytes.size(), at + step));
      if (request) *request = reader.take();
      return 200;
    }
  } catch (const ApiError& e) {
    return e.status;
  }
  return 0;
}

TEST(HttpReader, TakesRequestsInPartsOfAnySize) {
  const std::string one =
      "POST /v1/completions?x=1 HTTP/1.1\r\nHost: localhost:1\r\nAuthorization: Bearer k\r\nContent-Type: "
      "application/json\r\nContent-Length: 5\r\n\r\nhello";
  const std::string two =
      "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
  for (size_t step = 1; step < one.size() + 4; ++step) {
    HttpRequest request;
    std::string left;
    ASSERT_EQ(fed(one + "GET /", step, {}, &request, &left), 200) << step;
    EXPECT_EQ(request.method, "POST");
    EXPECT_EQ(request.path, "/v1/completions");
    EXPECT_EQ(request.host, "localhost:1");
    EXPECT_EQ(request.authorization, "Bearer k");
    EXPECT_EQ(request.content_type, "application/json");
    EXPECT_EQ(request.body, "hello");
    EXPECT_TRUE(request.keep_alive);
    EXPECT_EQ(left, "GET /") << "the next request's bytes";
    ASSERT_EQ(fed(two, step, {}, &request), 200) << step;
    EXPECT_EQ(request.body, "hello");
  }
  HttpRequest old;
  ASSERT_EQ(fed("GET / HTTP/1.0\r\n\r\n", 100, {}, &old), 200);
  EXPECT_FALSE(old.keep_alive);
  EXPECT_TRUE(old.http_1_0);
}

// RFC 9112, 3.2.2: as a proxy would send it; what it says of the host counts, and not the header.
TEST(HttpReader, TakesTargetsThatNameTheHost) {
  const auto heard = [](const std::string& target, const std::string& host = "other") {
    HttpRequest request;
    const int status = fed("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n", 7, {}, &request);
    return std::to_string(status) + " " + request.host + " " + request.path;
  };
  EXPECT_EQ(heard("http://localhost:8000/v1/models"), "200 localhost:8000 /v1/models");
  EXPECT_EQ(heard("http://localhost:8000/v1/models?a=http://b/c"), "200 localhost:8000 /v1/models");
  EXPECT_EQ(heard("HTTPS://[::1]:8000/v1/models#a"), "200 [::1]:8000 /v1/models");
  EXPECT_EQ(heard("http://localhost"), "200 localhost /");
  EXPECT_EQ(heard("http://localhost?a/b"), "200 localhost /");
  EXPECT_EQ(heard("http://localhost//v1"), "200 localhost //v1");
  EXPECT_EQ(heard("/http://localhost/v1?x", "h"), "200 h /http://localhost/v1");
  EXPECT_EQ(heard("/", "h"), "200 h /");
  EXPECT_EQ(heard("*", "h"), "200 h *");
  for (const char* other : {"ftp://localhost/v1", "http:/v1", "http:", "localhost:8000"})
    EXPECT_EQ(heard(other, "h"), "200 h " + std::string(other)) << "no path of ours";
  for (const char* nowhere : {"http://", "http:///v1", "http://?a", "https://:8000/v1", "http://user@localhost/v1",
                              "http://localhost:80@evil.example/v1"})
    EXPECT_EQ(heard(nowhere).substr(0, 3), "400") << nowhere;
  EXPECT_EQ(heard("http://" + std::string(20000, 'a')).substr(0, 3), "431");
}

TEST(HttpReader, RefusesWhatIsTooLongOrNotHttp) {
  HttpLimits limits;
  limits.max_header_bytes = 512;
  limits.max_body_bytes = 100;
  const auto post = [](const std::string& more) { return "POST / HTTP/1.1\r\nHost: h\r\n" + more; };
  for (const size_t step : {1u, 7u, 10000u}) {
    EXPECT_EQ(fed(post("X: " + std::string(600, 'a') + "\r\n\r\n"), step, limits), 431) << step;
    EXPECT_EQ(fed(std::string(600, 'A'), step, limits) / 100, 4) << step;
    EXPECT_EQ(fed(post("Content-Length: 101\r\n\r\n"), step, limits), 413) << step;
    EXPECT_EQ(fed(post("Content-Length: 100\r\n\r\n") + std::string(100, 'x'), step, limits), 200) << step;
    EXPECT_EQ(fed(post("Transfer-Encoding: chunked\r\n\r\n65\r\n") + std::string(0x65, 'x'), step, limits), 413)
        << step;
    EXPECT_EQ(fed(post("Content-Length: -1\r\n\r\n"), step, limits), 400) << step;
    EXPECT_EQ(fed(post("Content-Length: 99999999999999999999999\r\n\r\n"), step, limits), 400) << step;
    EXPECT_EQ(fed(post("Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), step, limits), 400) << step;
    EXPECT_EQ(fed(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), step, limits), 400) << step;
    EXPECT_EQ(fed(post("Transfer-Encoding: gzip, chunked\r\n\r\n"), step, limits), 400) << step;
    EXPECT_EQ(fed(post("Transfer-Encoding: chunked\r\n\r\nzz\r\n"), step, limits), 400) << step;
    EXPECT_EQ(fed("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + std::string(20, '\0'), step, limits), 400) << step;
    EXPECT_EQ(fed("GET / HTTP/2.0\r\n\r\n", step, limits), 400) << step;
  }
  EXPECT_EQ(fed("GET / HTTP/1.1\r\nHost", 5), 0);
}

TEST(HttpReader, KnowsWhoWaitsForContinue) {
  HttpReader reader({});
  std::string in = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
  EXPECT_FALSE(reader.feed(in));
  EXPECT_TRUE(reader.has_header());
  EXPECT_TRUE(reader.wants_continue());
  in = "ok";
  EXPECT_TRUE(reader.feed(in));
}

TEST(ApiKey, OnlyTheWholeKeyOpens) {
  EXPECT_TRUE(has_api_key("Bearer secret", "secret"));
  EXPECT_TRUE(has_api_key("bearer  secret", "secret"));
  for (const char* wrong : {"", "secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Bearer Secret",
                            "Basic secret", "Bearer  secret ", "Bearersecret"})
    EXPECT_FALSE(has_api_key(wrong, "secret")) << wrong;
}

TEST(LocalHost, OtherNamesAreRefused) {
  for (const char* local :
       {"localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "[::1]", "", "box.localhost:1"})
    EXPECT_TRUE(is_local_host(local, {})) << local;
  for (const char* other : {"example.com", "example.com:8000", "127.0.0.1.example.com", "localhost.example.com",
                            "[::2]", "10.0.0.1", "evil-localhost"})
    EXPECT_FALSE(is_local_host(other, {})) << other;
  EXPECT_TRUE(is_local_host("Box.lan:8000", {"box.lan"}));
}

TEST(Metrics, HistogramsAreCumulative) {
  Histogram histogram({.1, 1});
  for (const double value : {.05, .1, .5, 1.5, 100.}) histogram.observe(value);
  EXPECT_EQ(histogram.text("h_seconds", "What."),
            "# HELP h_seconds What.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"0.1\"} 2\n"
            "h_seconds_bucket{le=\"1\"} 3\nh_seconds_bucket{le=\"+Inf\"} 5\nh_seconds_sum 102.15\nh_seconds_count 5\n");
}

TEST(Metrics, SpeedAndShareComeFromTheLastSeconds) {
  SpeedWindow speed;
  const EngineClock::time_point start{};
  EngineStats stats;
  EXPECT_EQ(speed.output_tok_s(), 0);
  const RooflineTokensPerSecond roofline = [](double batch, double context) -> std::optional<double> {
    EXPECT_EQ(context, 100);
    return batch * 50;
  };
  for (int second = 0; second <= 30; ++second) {
    speed.sample(start + std::chrono::seconds(second), stats, second * .5);
    // Slow at first: only the last ten seconds count.
    stats.decode_tokens += second < 20 ? 1 : 40;
    stats.steps += 10;
    stats.batch_sum += 40;
  }
  EXPECT_NEAR(speed.output_tok_s(), 40, 1e-9);
  EXPECT_NEAR(speed.mean_batch(), 4, 1e-9);
  EXPECT_NEAR(*speed.roofline_share(roofline, 100), 40 / .5 / 200, 1e-9);
  EXPECT_FALSE(speed.roofline_share({}, 100));
}

TEST(Metrics, TextIsWhatPrometheusReads) {
  ServerMetrics metrics;
  metrics.http_requests[{"/v1/completions", 200}] = 3;
  metrics.finished["stop"] = 2;
  metrics.time_to_first_token.observe(.01);
  EngineView view;
  view.stats.waiting = 4;
  view.stats.pages_used = 7;
  view.model = "a\"b\\c\nd";
  view.kv = "fp8";
  const std::string text = metrics_text(metrics, view, {});
  std::istringstream lines(text);
  std::set<std::string> declared, seen;
  for (std::string line; std::getline(lines, line);) {
    ASSERT_FALSE(line.empty());
    if (line.starts_with("# TYPE ")) {
      const std::string name = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_TRUE(declared.insert(name).second) << name << " twice";
      continue;
    }
    if (line.starts_with("#")) continue;
    EXPECT_TRUE(seen.insert(line.substr(0, line.rfind(' '))).second) << line << " twice";
    EXPECT_NE(line.substr(line.rfind(' ') + 1).find_first_of("0123456789"), std::string::npos) << line;
  }
  for (const char* part :
       {"quantgrid_http_requests_total{path=\"/v1/completions\",code=\"200\"} 3\n", "quantgrid_requests_waiting 4\n",
        "quantgrid_kv_pages_used 7\n", "quantgrid_choices_finished_total{reason=\"stop\"} 2\n",
        "model=\"a\\\"b\\\\c\\nd\",kv=\"fp8\"", "quantgrid_time_to_first_token_seconds_count 1\n",
        "quantgrid_time_per_output_token_seconds_bucket{le=\"+Inf\"} 0\n", "quantgrid_output_tokens_per_second 0\n"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  EXPECT_EQ(text.find("roofline"), std::string::npos) << "not known, so not shown";
  const std::string with = metrics_text(metrics, view, [](double, double) { return 100.0; });
  EXPECT_EQ(with.find("roofline"), std::string::npos) << "nothing ran";
}

}  // namespace
}  // namespace qg
