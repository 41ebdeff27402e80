#pragma once
// One client's connection: reads requests, answers them one after the other, and notices when the client has left or
// does not read. A coroutine on the event loop; it owns no buffer while it waits.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "server/generation.h"
#include "server/http_reader.h"
#include "server/routes.h"

namespace qg {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  static void start(boost::asio::ip::tcp::socket socket, Server::State& server);
  ~Connection();

  void drain();  // ends now when it waits for a request, after the current answer otherwise

 private:
  template <typename Result>
  using awaitable = boost::asio::awaitable<Result>;

  Connection(boost::asio::ip::tcp::socket socket, Server::State& server);

  awaitable<void> run();
  awaitable<void> serve();
  awaitable<bool> read_request(HttpRequest& request);  // false: there is none, and nobody to tell
  awaitable<bool> read_some();                         // more bytes in in_; false: end, error or deadline
  awaitable<bool> respond(HttpRequest& request);       // false: the connection is of no more use
  awaitable<bool> answer(const Answer& answer, const HttpRequest& request);
  awaitable<bool> generate(ApiKind kind, HttpRequest& request);
  awaitable<bool> stream(bool chunked);
  awaitable<bool> write(std::string_view bytes);
  awaitable<void> wait_until(EngineClock::time_point limit);  // or until something has changed
  awaitable<void> linger();
  awaitable<void> prepare_request(ApiKind kind, std::string body, PreparedRequest& result);

  void arm(double seconds);  // the deadline of the next reads or writes; they end when it passes
  void disarm();
  void watch();  // for the client's leaving, while nothing is read from it
  void watched();
  void unwatch();
  void changed();  // something new to send, or the end
  void account(int64_t bytes);
  void check_request_timeout();
  void abandon();  // nobody waits for the generation any more

  boost::asio::ip::tcp::socket socket_;
  Server::State& server_;
  boost::asio::steady_timer deadline_, signal_;
  std::string in_;  // received and not yet part of a request
  std::shared_ptr<Generation> generation_;
  EngineClock::time_point request_limit_;
  int64_t accounted_bytes_ = 0;  // of server_.buffered_bytes
  int64_t watch_round_ = 0;      // tells the current watch from those that were ended
  bool keep_alive_ = true;
  bool idle_ = false;       // waits for the first byte of a request
  bool streaming_ = false;  // the head of a stream was sent
  bool timed_out_ = false;  // the deadline has passed
  bool gone_ = false;       // the client has closed its side
  bool blocked_ = false;    // a write waits for the client to read
  bool slow_ = false;       // the client does not read
};

}  // namespace qg
