#pragma once
// What connections and routes of one server share. Event loop only, but for what says otherwise.
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/engine_thread.h"
#include "server/generation.h"
#include "server/prepare.h"
#include "server/server.h"

namespace qg {

class Connection;

struct Server::State {
  State(Engine& engine, const Tokenizer& tokenizer, ServerOptions server_options);
  ~State();

  void listen();
  void accept();
  void sample_speed();
  void begin_drain();
  void end_drain();
  void finish_if_done();

  // Runs the generation's choices. Throws ApiError (429) when the queue is full.
  void start(const std::shared_ptr<Generation>& generation);
  void cancel(const Generation& generation);  // all that still runs of it
  void take_events(std::vector<EngineEvent> events);
  bool healthy() const { return !draining && engine_thread->failed_steps() == 0; }
  int retry_after_s() const;  // for a client that finds the queue full

  ServerOptions options;
  ServedModel model;
  ServerMetrics metrics;
  std::set<Connection*> connections;
  int64_t buffered_bytes = 0;  // of requests that are being received
  bool draining = false;       // requests that are not here yet are refused
  bool drain_over = false;     // what has not begun yet is refused, too
  bool done = false;           // the last connection has ended
  bool engine_failed = false;
  bool only_local = false;  // bound to a loopback address

  struct Place {
    std::shared_ptr<Generation> generation;
    int64_t choice = 0;
  };
  std::unordered_map<RequestId, Place> running;  // until the engine's last event of each

  // In this order: what is below uses what is above, also while it is destroyed.
  boost::asio::io_context io{1};
  boost::asio::ip::tcp::acceptor acceptor{io};
  boost::asio::steady_timer accept_again{io}, speed_timer{io}, drain_timer{io};
  std::optional<boost::asio::signal_set> signals;
  std::vector<char> scratch;  // where sockets are read to: a connection that waits owns no buffer
  std::unique_ptr<EngineThread> engine_thread;
  boost::asio::thread_pool preparation{1};
};

}  // namespace qg
