#include "runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "core/error.h"
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
  void build_input(const std::vector<PlannedPiece>& planned);
  void check_output() const;
  void give_out(const std::vector<PlannedPiece>& planned, const OnEvent& on_event);
  void give_out_prompt_logits(const PlannedPiece& piece, int64_t first_row, TokenEvent event, const OnEvent& on_event);
  std::span<const float> logits_row(int64_t row) const {
    return std::span<const float>(output.logits).subspan(row * vocab, vocab);
  }
  void save_stats();

  // Used by the thread that calls step() only.
  std::shared_ptr<Executor> executor;
  int64_t vocab;
  Scheduler scheduler;
  std::vector<int32_t> tokens;
  std::vector<SequencePiece> pieces;
  StepInput input;
  StepOutput output;
  std::vector<Command> taken;
  int64_t finished = 0, cancelled = 0, refused = 0;

  mutable std::mutex mutex;  // of all below
  std::condition_variable changed;
  std::vector<Command> inbox;
  RequestId next_id = 1;
  int64_t open = 0;  // requests that have not ended
  bool woken = false;
  EngineStats stats;
};

Engine::Engine(std::shared_ptr<Executor> executor, EngineOptions options)
    : state_(std::make_unique<State>(std::move(executor), options)) {}

Engine::~Engine() = default;

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
  return state_->open == 0;
}

bool Engine::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(state_->mutex);
  const auto work = [this] { return state_->open > 0 || !state_->inbox.empty(); };
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
  const bool commands = state.take_commands(on_event);
  const std::vector<PlannedPiece>& planned = state.scheduler.plan();
  if (planned.empty() && !state.scheduler.empty())
    throw Error("internal error: requests wait and none can run", "scheduler", "please report this");
  if (!planned.empty()) {
    state.build_input(planned);
    state.executor->step(state.input, state.output);
    state.check_output();
    state.give_out(planned, on_event);
  }
  state.save_stats();
  return commands || !planned.empty();
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
  ++(event.finish == FinishReason::cancelled ? cancelled : event.finish == FinishReason::refused ? refused : finished);
  on_event(event);
  const std::lock_guard lock(mutex);
  --open;
}

void Engine::State::build_input(const std::vector<PlannedPiece>& planned) {
  tokens.clear();
  pieces.clear();
  input.logits = LogitsWanted::none;
  const int64_t page_tokens = executor->page_tokens();
  for (const PlannedPiece& plan : planned) {
    const Sequence& sequence = *plan.sequence;
    const int64_t begin = sequence.computed_tokens, end = begin + plan.num_tokens;
    SequencePiece& piece = pieces.emplace_back();
    piece.first_row = static_cast<int64_t>(tokens.size());
    piece.num_tokens = plan.num_tokens;
    piece.context_tokens = begin;
    piece.pages = std::span<const int32_t>(sequence.pages).first((end + page_tokens - 1) / page_tokens);
    piece.sample = plan.sample;
    piece.output_position = sequence.generated_tokens();
    piece.sampling = sequence.request.sampling;
    tokens.insert(tokens.end(), sequence.tokens.begin() + begin, sequence.tokens.begin() + end);
    input.logits = std::max(input.logits, sequence.request.logits);  // none < sampled < all
  }
  input.tokens = tokens;
  input.pieces = pieces;
}

void Engine::State::check_output() const {
  const auto wrong = [this](const std::string& what) {
    throw Error("internal error: " + what, "executor " + executor->name(), "please report this");
  };
  if (output.sampled.size() != pieces.size())
    wrong(fmt::format("{} tokens for {} pieces", output.sampled.size(), pieces.size()));
  int64_t rows = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].sample && (output.sampled[i] < 0 || output.sampled[i] >= vocab))
      wrong(fmt::format("sampled token {} of {}", output.sampled[i], vocab));
    rows += input.logits == LogitsWanted::all ? pieces[i].num_tokens : pieces[i].sample;
  }
  if (input.logits != LogitsWanted::none && static_cast<int64_t>(output.logits.size()) != rows * vocab)
    wrong(fmt::format("{} logits for {} rows of {}", output.logits.size(), rows, vocab));
}

void Engine::State::give_out(const std::vector<PlannedPiece>& planned, const OnEvent& on_event) {
  TokenEvent event;
  event.time = EngineClock::now();
  int64_t sampled_row = 0;
  for (size_t i = 0; i < planned.size(); ++i) {
    const PlannedPiece& piece = planned[i];
    const LogitsWanted wanted = piece.sequence->request.logits;
    event.request = piece.sequence->id;
    if (wanted == LogitsWanted::all) give_out_prompt_logits(piece, pieces[i].first_row, event, on_event);
    const FinishReason finish = scheduler.complete(piece, output.sampled[i]);
    if (!piece.sample) continue;
    event.finish = finish;
    event.token = piece.sequence->request.max_tokens == 0 ? -1 : output.sampled[i];
    event.position = pieces[i].output_position;
    event.logits = {};
    if (wanted != LogitsWanted::none)
      event.logits =
          logits_row(input.logits == LogitsWanted::all ? pieces[i].first_row + piece.num_tokens - 1 : sampled_row);
    ++sampled_row;
    if (finish == FinishReason::none) {
      on_event(event);
    } else {
      scheduler.remove(piece.sequence);
      end(event, on_event);
    }
  }
}

// Rows that are computed for the first time, but for the prompt's last: its logits come with the first token.
void Engine::State::give_out_prompt_logits(const PlannedPiece& piece, int64_t first_row, TokenEvent event,
                                           const OnEvent& on_event) {
  const Sequence& sequence = *piece.sequence;
  event.token = -1;
  event.finish = FinishReason::none;
  for (int64_t i = 0; i < piece.num_tokens; ++i) {
    const int64_t row = sequence.computed_tokens + i;
    if (row < sequence.first_time_tokens || row >= sequence.prompt_tokens - 1) continue;
    event.position = row + 1 - sequence.prompt_tokens;
    event.logits = logits_row(first_row + i);
    on_event(event);
  }
}

void Engine::State::save_stats() {
  const EngineStats& now = scheduler.stats();
  const std::lock_guard lock(mutex);
  stats = now;
  stats.finished = finished;
  stats.cancelled = cancelled;
  stats.refused = refused;
}

}  // namespace qg
