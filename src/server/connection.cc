#include "server/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <utility>

#include "core/log.h"

namespace qg {
namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

namespace {

constexpr size_t kMostPipelinedBytes = 64 << 10;  // taken while an answer is under way
constexpr int64_t kMostLingerBytes = int64_t{64} << 20;
constexpr double kLingerSeconds = 2;
constexpr size_t kRefusedConnections = 256;  // beyond the limit, that still get an answer

EngineClock::duration seconds(double value) {
  return std::chrono::duration_cast<EngineClock::duration>(std::chrono::duration<double>(value));
}

bool would_block(const error_code& error) {
  return error == asio::error::would_block || error == asio::error::try_again;
}

void set_options(tcp::socket& socket, const ServerOptions& options) {
  error_code ignored;
  socket.non_blocking(true, ignored);
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  if (options.send_buffer_bytes > 0)
    socket.set_option(asio::socket_base::send_buffer_size(options.send_buffer_bytes), ignored);
  // A client that vanished without a word: what is sent to it stays unacknowledged.
  const unsigned int timeout_ms = static_cast<unsigned int>(options.write_timeout_s * 1000);
  setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

}  // namespace

void Connection::start(tcp::socket socket, Server::State& server) {
  if (server.connections.size() >= static_cast<size_t>(server.options.max_connections) + kRefusedConnections) return;
  std::shared_ptr<Connection> connection(new Connection(std::move(socket), server));
  asio::co_spawn(
      server.io, [connection]() -> awaitable<void> { return connection->run(); },
      [connection](const std::exception_ptr& error) {
        try {
          if (error) std::rethrow_exception(error);
        } catch (const std::exception& e) {
          warn("a connection ended by an internal error: {}", e.what());
        }
        connection->abandon();
        Server::State& state = connection->server_;
        state.connections.erase(connection.get());
        state.finish_if_done();
      });
}

Connection::Connection(tcp::socket socket, Server::State& server)
    : socket_(std::move(socket)), server_(server), deadline_(server.io), signal_(server.io) {
  set_options(socket_, server.options);
  server_.connections.insert(this);
}

Connection::~Connection() {
  server_.connections.erase(this);
  server_.buffered_bytes -= accounted_bytes_;
}

void Connection::drain() {
  keep_alive_ = false;
  error_code ignored;
  if (idle_) socket_.cancel(ignored);
}

Connection::awaitable<void> Connection::run() {
  co_await serve();
  unwatch();
  abandon();
  disarm();
  account(0);
  error_code ignored;
  socket_.close(ignored);
}

Connection::awaitable<void> Connection::serve() {
  if (server_.connections.size() > static_cast<size_t>(server_.options.max_connections)) {
    ApiError error(503, "too many connections; try again later", "", "too_many_connections");
    error.retry_after_s = 1;
    HttpRequest none;
    none.keep_alive = false;
    if (co_await answer(error_answer(error), none)) co_await linger();
    co_return;
  }
  for (;;) {
    HttpRequest request;
    std::optional<ApiError> error;
    bool sound = false, useful = true;  // a request was read; the connection can go on
    try {
      if (!co_await read_request(request)) co_return;
      sound = true;
      useful = co_await respond(request);
    } catch (const ApiError& e) {
      error = e;
    } catch (const std::exception& e) {
      warn("a request failed by an internal error: {}", e.what());
      error = ApiError(500, "internal error");
    }
    unwatch();
    abandon();
    generation_.reset();
    account(0);
    if (error && std::exchange(streaming_, false)) co_return;  // in the middle of a reply there is no place for it
    if (!sound) request.keep_alive = false;                    // where the next request would begin is not known
    if (error) {
      const Answer text = error_answer(*error);
      useful = co_await answer(text, request);
    }
    if (!useful) co_return;
    if (!request.keep_alive || !keep_alive_) break;
  }
  co_await linger();
}

Connection::awaitable<bool> Connection::read_request(HttpRequest& request) {
  const ServerOptions& options = server_.options;
  if (in_.empty()) {
    in_.shrink_to_fit();
    idle_ = true;
    arm(options.idle_timeout_s);
    const bool more = co_await read_some();
    idle_ = false;
    if (!more) co_return false;
  }
  HttpReader reader(options.http);
  bool continued = false;
  arm(options.read_timeout_s);
  while (!reader.feed(in_)) {
    account(reader.body_bytes() + static_cast<int64_t>(in_.size()));
    if (server_.buffered_bytes > options.max_buffered_bytes) {
      ApiError error(503, "too many requests are being received; try again later", "", "too_many_bytes");
      error.retry_after_s = 1;
      throw error;
    }
    if (reader.wants_continue() && !std::exchange(continued, true)) {
      if (!co_await write("HTTP/1.1 100 Continue\r\n\r\n")) co_return false;
      arm(options.read_timeout_s);
    }
    const bool more = co_await read_some();
    if (more) continue;
    if (timed_out_) throw ApiError(408, "the request did not come in time", "", "read_timeout");
    co_return false;
  }
  disarm();
  request = reader.take();
  co_return true;
}

Connection::awaitable<bool> Connection::read_some() {
  for (;;) {
    error_code error;
    const size_t bytes = socket_.read_some(asio::buffer(server_.scratch), error);
    if (!error) {
      in_.append(server_.scratch.data(), bytes);
      co_return true;
    }
    if (!would_block(error)) co_return false;
    if (timed_out_ || (idle_ && !keep_alive_)) co_return false;
    co_await socket_.async_wait(tcp::socket::wait_read, asio::redirect_error(asio::use_awaitable, error));
    if (error && (!idle_ || keep_alive_)) co_return false;  // one that is drained looks for a last request
  }
}

Connection::awaitable<bool> Connection::respond(HttpRequest& request) {
  if (server_.draining) throw ApiError(503, "the server is shutting down", "", "shutting_down");
  const std::variant<Answer, ApiKind> what = route(server_, request);
  if (const Answer* ready = std::get_if<Answer>(&what)) {
    const bool sent = co_await answer(*ready, request);
    co_return sent;
  }
  watch();
  const bool useful = co_await generate(std::get<ApiKind>(what), request);
  co_return useful;
}

Connection::awaitable<bool> Connection::answer(const Answer& answer, const HttpRequest& request) {
  ++server_.metrics.http_requests[{counted_path(request.path), answer.status}];
  const std::string bytes = http_answer(answer.status, answer.content_type, answer.body,
                                        request.keep_alive && keep_alive_, answer.headers, request.method == "HEAD");
  const bool sent = co_await write(bytes);
  co_return sent;
}

Connection::awaitable<bool> Connection::write(std::string_view bytes) {
  while (!bytes.empty()) {
    error_code error;
    const size_t sent = socket_.write_some(asio::buffer(bytes.data(), bytes.size()), error);
    if (!error) {
      bytes.remove_prefix(sent);
      continue;
    }
    if (!would_block(error)) co_return false;
    arm(server_.options.write_timeout_s);
    blocked_ = true;
    co_await socket_.async_wait(tcp::socket::wait_write, asio::redirect_error(asio::use_awaitable, error));
    blocked_ = false;
    if (timed_out_ && !std::exchange(slow_, true)) ++server_.metrics.clients_slow;
    disarm();
    if (error || slow_) co_return false;
  }
  co_return true;
}

// Closing while bytes of the client lie unread would reset the connection and lose the answer.
Connection::awaitable<void> Connection::linger() {
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  arm(kLingerSeconds);
  int64_t dropped = 0;
  while (dropped < kMostLingerBytes) {
    in_.clear();
    const bool more = co_await read_some();
    if (!more) break;
    dropped += static_cast<int64_t>(in_.size());
  }
}

void Connection::arm(double limit_s) {
  timed_out_ = false;
  deadline_.expires_after(seconds(limit_s));
  deadline_.async_wait([weak = weak_from_this()](const error_code& error) {
    const auto self = weak.lock();
    if (error || !self || self->deadline_.expiry() > EngineClock::now()) return;
    self->timed_out_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void Connection::disarm() {
  timed_out_ = false;
  deadline_.cancel();
}

void Connection::watch() {
  if (in_.size() >= kMostPipelinedBytes) return;  // it will be read after this answer
  socket_.async_wait(tcp::socket::wait_read, [weak = weak_from_this(), round = ++watch_round_](const error_code&) {
    const auto self = weak.lock();
    if (self && round == self->watch_round_) self->watched();
  });
}

void Connection::watched() {
  error_code error;
  const size_t bytes = socket_.read_some(asio::buffer(server_.scratch), error);
  if (!error) in_.append(server_.scratch.data(), bytes);
  if (!error || would_block(error)) {
    watch();
    return;
  }
  // A client that has closed its sending side counts as gone, although it might still read.
  gone_ = true;
  ++server_.metrics.clients_gone;
  abandon();
  socket_.cancel(error);
  signal_.cancel();
}

void Connection::unwatch() {
  ++watch_round_;
  error_code ignored;
  socket_.cancel(ignored);
}

void Connection::account(int64_t bytes) {
  server_.buffered_bytes += bytes - accounted_bytes_;
  accounted_bytes_ = bytes;
}

}  // namespace qg
