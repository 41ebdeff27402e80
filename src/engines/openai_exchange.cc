// One request for one stream: connects or takes a kept connection, sends, reads to the end.
#include "engines/openai_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "core/error.h"

namespace qg {
namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

namespace {

constexpr size_t kMostErrorBytes = 64 << 10;  // of the body of an answer that is no success

bool would_block(const error_code& error) {
  return error == asio::error::would_block || error == asio::error::try_again;
}

bool is_event_stream(std::string type) {
  type.erase(std::min(type.find(';'), type.size()));
  type.erase(type.find_last_not_of(" \t") + 1);
  std::transform(type.begin(), type.end(), type.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return type == "text/event-stream";
}

// The tokens of one reply as they come. The newest are held back until there are newer ones or the end: what the server
// counted beyond the pieces that it sent came with the last of them.
class Reply {
 public:
  Reply(int64_t id, int64_t wanted) : id_(id), wanted_(wanted) {}

  void take(std::string_view body, ClientClock::time_point now, std::vector<StreamEvent>& out) {
    sse_.feed(body, [&](std::string_view data) {
      int64_t tokens = 0;
      try {
        tokens = stream_.take(data);
      } catch (const Error& e) {
        throw ExchangeError{e.problem().starts_with("the server reports") ? "server_error" : "garbage", e.what()};
      }
      if (tokens == 0) return;
      if (held_.tokens > 0) out.push_back(held_);
      held_ = {id_, tokens, now, false, {}, {}};
    });
  }

  bool done() const { return stream_.done(); }

  // The stream is over. Throws ExchangeError when it should not be, or when its tokens do not add up.
  StreamEvent end(ClientClock::time_point now, ClientCounts& counts) {
    if (!stream_.done() && !stream_.finished())
      throw ExchangeError{
          "stream_cut",
          fmt::format("the stream ended after {} tokens without a finish reason or [DONE]", stream_.counted())};
    int64_t total = stream_.counted();
    if (const auto counted = stream_.completion_tokens()) {
      if (*counted < total)
        throw ExchangeError{"wrong_count",
                            fmt::format("the server counts {} tokens, but sent {} pieces of text", *counted, total)};
      held_.tokens += *counted - total;
      total = *counted;
      counts.completion_tokens += *counted;
      ++counts.completions_counted;
    } else {
      ++counts.uncounted;
      counts.completion_tokens += total;
    }
    if (const auto counted = stream_.prompt_tokens()) {
      counts.prompt_tokens += *counted;
      ++counts.prompts_counted;
    }
    if (total == 0) throw ExchangeError{"stream_cut", "the stream ended without a token"};
    ++counts.ended;
    if (total < wanted_) ++counts.short_replies;
    StreamEvent last = held_;
    if (last.time == ClientClock::time_point{}) last.time = now;  // counted, but never seen
    last.request = id_;
    last.finished = true;
    return last;
  }
  int64_t counted() const { return stream_.counted(); }

 private:
  int64_t id_, wanted_;
  SseParser sse_;
  CompletionStream stream_;
  StreamEvent held_;
};

}  // namespace

asio::awaitable<void> OpenAiClient::State::connect(Exchange& exchange) {
  exchange.began = exchange.last_byte = ClientClock::now();
  exchanges.insert(&exchange);
  exchange.socket = take_idle();
  if (!exchange.socket) {
    exchange.socket = std::make_shared<tcp::socket>(io);
    ++connections_open;
    error_code error;
    co_await asio::async_connect(*exchange.socket, addresses, asio::redirect_error(asio::use_awaitable, error));
    if (error || exchange.timed_out) {
      if (exchange.timed_out)
        throw ExchangeError{kErrorTimeout, fmt::format("no connection for {:g} s", options.connect_timeout_s)};
      throw ExchangeError{"connect", "cannot connect to " + options.base.authority() + ": " + error.message()};
    }
    ++counts.connections_opened;
    counts.connections_open_most = std::max(counts.connections_open_most, connections_open);
    exchange.socket->non_blocking(true, error);
    exchange.socket->set_option(tcp::no_delay(true), error);
  }
  exchange.connected = true;
  exchange.last_byte = ClientClock::now();
}

asio::awaitable<bool> OpenAiClient::State::read_some(Exchange& exchange, std::string& in) {
  for (;;) {
    error_code error;
    const size_t bytes = exchange.socket->read_some(asio::buffer(scratch), error);
    if (!error) {
      exchange.last_byte = ClientClock::now();
      in.append(scratch.data(), bytes);
      co_return true;
    }
    if (would_block(error))
      co_await exchange.socket->async_wait(tcp::socket::wait_read, asio::redirect_error(asio::use_awaitable, error));
    if (!error) continue;
    if (exchange.timed_out) throw ExchangeError{kErrorTimeout, fmt::format("{} in time", exchange.limit)};
    if (error == asio::error::eof) co_return false;
    throw ExchangeError{"stream_cut", "the connection broke: " + error.message()};
  }
}

asio::awaitable<void> OpenAiClient::State::run(int64_t id, std::string request, int64_t output_tokens) {
  Exchange exchange;
  StreamEvent last;
  last.request = id;
  bool reusable = false, told = false;
  Reply reply(id, output_tokens);
  try {
    co_await connect(exchange);
    error_code error;
    co_await asio::async_write(*exchange.socket, asio::buffer(request),
                               asio::redirect_error(asio::use_awaitable, error));
    // A server may refuse before it has read everything: what it says counts, not the broken pipe.
    request = {};
    ResponseReader reader;
    std::string in, refusal;
    while (!reader.done()) {
      const bool more = co_await read_some(exchange, in);
      if (!more && !reader.has_header()) throw ExchangeError{"stream_cut", "the server closed without an answer"};
      const auto now = exchange.last_byte;
      try {
        if (!more) reader.feed_end();
        const std::string body = reader.feed(in);
        if (!reader.has_header()) continue;
        if (reader.status() != 200) {
          refusal.append(body, 0, kMostErrorBytes - std::min(kMostErrorBytes, refusal.size()));
          if (refusal.size() >= kMostErrorBytes) break;
          continue;
        }
        if (const std::string type = reader.field("Content-Type"); !is_event_stream(type))
          throw ExchangeError{"content_type", fmt::format("the answer is \"{}\", not text/event-stream", type)};
        if (!told) reply.take(body, now, events);
        if (reply.done() && !told) {  // the rest only ends the body
          last = reply.end(now, counts);
          told = true;
          --in_flight;
          emit(last);
        }
      } catch (const Error& e) {
        const bool cut = e.problem().find("cut off") != std::string::npos;
        throw ExchangeError{cut ? "stream_cut" : "garbage",
                            cut ? fmt::format("the stream was cut off after {} tokens", reply.counted()) : e.what()};
      }
    }
    if (reader.status() != 200)
      throw ExchangeError{fmt::format("http_{}", reader.status()),
                          fmt::format("HTTP {}: {}", reader.status(), error_message(refusal))};
    if (!told) {
      last = reply.end(exchange.last_byte, counts);
      told = true;
      --in_flight;
      emit(last);
    }
    reusable = reader.keep_alive() && in.empty();
  } catch (const ExchangeError& e) {
    if (!told) {
      last = {};
      last.request = id;
      last.time = ClientClock::now();
      last.finished = true;
      last.error = e.text;
      last.error_code = e.code;
      ++counts.failures[e.code];
      --in_flight;
      emit(last);
    }
  }
  exchanges.erase(&exchange);
  if (!exchange.socket) co_return;
  if (reusable) {
    keep(std::move(exchange.socket));
  } else {
    error_code ignored;
    exchange.socket->close(ignored);
    --connections_open;
  }
}

}  // namespace qg
