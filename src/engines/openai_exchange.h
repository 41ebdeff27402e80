#pragma once
// The load client's inside: its event loop, connections and the exchange of one request for one stream.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <set>

#include "engines/openai_client.h"
#include "engines/openai_response.h"
#include "engines/openai_sse.h"
#include "engines/openai_stream.h"

namespace qg {

// A failure with its word for the record.
struct ExchangeError {
  std::string code, text;
};

struct OpenAiClient::State {
  using tcp = boost::asio::ip::tcp;

  explicit State(ClientOptions client_options);
  ~State();

  void emit(StreamEvent event) { events.push_back(std::move(event)); }
  void watch_lag();
  void sweep();  // requests that have waited too long
  std::shared_ptr<tcp::socket> take_idle();
  void keep(std::shared_ptr<tcp::socket> socket);

  struct Exchange {
    std::shared_ptr<tcp::socket> socket;
    ClientClock::time_point began, last_byte;
    bool connected = false, timed_out = false;
    const char* limit = "";  // which one it ran into
  };

  boost::asio::awaitable<void> run(int64_t id, std::string request, int64_t output_tokens);
  boost::asio::awaitable<void> connect(Exchange& exchange);
  // More bytes into `in`; false at the end of the connection. Throws ExchangeError.
  boost::asio::awaitable<bool> read_some(Exchange& exchange, std::string& in);

  ClientOptions options;
  ClientCounts counts;
  int64_t in_flight = 0;
  std::vector<StreamEvent> events;
  std::vector<double> lag_ms;
  std::vector<char> scratch;  // where sockets are read to
  int64_t connections_open = 0;

  // In this order: what is below uses what is above, also while it is destroyed.
  boost::asio::io_context io{1};
  boost::asio::steady_timer lag_timer{io}, sweep_timer{io};
  tcp::resolver::results_type addresses;
  std::set<Exchange*> exchanges;
  struct Idle {
    std::shared_ptr<tcp::socket> socket;
    ClientClock::time_point since;
  };
  std::deque<Idle> idle;
};

}  // namespace qg
