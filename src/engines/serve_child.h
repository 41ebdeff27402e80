#pragma once
// `quantgrid serve` as a child on a free loopback port: how the native engine is measured through its own server.
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engines/engine_run.h"
#include "engines/process.h"

namespace qg {

struct ServeChildSpec {
  std::filesystem::path program;   // this program
  std::vector<std::string> flags;  // behind `serve`; host and port are added
  double start_limit_s = 1800;     // weights of a large model take long to read
};

class ServeChild {
 public:
  // Starts it and waits until it listens. Throws Error with what it said when it does not.
  explicit ServeChild(ServeChildSpec spec);
  ~ServeChild();  // ends it
  ServeChild(const ServeChild&) = delete;
  ServeChild& operator=(const ServeChild&) = delete;

  const std::string& url() const { return url_; }
  std::string compute_path() const;  // as it says; empty when it does not
  const std::vector<std::string>& flags() const { return spec_.flags; }
  // Takes in what it has said; false when it has ended. Throws Error when its log could not be written.
  bool alive();
  std::string last_words() const;

 private:
  void read(std::string_view line);

  ServeChildSpec spec_;
  std::filesystem::path log_;
  std::string url_;
  mutable std::mutex mutex_;  // of what follows, once reader_ runs
  std::string compute_path_;
  std::vector<std::string> lines_;  // its last ones
  std::unique_ptr<Process> process_;
  std::exception_ptr problem_;  // of reader_
  std::jthread reader_;         // while the load runs
};

}  // namespace qg
