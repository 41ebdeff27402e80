#pragma once
// An OpenAI-compatible server over one engine. One thread runs the event loop (sockets, HTTP, text), one the engine,
// one prepares requests (JSON, tokens); they hand values over through queues, so that no socket ever waits for a step
// (docs/serving.md).
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "server/http_reader.h"
#include "server/metrics.h"
#include "tokenizer/tokenizer.h"

namespace qg {

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free one
  std::string model_name;
  std::string api_key;                     // empty: everybody may ask
  std::vector<std::string> allowed_hosts;  // more names for a server on a loopback address

  HttpLimits http;
  int64_t max_prompt_tokens = 0;  // 0: as many as the model and the KV cache take
  int64_t max_queue = 1024;       // sequences waiting for a place in the batch
  int64_t max_connections = 4096;
  int64_t max_buffered_bytes = 256 << 20;  // of all requests that are being received
  int64_t max_unsent_bytes = 1 << 20;      // of one stream whose client does not read
  double idle_timeout_s = 75;              // between requests of a connection
  double read_timeout_s = 30;              // from a request's first byte to its last
  double write_timeout_s = 30;             // for a client to take any byte
  double request_timeout_s = 600;          // from a request being read to its end
  double drain_timeout_s = 30;             // after a stop was asked for
  double keep_alive_s = 15;                // a comment on a stream that is silent so long
  int send_buffer_bytes = 0;               // of each socket; 0: the system's choice
  bool handle_signals = false;             // SIGTERM and SIGINT stop the server

  RooflineTokensPerSecond roofline;
};

class Server {
 public:
  // Listens from here on. Throws Error: the address cannot be used (exit code 4), options make no sense.
  Server(Engine& engine, const Tokenizer& tokenizer, ServerOptions options);
  ~Server();

  uint16_t port() const;
  std::string url() const;
  bool is_local() const;  // on a loopback address
  // Serves until stop() or a signal, then until what runs has ended or the drain's time is over. Throws Error (exit
  // code 4) when the engine keeps failing.
  void run();
  void stop();  // any thread

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace qg
