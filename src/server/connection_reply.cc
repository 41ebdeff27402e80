// Replies that are generated: from a request's body to the last byte, in whole or as a stream.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <utility>

#include "server/connection.h"

namespace qg {
namespace asio = boost::asio;
using boost::system::error_code;

namespace {

EngineClock::duration seconds(double value) {
  return std::chrono::duration_cast<EngineClock::duration>(std::chrono::duration<double>(value));
}

}  // namespace

// In the thread beside the event loop, since long texts take long.
Connection::awaitable<void> Connection::prepare_request(ApiKind kind, std::string body, PreparedRequest& result) {
  struct Job {
    std::string body;
    std::optional<PreparedRequest> request;
    std::optional<ApiError> error;
    bool done = false;
  };
  const auto job = std::make_shared<Job>();
  job->body = std::move(body);
  // Moved on and on, so that the connection is never destroyed on the other thread.
  asio::post(server_.preparation, [self = shared_from_this(), kind, work = job]() mutable {
    try {
      work->request = prepare(kind, work->body, self->server_.model);
    } catch (const ApiError& e) {
      work->error = e;
    } catch (const std::exception& e) {
      work->error = ApiError(500, std::string("internal error: ") + e.what());
    }
    auto& io = self->server_.io;
    asio::post(io, [self = std::move(self), work = std::move(work)] {
      work->done = true;
      self->signal_.cancel();
    });
  });
  while (!job->done) co_await wait_until(EngineClock::time_point::max());
  account(0);
  if (job->error) throw ApiError(*job->error);
  result = std::move(*job->request);
}

Connection::awaitable<bool> Connection::generate(ApiKind kind, HttpRequest& request) {
  const EngineClock::time_point arrival = EngineClock::now();
  request_limit_ = arrival + seconds(server_.options.request_timeout_s);
  PreparedRequest prepared;
  co_await prepare_request(kind, std::move(request.body), prepared);
  if (gone_) co_return false;
  if (server_.drain_over) throw ApiError(503, "the server is shutting down", "", "shutting_down");
  const auto generation = std::make_shared<Generation>(std::move(prepared), server_.model, server_.metrics, arrival,
                                                       [weak = weak_from_this()] {
                                                         if (const auto self = weak.lock()) self->changed();
                                                       });
  server_.start(generation);
  generation_ = generation;
  if (generation->streams()) {
    ++server_.metrics.http_requests[{counted_path(request.path), 200}];
    const bool chunked = !request.http_1_0;
    request.keep_alive = request.keep_alive && chunked;
    const std::string head = http_stream_head(chunked, request.keep_alive && keep_alive_);
    streaming_ = true;
    if (!co_await write(head)) co_return false;
    const bool useful = co_await stream(chunked);
    streaming_ = false;
    co_return useful;
  }
  while (!generation->ended() && !gone_) {
    co_await wait_until(request_limit_);
    check_request_timeout();
  }
  if (gone_) co_return false;
  if (generation->error()) throw ApiError(*generation->error());
  Answer reply;
  reply.body = generation->reply_body();
  const bool sent = co_await answer(reply, request);
  co_return sent;
}

Connection::awaitable<bool> Connection::stream(bool chunked) {
  EngineClock::time_point last_sent = EngineClock::now();
  for (;;) {
    check_request_timeout();
    if (gone_ || slow_) co_return false;
    const bool ended = generation_->ended();
    std::string bytes = generation_->take_output();
    const auto keep_alive_at = last_sent + seconds(server_.options.keep_alive_s);
    if (bytes.empty() && EngineClock::now() >= keep_alive_at) bytes = kSseKeepAlive;
    if (chunked && !bytes.empty()) bytes = http_chunk(bytes);
    if (chunked && ended) bytes += http_chunk("");
    if (!bytes.empty()) {
      if (!co_await write(bytes)) co_return false;
      last_sent = EngineClock::now();
    }
    if (ended) co_return true;
    if (generation_->output_bytes() == 0 && !generation_->ended())
      co_await wait_until(std::min(request_limit_, last_sent + seconds(server_.options.keep_alive_s)));
  }
}

Connection::awaitable<void> Connection::wait_until(EngineClock::time_point limit) {
  signal_.expires_at(limit);
  error_code error;
  co_await signal_.async_wait(asio::redirect_error(asio::use_awaitable, error));
}

void Connection::changed() {
  // Only while a write waits: much at once (an echoed prompt with log-probabilities) says nothing about the client.
  if (blocked_ && generation_ && generation_->streams() &&
      generation_->output_bytes() > server_.options.max_unsent_bytes && !std::exchange(slow_, true)) {
    ++server_.metrics.clients_slow;
    error_code ignored;
    socket_.cancel(ignored);  // it waits to write
  }
  signal_.cancel();
}

void Connection::check_request_timeout() {
  if (!generation_ || generation_->ended() || EngineClock::now() < request_limit_) return;
  generation_->fail(ApiError(504, "the request took longer than this server allows", "", "request_timeout"));
  server_.cancel(*generation_);
}

void Connection::abandon() {
  if (!generation_) return;
  if (!generation_->ended()) {
    generation_->fail(ApiError(kClientLeft, "the client has left"));
    server_.cancel(*generation_);
  }
}

}  // namespace qg
