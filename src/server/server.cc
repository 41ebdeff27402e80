#include "server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <csignal>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "server/connection.h"
#include "server/server_state.h"

namespace qg {
namespace asio = boost::asio;
using tcp = asio::ip::tcp;

namespace {

constexpr size_t kScratchBytes = 64 << 10;

// The longest prompt and reply together that the scheduler never refuses.
int64_t longest_sequence(const Executor& executor) {
  const int64_t room = executor.num_pages() * executor.page_tokens();
  const int64_t positions = executor.table().shape.max_position;
  return positions > 0 ? std::min(room, positions) : room;
}

// Choices that are run or wait.
int64_t most_choices(const Engine& engine, const ServerOptions& options) {
  return engine.options().max_batch + options.max_queue;
}

ServedModel served_model(Engine& engine, const Tokenizer& tokenizer, const ServerOptions& options) {
  const int64_t longest = longest_sequence(engine.executor());
  const int64_t prompt = options.max_prompt_tokens > 0 ? std::min(options.max_prompt_tokens, longest) : longest;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {options.model_name,
          tokenizer,
          engine.executor().table().shape.vocab,
          longest,
          prompt,
          std::chrono::duration_cast<std::chrono::seconds>(now).count(),
          std::min(kMaxChoices, most_choices(engine, options))};
}

}  // namespace

Server::State::State(Engine& engine, const Tokenizer& tokenizer, ServerOptions server_options)
    : options(std::move(server_options)), model(served_model(engine, tokenizer, options)), scratch(kScratchBytes) {
  listen();
  engine_thread = std::make_unique<EngineThread>(engine, [this](std::vector<EngineEvent> events) {
    asio::post(io, [this, list = std::move(events)]() mutable { take_events(std::move(list)); });
  });
}

Server::State::~State() {
  preparation.join();  // before io goes, to which it posts
}

void Server::State::listen() {
  const std::string where = fmt::format("{}:{}", options.host, options.port);
  try {
    const auto address = asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host);
    only_local = address.is_loopback();
    const tcp::endpoint endpoint(address, options.port);
    acceptor.open(endpoint.protocol());
    acceptor.set_option(tcp::acceptor::reuse_address(true));
    acceptor.bind(endpoint);
    acceptor.listen(1024);
  } catch (const boost::system::system_error& e) {
    throw Error("cannot listen: " + e.code().message(), where,
                "give an address of this machine with --host and a free port with --port", ExitCode::cannot_here);
  }
}

void Server::State::accept() {
  acceptor.async_accept([this](boost::system::error_code error, tcp::socket socket) {
    if (draining) return;
    if (error) {
      // Too few file descriptors, most likely: wait until some are given back.
      accept_again.expires_after(std::chrono::milliseconds(100));
      accept_again.async_wait([this](boost::system::error_code stopped) {
        if (!stopped && !draining) accept();
      });
      return;
    }
    ++metrics.connections_total;
    Connection::start(std::move(socket), *this);
    accept();
  });
}

void Server::State::sample_speed() {
  if (done) return;  // the timer had passed already when it was cancelled; another round would never end
  metrics.speed.sample(EngineClock::now(), engine_thread->engine().stats(), engine_thread->busy_seconds());
  if (engine_thread->failed_steps() >= kMostFailedSteps && !engine_failed) {
    engine_failed = true;
    warn("the engine keeps failing; the server ends");
    begin_drain();
  }
  speed_timer.expires_after(std::chrono::seconds(1));
  speed_timer.async_wait([this](boost::system::error_code stopped) {
    if (!stopped) sample_speed();
  });
}

void Server::State::begin_drain() {
  if (std::exchange(draining, true)) {
    end_drain();  // asked a second time: at once
    return;
  }
  boost::system::error_code ignored;
  acceptor.close(ignored);
  accept_again.cancel();
  info("stopping: {} requests run, at most {} s for them", running.size(), options.drain_timeout_s);
  for (Connection* connection : std::vector<Connection*>(connections.begin(), connections.end())) connection->drain();
  drain_timer.expires_after(std::chrono::milliseconds(static_cast<int64_t>(options.drain_timeout_s * 1000)));
  drain_timer.async_wait([this](boost::system::error_code stopped) {
    if (!stopped) end_drain();
  });
  finish_if_done();
}

// What still runs is cancelled and told so; whoever does not take that within a second is dropped.
void Server::State::end_drain() {
  drain_over = true;
  std::set<std::shared_ptr<Generation>> open;
  for (const auto& [id, place] : running) open.insert(place.generation);
  for (const auto& generation : open) {
    generation->fail(ApiError(503, "the server is shutting down", "", "shutting_down"));
    cancel(*generation);
  }
  drain_timer.expires_after(std::chrono::seconds(1));
  drain_timer.async_wait([this](boost::system::error_code stopped) {
    if (!stopped) io.stop();
  });
}

// Draining ends with the last connection; then nothing may keep the loop alive.
void Server::State::finish_if_done() {
  if (!draining || !connections.empty()) return;
  done = true;
  speed_timer.cancel();
  drain_timer.cancel();
  if (signals) signals->cancel();
}

void Server::State::start(const std::shared_ptr<Generation>& generation) {
  const int64_t most = most_choices(engine_thread->engine(), options);
  if (static_cast<int64_t>(running.size()) + generation->num_choices() > most) {
    ApiError error(429, "too many requests are waiting; try again later", "", "queue_full");
    error.retry_after_s = retry_after_s();
    throw error;
  }
  for (int64_t choice = 0; choice < generation->num_choices(); ++choice) {
    const RequestId id = engine_thread->add(generation->engine_request(choice), generation->num_top());
    running.emplace(id, Place{generation, choice});
  }
}

int Server::State::retry_after_s() const {
  // A queue of decode tokens at the speed of the last seconds, roughly: every sequence ahead makes 100 tokens.
  const double tok_s = metrics.speed.output_tok_s();
  const double seconds = tok_s > 0 ? static_cast<double>(running.size()) * 100 / tok_s : 1;
  return std::clamp(static_cast<int>(seconds), 1, 60);
}

void Server::State::cancel(const Generation& generation) {
  for (const auto& [id, place] : running)
    if (place.generation.get() == &generation) engine_thread->cancel(id);
}

void Server::State::take_events(std::vector<EngineEvent> events) {
  for (EngineEvent& event : events) {
    const auto found = running.find(event.request);
    if (found == running.end()) continue;
    const Place place = found->second;
    const RequestId id = event.request;
    const bool last = event.finish != FinishReason::none;
    if (last) running.erase(found);
    place.generation->on_event(place.choice, std::move(event));
    if (!last && place.generation->take_cancellation(place.choice)) engine_thread->cancel(id);
    if (last && place.generation->error()) cancel(*place.generation);  // its other choices: nobody waits for them
  }
}

Server::Server(Engine& engine, const Tokenizer& tokenizer, ServerOptions options)
    : state_(std::make_unique<State>(engine, tokenizer, std::move(options))) {}

Server::~Server() = default;

uint16_t Server::port() const {
  return state_->acceptor.local_endpoint().port();
}

std::string Server::url() const {
  const auto address = state_->acceptor.local_endpoint().address();
  return fmt::format(fmt::runtime(address.is_v6() ? "http://[{}]:{}" : "http://{}:{}"), address.to_string(), port());
}

bool Server::is_local() const {
  return state_->only_local;
}

void Server::run() {
  State& state = *state_;
  if (state.options.handle_signals) {
    state.signals.emplace(state.io, SIGINT, SIGTERM);
    const auto wait = [&state](const auto& self) -> void {
      state.signals->async_wait([&state, self](boost::system::error_code stopped, int) {
        if (stopped) return;
        state.begin_drain();
        if (!state.connections.empty()) self(self);
      });
    };
    wait(wait);
  }
  state.accept();
  state.sample_speed();
  state.io.run();
  if (state.engine_failed)
    throw Error("the engine failed in several steps in a row", "quantgrid serve",
                "the lines above say why; start it again", ExitCode::cannot_here);
}

void Server::stop() {
  asio::post(state_->io, [this] { state_->begin_drain(); });
}

}  // namespace qg
