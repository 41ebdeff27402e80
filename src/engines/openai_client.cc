#include "engines/openai_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <exception>
#include <utility>

#include "core/error.h"
#include "engines/openai_exchange.h"

namespace qg {
namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

namespace {

constexpr size_t kScratchBytes = 64 << 10;
constexpr size_t kMostLagSamples = size_t{1} << 20;
constexpr double kSweepSeconds = 0.1;
// Servers close what is idle for some seconds (uvicorn and Node: 5). A request that is on its way at that moment is
// lost.
constexpr double kMostIdleSeconds = 1;

ClientClock::duration seconds(double value) {
  return std::chrono::duration_cast<ClientClock::duration>(std::chrono::duration<double>(value));
}

tcp::resolver::results_type resolve(asio::io_context& io, const BaseUrl& base) {
  error_code error;
  tcp::resolver resolver(io);
  auto found = resolver.resolve(base.host, base.port, error);
  if (error || found.empty())
    throw Error(fmt::format("no address is known for {}: {}", base.host, error.message()), "--base-url", "",
                ExitCode::cannot_here);
  return found;
}

}  // namespace

OpenAiClient::State::State(ClientOptions client_options)
    : options(std::move(client_options)), scratch(kScratchBytes), addresses(resolve(io, options.base)) {
  for (const char c : options.api_key)
    if (c < 0x20 || c == 0x7f) throw Error("the API key holds signs that no header may hold", "--api-key");
  watch_lag();
  sweep();
}

OpenAiClient::State::~State() = default;

// A timer that is due while the loop is busy is served late: by as much, tokens are seen late.
void OpenAiClient::State::watch_lag() {
  lag_timer.expires_after(seconds(options.lag_every_s));
  lag_timer.async_wait([this](const error_code& error) {
    if (error) return;
    if (in_flight > 0 && lag_ms.size() < kMostLagSamples)
      lag_ms.push_back(std::chrono::duration<double, std::milli>(ClientClock::now() - lag_timer.expiry()).count());
    watch_lag();
  });
}

void OpenAiClient::State::sweep() {
  sweep_timer.expires_after(seconds(kSweepSeconds));
  sweep_timer.async_wait([this](const error_code& error) {
    if (error) return;
    const auto now = ClientClock::now();
    for (Exchange* exchange : exchanges) {
      const char* limit = nullptr;
      if (!exchange->connected && now - exchange->began > seconds(options.connect_timeout_s))
        limit = "no connection";
      else if (now - exchange->last_byte > seconds(options.stall_timeout_s))
        limit = "no byte from the server";
      else if (now - exchange->began > seconds(options.request_timeout_s))
        limit = "no end of the stream";
      if (!limit || exchange->timed_out) continue;
      exchange->timed_out = true;
      exchange->limit = limit;
      error_code ignored;
      exchange->socket->close(ignored);
    }
    sweep();
  });
}

// A connection that the server has not closed meanwhile, and is not about to close.
std::shared_ptr<tcp::socket> OpenAiClient::State::take_idle() {
  while (!idle.empty()) {
    const auto [socket, since] = std::move(idle.back());
    idle.pop_back();
    if (ClientClock::now() - since > seconds(kMostIdleSeconds)) {
      --connections_open;
      continue;
    }
    char byte = 0;
    error_code error;
    socket->receive(asio::buffer(&byte, 1), tcp::socket::message_peek, error);
    if (error == asio::error::would_block || error == asio::error::try_again) return socket;
    --connections_open;  // closed, or it says something that nobody asked for
  }
  return nullptr;
}

void OpenAiClient::State::keep(std::shared_ptr<tcp::socket> socket) {
  idle.push_back({std::move(socket), ClientClock::now()});
}

OpenAiClient::OpenAiClient(ClientOptions options) : state_(std::make_unique<State>(std::move(options))) {}
OpenAiClient::~OpenAiClient() = default;

void OpenAiClient::post(int64_t id, std::string path, std::string body, int64_t output_tokens) {
  State& s = *state_;
  ++s.in_flight;
  asio::co_spawn(s.io, s.run(id, http_request(s.options.base, "POST", path, s.options.api_key, body), output_tokens),
                 [](const std::exception_ptr& error) {
                   if (error) std::rethrow_exception(error);  // out of run_until(): a fault of this program
                 });
}

int64_t OpenAiClient::in_flight() const {
  return state_->in_flight;
}

void OpenAiClient::run_until(ClientClock::time_point deadline) {
  State& s = *state_;
  // The timers keep the loop from running dry.
  do {
    s.io.poll();
    if (!s.events.empty()) return;
    s.io.run_one_until(deadline);
  } while (s.events.empty() && ClientClock::now() < deadline);
}

std::vector<StreamEvent> OpenAiClient::take_events() {
  return std::exchange(state_->events, {});
}

const ClientCounts& OpenAiClient::counts() const {
  return state_->counts;
}
void OpenAiClient::reset_counts() {
  ClientCounts fresh;
  fresh.failures = std::move(state_->counts.failures);
  state_->counts = std::move(fresh);
  state_->counts.connections_open_most = state_->connections_open;
}
const std::vector<double>& OpenAiClient::lag_ms() const {
  return state_->lag_ms;
}
void OpenAiClient::reset_lag() {
  state_->lag_ms.clear();
}

OpenAiClient::Answer OpenAiClient::ask(std::string_view method, std::string_view path, std::string_view body,
                                       double limit_s) {
  State& s = *state_;
  struct Asked {
    Answer answer;
    std::string error;
    bool done = false;
  } asked;
  State::Exchange exchange;
  const std::string request = http_request(s.options.base, method, path, s.options.api_key, body);
  const auto talk = [&]() -> asio::awaitable<void> {
    co_await s.connect(exchange);
    error_code error;
    co_await asio::async_write(*exchange.socket, asio::buffer(request),
                               asio::redirect_error(asio::use_awaitable, error));
    ResponseReader reader;
    std::string in;
    while (!reader.done()) {
      const bool more = co_await s.read_some(exchange, in);
      if (!more) reader.feed_end();
      asked.answer.body += reader.feed(in);
      if (asked.answer.body.size() > (size_t{1} << 20)) throw Error("the answer is longer than 1 MiB");
    }
    asked.answer.status = reader.status();
    asked.answer.server = reader.field("Server");
  };
  asio::co_spawn(s.io, talk(), [&](const std::exception_ptr& error) {
    asked.done = true;
    try {
      if (error) std::rethrow_exception(error);
    } catch (const ExchangeError& e) {
      asked.error = e.text;
    } catch (const std::exception& e) {
      asked.error = e.what();
    }
  });
  const auto deadline = ClientClock::now() + seconds(limit_s);
  while (!asked.done && ClientClock::now() < deadline) s.io.run_one_until(deadline);
  if (!asked.done) {  // its coroutine refers to what is on this stack
    error_code ignored;
    exchange.timed_out = true;
    exchange.limit = "no whole answer";
    if (exchange.socket) exchange.socket->close(ignored);
    while (!asked.done) s.io.run_one();
  }
  s.exchanges.erase(&exchange);
  if (exchange.socket) --s.connections_open;
  if (!asked.error.empty())
    throw Error(asked.error, fmt::format("{} {}{}", method, s.options.base.prefix, path), "", ExitCode::cannot_here);
  return asked.answer;
}

}  // namespace qg
