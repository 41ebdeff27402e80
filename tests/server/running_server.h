#pragma once
// A server in this process, on a port of its own: over a golden model, or over an executor without one whose steps a
// test can hold back.
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/file.h"
#include "model/open_model.h"
#include "runtime/cpu_executor.h"
#include "runtime/engine.h"
#include "server/server.h"
#include "tests/runtime/fake_executor.h"
#include "tests/sanitized.h"
#include "tests/server/http_client.h"
#include "tokenizer/tokenizer.h"

namespace qg {

inline const std::filesystem::path kGoldenModel =
    std::filesystem::path(QG_SOURCE_DIR) / "tests/golden/models/llama-gqa1-tied-fp32";
inline constexpr const char* kModelName = "tiny";

// The golden tokenizer with a chat template, which the golden models lack.
inline Tokenizer chatting_tokenizer(const std::filesystem::path& folder = kGoldenModel) {
  Json config = read_json(folder / "tokenizer_config.json");
  config["chat_template"] = "{{ bos_token }}[INST] <<SYS>> {{ content }} [/INST]";
  return Tokenizer::from_json(read_file(folder / "tokenizer.json", kMaxJsonBytes), config.dump(), "golden");
}

// The fake executor behind a gate: while it is shut, a step waits.
class GatedExecutor : public FakeExecutor {
 public:
  using FakeExecutor::FakeExecutor;
  void step(const StepInput& input, StepOutput& output) override {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return allowed_ != 0; });
      if (allowed_ > 0) --allowed_;
    }
    if (step_time.count() > 0) std::this_thread::sleep_for(step_time);
    FakeExecutor::step(input, output);
  }
  void shut() { allow(0); }
  void open() { allow(-1); }
  void allow(int64_t count) {  // of steps; < 0: any number
    {
      const std::lock_guard lock(mutex_);
      allowed_ = count;
    }
    changed_.notify_all();
  }
  std::chrono::microseconds step_time{0};

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t allowed_ = -1;
};

inline ServerOptions test_options() {
  ServerOptions options;
  options.port = 0;
  options.model_name = kModelName;
  options.drain_timeout_s = 5;
  return options;
}

class RunningServer {
 public:
  RunningServer(std::shared_ptr<Executor> executor, EngineOptions engine_options, ServerOptions options,
                const Tokenizer& tokenizer)
      : engine(std::move(executor), engine_options), server_(engine, tokenizer, std::move(options)) {
    port = server_.port();
    thread_ = std::thread([this] {
      try {
        server_.run();
      } catch (const std::exception& e) {
        error = e.what();
      }
      stopped = true;
    });
  }
  ~RunningServer() { stop(); }

  void stop() {
    if (!thread_.joinable()) return;
    server_.stop();
    thread_.join();
  }
  void ask_to_stop() { server_.stop(); }
  void join() { thread_.join(); }
  HttpClient client(int receive_buffer_bytes = 0) const { return HttpClient(port, receive_buffer_bytes); }

  Engine engine;
  uint16_t port = 0;
  std::string error;  // what run() threw
  std::atomic<bool> stopped = false;

 private:
  Server server_;
  std::thread thread_;
};

// A golden model behind a server.
inline std::shared_ptr<Executor> golden_executor(int64_t num_pages = 512,
                                                 const std::filesystem::path& folder = kGoldenModel) {
  ExecutorOptions options;
  options.num_pages = num_pages;
  options.page_tokens = 8;
  options.max_rows = 256;
  return make_cpu_executor(open_model(folder), options);
}

inline std::unique_ptr<RunningServer> golden_server(ServerOptions options = test_options()) {
  EngineOptions engine;
  engine.max_rows = 256;
  engine.max_batch = 32;
  engine.prefill_chunk = 32;
  return std::make_unique<RunningServer>(golden_executor(), engine, std::move(options), chatting_tokenizer());
}

// Without a model, vocabulary as the golden tokenizer's.
struct FakeServer {
  std::shared_ptr<GatedExecutor> executor;
  std::unique_ptr<RunningServer> server;

  explicit FakeServer(ServerOptions options = test_options(), int64_t max_batch = 8, int64_t num_pages = 4096) {
    executor = std::make_shared<GatedExecutor>(
        FakeOptions{.page_tokens = 16, .num_pages = num_pages, .max_rows = 512, .vocab = 331});
    EngineOptions engine;
    engine.max_rows = 512;
    engine.max_batch = max_batch;
    server = std::make_unique<RunningServer>(executor, engine, std::move(options), chatting_tokenizer());
  }
  // The engine's thread may be waiting at the gate, and must end.
  ~FakeServer() { executor->open(); }
};

// Waits until a condition holds; false when it does not in time.
inline bool eventually(const std::function<bool()>& condition, double seconds = 10) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds * kSlowdown);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

inline bool all_free(const Engine& engine) {
  const EngineStats stats = engine.stats();
  return engine.idle() && stats.pages_used == 0 && stats.running == 0 && stats.waiting == 0;
}

inline Json completion(const std::string& prompt, int64_t max_tokens, Json more = Json::object()) {
  Json body{{"model", kModelName}, {"prompt", prompt}, {"max_tokens", max_tokens}, {"temperature", 0}};
  body.update(more);
  return body;
}

}  // namespace qg
