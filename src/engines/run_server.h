#pragma once
// An engine's server, started for one case and always ended.
#include <memory>
#include <optional>
#include <string>

#include "engines/engine_run.h"
#include "engines/process.h"
#include "engines/run_log.h"

namespace qg {

class EngineServer {
 public:
  // Writes the files, starts the server on a free port of 127.0.0.1 and waits until it is healthy, at most limit_s.
  // Never throws for what the server does: see start_run().
  EngineServer(const EngineCase& e, double limit_s, const std::string& gpu);

  bool is_up() const { return address_.has_value(); }
  const EngineRun& start_run() const { return start_run_; }  // ok when it is up; otherwise why not
  const ServerAddress& address() const { return *address_; }
  const EngineLog& log() const { return *log_; }
  // It has ended by itself since; what its log says of that.
  std::optional<RunEnd> died();

 private:
  std::unique_ptr<EngineLog> log_;  // the process writes into it
  std::unique_ptr<Process> process_;
  std::optional<ServerAddress> address_;
  EngineRun start_run_;
};

// One GET to 127.0.0.1; empty when nobody answers in time. For looking whether a server is up, nothing more.
struct PlainReply {
  int status = 0;
  std::string body;
};
std::optional<PlainReply> plain_get(int port, const std::string& target, double limit_s);

}  // namespace qg
