#pragma once
// An engine's server, started for one case and always ended.
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "engines/engine_run.h"
#include "engines/process.h"
#include "engines/run_log.h"

namespace qg {

class EngineServer {
 public:
  // Writes the files, starts the server on a free port of 127.0.0.1 and waits until it is healthy, at most limit_s.
  // Never throws for what the server does: see start_run().
  EngineServer(const EngineCase& e, double limit_s, const std::string& gpu);
  EngineServer(const EngineServer&) = delete;
  EngineServer& operator=(const EngineServer&) = delete;

  bool is_up() const { return address_.has_value(); }
  const EngineRun& start_run() const { return start_run_; }  // ok when it is up; otherwise why not
  const ServerAddress& address() const { return *address_; }
  EngineLog log() const;  // as far as it has come
  // It has ended by itself since; what its log says of that. Throws Error when its log could not be written.
  std::optional<RunEnd> died();
  // After a load that failed: true when it is well, which is seen at once; false when it has ended, or has answered
  // GET health with no 200 for limit_s.
  bool recovers(double limit_s);

 private:
  bool is_well() const;

  mutable std::mutex mutex_;  // of log_ and process_, once reader_ runs
  EngineLog log_;             // the process writes into it
  std::unique_ptr<Process> process_;
  std::optional<ServerAddress> address_;
  int port_ = 0;
  std::string health_;
  EngineRun start_run_;
  std::exception_ptr problem_;  // of reader_
  std::jthread reader_;         // while the load runs
};

// One GET to 127.0.0.1; empty when nobody answers in time. For looking whether a server is up, nothing more.
struct PlainReply {
  int status = 0;
  std::string body;
};
std::optional<PlainReply> plain_get(int port, const std::string& target, double limit_s);

}  // namespace qg
