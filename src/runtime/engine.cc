#include "runtime/engine.h"

#include <array>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "runtime/flight.h"
#include "runtime/scheduler.h"

namespace qg {

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::none:
      return "none";
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::refused:
      return "refused";
    case FinishReason::failed:
      return "failed";
  }
  return "unknown";
}

namespace {

// What other threads ask for, until the next step takes it.
struct Command {
  RequestId id = 0;
  bool cancel = false;
  Request request;
};

SchedulerLimits limits_of(const Executor& executor) {
  const ModelShape& shape = executor.table().shape;
  return {executor.page_tokens(), executor.num_pages(), executor.max_rows(), shape.vocab, shape.max_position};
}

}  // namespace

struct Engine::State {
  State(std::shared_ptr<Executor> executor_, const EngineOptions& options)
      : executor(std::move(executor_)),
        vocab(executor->table().shape.vocab),
        scheduler(options, limits_of(*executor)),
        stats(scheduler.stats()) {}

  using OnEvent = std::function<void(const TokenEvent&)>;

  bool take_commands(const OnEvent& on_event);
  void take(Command& command, const OnEvent& on_event);
  void end(const TokenEvent& event, const OnEvent& on_event);
  bool send(const std::vector<PlannedPiece>& planned);
  bool collect(const OnEvent& on_event);
  void give_out(const Flight& flight, const OnEvent& on_event);
  void fail(const Flight& flight, size_t piece, EngineClock::time_point time, const OnEvent& on_event);
  void give_out_prompt_logits(const Flight& flight, size_t piece, TokenEvent event, const OnEvent& on_event);
  std::span<const float> logits_row(const Flight& flight, int64_t row) const {
    return std::span<const float>(flight.output.logits).subspan(row * vocab, vocab);
  }
  void abandon_flights();
  bool runs_ahead() const { return executor->runs_ahead() && !scheduler.logits_wanted(); }
  void save_stats();

  // Used by the thread that calls step() only.
  std::shared_ptr<Executor> executor;
  int64_t vocab;
  Scheduler scheduler;
  std::array<Flight, 2> flights;
  size_t oldest = 0, under_way = 0;  // of flights: the oldest that was sent and not collected, how many there are
  std::vector<Command> taken;
  int64_t finished = 0, cancelled = 0, refused = 0, failed = 0;

  mutable std::mutex mutex;  // of all below
  std::condition_variable changed;
  std::vector<Command> inbox;
  RequestId next_id = 1;
  int64_t open = 0;     // requests that have not ended
  bool flying = false;  // a step is under way
  bool woken = false;
  EngineStats stats;
};

Engine::Engine(std::shared_ptr<Executor> executor, EngineOptions options)
    : state_(std::make_unique<State>(std::move(executor), options)) {}

Engine::~Engine() {
  state_->abandon_flights();
}

RequestId Engine::add(Request request) {
  RequestId id = 0;
  {
    const std::lock_guard lock(state_->mutex);
    id = state_->next_id++;
    ++state_->open;
    state_->inbox.push_back({id, false, std::move(request)});
  }
  state_->changed.notify_all();
  return id;
}

void Engine::cancel(RequestId id) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->inbox.push_back({id, true, {}});
  }
  state_->changed.notify_all();
}

bool Engine::idle() const {
  const std::lock_guard lock(state_->mutex);
  return state_->open == 0 && !state_->flying;
}

bool Engine::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(state_->mutex);
  const auto work = [this] { return state_->open > 0 || state_->flying || !state_->inbox.empty(); };
  state_->changed.wait_for(lock, limit, [&] { return work() || state_->woken; });
  state_->woken = false;
  return work();
}

void Engine::wake() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->woken = true;
  }
  state_->changed.notify_all();
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(state_->mutex);
  return state_->stats;
}

Executor& Engine::executor() {
  return *state_->executor;
}

const EngineOptions& Engine::options() const {
  return state_->scheduler.options();
}

bool Engine::step(const std::function<void(const TokenEvent&)>& on_event) {
  State& state = *state_;
  bool worked = state.take_commands(on_event);
  try {
    if (state.under_way > 0 && !(state.runs_ahead() && state.scheduler.can_plan_ahead()))
      worked |= state.collect(on_event);
    const bool sent = state.send(state.scheduler.plan());
    if (!sent && state.under_way == 0 && !state.scheduler.empty())
      throw Error("internal error: requests wait and none can run", "scheduler", "please report this");
    // One step stays under way, beside which the next call plans.
    const size_t stay = sent && state.runs_ahead() ? 1 : 0;
    while (state.under_way > stay) worked |= state.collect(on_event);
    worked |= sent;
  } catch (...) {
    state.abandon_flights();
    state.scheduler.take_back();
    state.save_stats();
    throw;
  }
  state.save_stats();
  return worked;
}

bool Engine::State::take_commands(const OnEvent& on_event) {
  {
    const std::lock_guard lock(mutex);
    taken.swap(inbox);
  }
  const bool any = !taken.empty();
  for (Command& command : taken) take(command, on_event);
  taken.clear();
  return any;
}

void Engine::State::take(Command& command, const OnEvent& on_event) {
  TokenEvent event;
  event.request = command.id;
  if (command.cancel) {
    if (!scheduler.cancel(command.id)) return;
    event.finish = FinishReason::cancelled;
  } else {
    event.reason = scheduler.refusal(command.request);
    if (event.reason.empty()) {
      scheduler.add(command.id, std::move(command.request));
      return;
    }
    event.finish = FinishReason::refused;
  }
  event.time = EngineClock::now();
  end(event, on_event);
}

// The last event of a request.
void Engine::State::end(const TokenEvent& event, const OnEvent& on_event) {
  ++(event.finish == FinishReason::cancelled ? cancelled
     : event.finish == FinishReason::refused ? refused
     : event.finish == FinishReason::failed  ? failed
                                             : finished);
  on_event(event);
  const std::lock_guard lock(mutex);
  --open;
}

bool Engine::State::send(const std::vector<PlannedPiece>& planned) {
  if (planned.empty()) return false;
  Flight& flight = flights[(oldest + under_way) % flights.size()];
  flight.prepare(planned, executor->page_tokens());
  executor->submit(flight.input());
  ++under_way;
  scheduler.sent();
  return true;
}

// Waits for the oldest step under way and gives its tokens out.
bool Engine::State::collect(const OnEvent& on_event) {
  Flight& flight = flights[oldest];
  oldest = (oldest + 1) % flights.size();
  --under_way;
  executor->collect(flight.output);
  flight.check_output(executor->name(), vocab);
  give_out(flight, on_event);
  return true;
}

// After an error, or at the end: waits until nothing uses pages any more; what comes out is of no use.
void Engine::State::abandon_flights() {
  for (; under_way > 0; --under_way) {
    try {
      executor->collect(flights[oldest].output);
    } catch (const std::exception&) {  // the error that led here, or another for the same reason
    }
    oldest = (oldest + 1) % flights.size();
  }
}

void Engine::State::give_out(const Flight& flight, const OnEvent& on_event) {
  TokenEvent event;
  event.time = EngineClock::now();
  int64_t sampled_row = 0;
  for (size_t i = 0; i < flight.planned().size(); ++i) {
    const PlannedPiece& piece = flight.planned()[i];
    if (piece.sequence->ended) {  // by a token of the step before, or cancelled, when this one was under way
      scheduler.discard(piece);
      sampled_row += piece.sample;
      continue;
    }
    const LogitsWanted wanted = piece.sequence->request.logits;
    const int32_t token = flight.output.sampled[i];
    event.request = piece.sequence->id;
    if (piece.sample && token == kNotFinite) {
      ++sampled_row;
      fail(flight, i, event.time, on_event);
      continue;
    }
    if (wanted == LogitsWanted::all) give_out_prompt_logits(flight, i, event, on_event);
    const FinishReason finish = scheduler.complete(piece, token);
    if (!piece.sample) continue;
    event.finish = finish;
    event.token = piece.sequence->request.max_tokens == 0 ? -1 : token;
    event.position = flight.output_position(i);
    event.logits = {};
    if (wanted != LogitsWanted::none)
      event.logits = logits_row(
          flight, flight.logits() == LogitsWanted::all ? flight.first_row(i) + piece.num_tokens - 1 : sampled_row);
    ++sampled_row;
    if (finish == FinishReason::none) {
      on_event(event);
    } else {
      scheduler.remove(piece.sequence);
      end(event, on_event);
    }
  }
}

// Nobody else's tokens depend on such a row, so that only this request ends.
void Engine::State::fail(const Flight& flight, size_t i, EngineClock::time_point time, const OnEvent& on_event) {
  const PlannedPiece& piece = flight.planned()[i];
  TokenEvent event;
  event.request = piece.sequence->id;
  event.position = flight.output_position(i);
  event.time = time;
  event.finish = FinishReason::failed;
  scheduler.fail(piece);
  event.reason = "the model's logits are not finite numbers; look at the layers with `quantgrid inspect`";
  end(event, on_event);
}

// Rows that are computed for the first time, but for the prompt's last: its logits come with the first token.
void Engine::State::give_out_prompt_logits(const Flight& flight, size_t i, TokenEvent event, const OnEvent& on_event) {
  const PlannedPiece& piece = flight.planned()[i];
  const Sequence& sequence = *piece.sequence;
  event.token = -1;
  event.finish = FinishReason::none;
  for (int64_t row = piece.begin; row < piece.begin + piece.num_tokens; ++row) {
    if (row < sequence.first_time_tokens || row >= sequence.prompt_tokens - 1) continue;
    event.position = row + 1 - sequence.prompt_tokens;
    event.logits = logits_row(flight, flight.first_row(i) + row - piece.begin);
    on_event(event);
  }
}

void Engine::State::save_stats() {
  const EngineStats& now = scheduler.stats();
  const std::lock_guard lock(mutex);
  flying = under_way > 0;
  stats = now;
  stats.finished = finished;
  stats.cancelled = cancelled;
  stats.refused = refused;
  stats.failed = failed;
}

}  // namespace qg
