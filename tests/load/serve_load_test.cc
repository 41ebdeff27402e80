// The server under load, from one thread that holds every client: each reply is checked against the engine alone (the
// CPU executor's results depend on nothing else that runs), memory must stay flat, and no page may stay in use.
// QG_LOAD_SECONDS: how long the clients keep asking (180).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>

#include "core/memory.h"
#include "core/rng.h"
#include "tests/server/running_server.h"

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;
const std::filesystem::path kSmolLm2 = std::filesystem::path(QG_SOURCE_DIR) / "models/smollm2-135m-instruct";

constexpr int64_t kPages = 640;  // few enough that all of them have been written to early on: then memory is flat

double load_seconds() {
  const char* text = std::getenv("QG_LOAD_SECONDS");
  return text ? std::atof(text) : 180;
}

struct Question {
  std::string request;  // bytes of HTTP
  bool stream = true;
  std::string expected;
};

// Different prompts, some with the same beginning, and their greedy replies by an engine without a server.
std::vector<Question> make_questions(const std::filesystem::path& model, int count, int64_t most_tokens) {
  const Tokenizer tokenizer = Tokenizer::from_folder(model);
  Engine engine(golden_executor(kPages, model), {});
  std::vector<Question> questions(static_cast<size_t>(count));
  std::vector<StreamDecoder> decoders;
  std::map<RequestId, size_t> number_of;
  Rng rng(1);
  for (size_t i = 0; i < questions.size(); ++i) {
    std::string prompt = rng.next_below(3) == 0 ? "It was the same beginning as that of many others: " : "";
    for (uint64_t words = 1 + rng.next_below(12); words > 0; --words)
      prompt += "word" + std::to_string(rng.next_below(1000)) + " ";
    Request request;
    request.prompt = tokenizer.encode(prompt, true);
    request.max_tokens = 1 + static_cast<int64_t>(rng.next_below(static_cast<uint64_t>(most_tokens)));
    request.stop_tokens = tokenizer.eos();
    questions[i].stream = rng.next_below(5) > 0;
    const Json body{{"model", kModelName},
                    {"prompt", prompt},
                    {"max_tokens", request.max_tokens},
                    {"temperature", 0},
                    {"stream", questions[i].stream}};
    questions[i].request = HttpClient::post_text("/v1/completions", body.dump());
    decoders.emplace_back(tokenizer);
    number_of[engine.add(std::move(request))] = i;
  }
  while (!engine.idle())
    engine.step([&](const TokenEvent& event) {
      const size_t i = number_of.at(event.request);
      if (event.token >= 0 && event.finish != FinishReason::stop)
        questions[i].expected += decoders[i].push(event.token);
      if (event.finish != FinishReason::none) questions[i].expected += decoders[i].finish();
    });
  return questions;
}

// One of many clients of one thread: asks, collects what comes, says when the reply is whole.
class PolledClient {
 public:
  explicit PolledClient(uint16_t port) : port_(port) {}

  void ask(const Question& question) {
    question_ = &question;
    if (!client_) {
      client_.emplace(port_);
      ASSERT_TRUE(client_->connected());
      fcntl(client_->fd(), F_SETFL, O_NONBLOCK);
    }
    ASSERT_TRUE(client_->send_bytes(question.request));  // short: the socket's buffer takes it
  }
  bool asking() const { return question_ != nullptr; }
  int fd() const { return client_ ? client_->fd() : -1; }
  size_t received() const { return in_.size(); }

  // Takes what has come; true when the reply is whole, and checked.
  bool take() {
    char buffer[16384];
    const ssize_t got = recv(client_->fd(), buffer, sizeof buffer, 0);
    if (got <= 0) {
      ADD_FAILURE() << "the server closed in the middle of a reply: " << in_;
      leave(false);
      return true;
    }
    in_.append(buffer, static_cast<size_t>(got));
    if (!whole()) return false;
    check();
    in_.clear();
    question_ = nullptr;
    return true;
  }

  void leave(bool abrupt) {
    abrupt ? client_->reset() : client_->close_now();
    client_.reset();
    in_.clear();
    question_ = nullptr;
  }

 private:
  bool whole() const {
    const size_t head = in_.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    if (in_.find("chunked") < head) return in_.ends_with("\r\n0\r\n\r\n");
    const size_t length = in_.find("Content-Length: ");
    return length < head && in_.size() == head + 4 + std::stoull(in_.substr(length + 16));
  }

  void check() const {
    ASSERT_TRUE(in_.starts_with("HTTP/1.1 200")) << in_;
    std::string body = in_.substr(in_.find("\r\n\r\n") + 4), text;
    if (question_->stream) {
      std::string joined;
      for (size_t at = 0; at < body.size();) {
        const size_t line = body.find("\r\n", at), length = std::stoull(body.substr(at, line - at), nullptr, 16);
        joined += body.substr(line + 2, length);
        at = line + 2 + length + 2;
      }
      text = streamed_text(sse_events(joined));
    } else {
      text = Json::parse(body)["choices"][0]["text"].get<std::string>();
    }
    ASSERT_EQ(text, question_->expected);
  }

  uint16_t port_;
  std::optional<HttpClient> client_;
  const Question* question_ = nullptr;
  std::string in_;
};

std::vector<PolledClient> make_clients(int count, uint16_t port) {
  std::vector<PolledClient> clients;
  for (int i = 0; i < count; ++i) clients.emplace_back(port);
  return clients;
}

// Waits for whatever comes to any client, and calls on_whole(client) where a reply is whole.
template <typename OnWhole>
void poll_all(std::vector<PolledClient>& clients, const OnWhole& on_whole) {
  std::vector<pollfd> waits;
  std::vector<size_t> numbers;
  for (size_t i = 0; i < clients.size(); ++i) {
    if (!clients[i].asking()) continue;
    waits.push_back({clients[i].fd(), POLLIN, 0});
    numbers.push_back(i);
  }
  if (waits.empty()) return;
  ASSERT_GT(poll(waits.data(), waits.size(), 60000 * kSlowdown), 0) << "nothing came for a minute";
  for (size_t i = 0; i < waits.size(); ++i)
    if (waits[i].revents != 0 && clients[numbers[i]].take()) on_whole(clients[numbers[i]]);
}

std::unique_ptr<RunningServer> start(const std::filesystem::path& model) {
  EngineOptions options;
  options.max_rows = 256;
  options.max_batch = 64;
  options.prefill_chunk = 32;
  return std::make_unique<RunningServer>(golden_executor(kPages, model), options, test_options(),
                                         Tokenizer::from_folder(model));
}

void keep_asking(const std::filesystem::path& model, int64_t most_tokens) {
  const std::vector<Question> questions = make_questions(model, 100, most_tokens);
  const auto server = start(model);
  std::vector<PolledClient> clients = make_clients(200, server->port);
  const auto began = Clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };
  Rng rng(2);
  int64_t replies = 0, early_rss = 0, most_rss = 0;
  const auto ask = [&](PolledClient& client) { client.ask(questions[rng.next_below(questions.size())]); };
  for (PolledClient& client : clients) ask(client);
  while (std::ranges::any_of(clients, &PolledClient::asking)) {
    poll_all(clients, [&](PolledClient& client) {
      ++replies;
      if (passed() < load_seconds()) ask(client);
    });
    if (testing::Test::HasFailure()) return;
    const int64_t now = anonymous_rss_bytes();
    if (passed() < load_seconds() / 3)
      early_rss = std::max(early_rss, now);
    else
      most_rss = std::max(most_rss, now);
  }
  const EngineStats stats = server->engine.stats();
  std::printf("%lld replies in %.0f s, mean batch %.1f, memory %.1f MB after a third, %.1f MB at most later\n",
              static_cast<long long>(replies), passed(), static_cast<double>(stats.batch_sum) / stats.steps,
              early_rss * 1e-6, most_rss * 1e-6);
  EXPECT_GT(replies, 200);
  EXPECT_TRUE(eventually([&] { return all_free(server->engine); }));
  // A sanitizer keeps what was freed; it reports leaks itself.
  if (kSlowdown == 1) {
    EXPECT_LT(most_rss, early_rss + early_rss / 20 + (4 << 20)) << "memory is not flat";
  }
}

TEST(ServeLoad, TwoHundredStreamingClients) {
  keep_asking(kGoldenModel, 60);
}

#if !defined(QG_SANITIZED)
TEST(ServeLoad, TwoHundredStreamingClientsOfARealModel) {
  ASSERT_TRUE(std::filesystem::exists(kSmolLm2)) << "make model";
  keep_asking(kSmolLm2, 8);
}
#endif

TEST(ServeLoad, TenThousandRequestsWithRandomCancellations) {
  const std::vector<Question> questions = make_questions(kGoldenModel, 100, 30);
  const auto server = start(kGoldenModel);
  std::vector<PolledClient> clients = make_clients(60, server->port);
  constexpr int64_t kRequests = 10000;
  Rng rng(3);
  int64_t asked = 0, whole = 0, left = 0;
  const auto ask = [&](PolledClient& client) {
    if (asked == kRequests) return;
    ++asked;
    client.ask(questions[rng.next_below(questions.size())]);
    if (rng.next_below(10) == 0) {  // before anything has come
      client.leave(rng.next_below(2) == 0);
      ++left;
    }
  };
  for (;;) {
    for (PolledClient& client : clients)
      if (!client.asking()) ask(client);
    if (asked == kRequests && std::ranges::none_of(clients, &PolledClient::asking)) break;
    poll_all(clients, [&](PolledClient&) { ++whole; });
    if (testing::Test::HasFailure()) return;
    for (PolledClient& client : clients)  // in the middle
      if (client.asking() && client.received() > 0 && rng.next_below(100) == 0) {
        client.leave(rng.next_below(2) == 0);
        ++left;
      }
  }
  EXPECT_EQ(whole + left, kRequests);
  EXPECT_GT(left, kRequests / 10);
  EXPECT_TRUE(eventually([&] { return all_free(server->engine); }))
      << "pages in use: " << server->engine.stats().pages_used;
  const EngineStats stats = server->engine.stats();
  EXPECT_GT(stats.cancelled, 0);
  EXPECT_LE(stats.cancelled, left);
  std::printf("%lld whole, %lld left, %lld cancelled in the engine\n", static_cast<long long>(whole),
              static_cast<long long>(left), static_cast<long long>(stats.cancelled));
  // All of the KV cache is there for the next one.
  HttpClient last(server->port);
  EXPECT_EQ(last.post("/v1/completions", completion("abc", 200, {{"n", 64}, {"ignore_eos", true}})).status, 200);
}

}  // namespace
}  // namespace qg
