#include "runtime/cuda_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>

#include "core/error.h"
#include "core/log.h"
#include "kernels/common/cuda_memory_error.h"
#include "kernels/pointwise/run.h"
#include "runtime/cpu_forward.h"
#include "runtime/cpu_layer.h"
#include "runtime/cuda_clock.h"
#include "runtime/cuda_forward.h"
#include "runtime/cuda_launcher.h"
#include "runtime/cuda_sampled.h"
#include "runtime/cuda_tune.h"
#include "runtime/step_check.h"
#include "runtime/step_plan.h"
#include "runtime/weight_budget.h"

namespace qg {
namespace {

// Kept free for CUDA itself: graphs, local memory of kernels, the driver's own.
constexpr int64_t kReservedBytes = int64_t{1} << 30;
// Some kernels have a step's rows along y of their grid.
constexpr int64_t kMostRows = 65535;

// A step that was submitted and not collected.
struct Flight {
  int slot = 0;
  int64_t number = -1;              // BusyClock's; -1: there was nothing to do
  int64_t tokens = 0;               // that the host waits for, those of padding too
  std::vector<int64_t> sampled_at;  // place of each piece's sampled token; -1 where the piece does not sample
  StepOutput output;
};

// Streams and events belong to the device that is current when they are made.
struct CurrentDevice {
  explicit CurrentDevice(int device) { QG_CUDA(cudaSetDevice(device)); }
};

class CudaExecutor : public Executor {
 public:
  CudaExecutor(std::shared_ptr<const Checkpoint> checkpoint, const ExecutorOptions& options,
               const CudaExecutorOptions& cuda);
  ~CudaExecutor() override { cudaStreamSynchronize(stream_.stream); }

  const ModelTable& table() const override { return table_; }
  KvFormat kv_format() const override { return options_.kv; }
  int64_t page_tokens() const override { return options_.page_tokens; }
  int64_t num_pages() const override { return limits_.num_pages; }
  int64_t max_rows() const override { return options_.max_rows; }
  void set_tap(Tap tap) override { tap_ = std::move(tap); }
  int64_t weight_bytes() const override { return model_.bytes; }
  int64_t kv_pool_bytes() const override { return static_cast<int64_t>(pool_.bytes()); }
  std::string name() const override { return "cuda"; }
  double device_seconds() override { return clock_.seconds(); }
  std::vector<std::string> kernels() const override {
    return {launcher_->kernels().begin(), launcher_->kernels().end()};
  }
  ComputePath compute_path() const override { return model_.layers.front().gate_up->path(); }
  void step(const StepInput& input, StepOutput& output) override;
  void submit(const StepInput& input) override;
  void collect(StepOutput& output) override;
  bool runs_ahead() const override { return !tap_; }
  void copy_page(int32_t from, int32_t to) override;

 private:
  WeightBudget weight_budget() const;
  void load();
  int64_t fitting_pages(int64_t page_bytes) const;
  void make_buffers();
  CudaForward forward();
  void launch(const StepInput& input, Flight& flight);
  void run(const StepInput& input, std::span<const size_t> order, bool beside, Flight& flight);

  std::shared_ptr<const Checkpoint> checkpoint_;
  ModelTable table_;
  ExecutorOptions options_;
  CudaExecutorOptions cuda_;
  CurrentDevice current_;  // before all that is made on the card
  DeviceCapabilities device_;
  AttentionDesc attention_desc_;
  StepLimits limits_;
  int64_t pages_per_piece_ = 0;
  CudaStream stream_, copies_;
  CudaQueue queue_;
  std::unique_ptr<CudaLinearContext> linear_;
  CudaModel model_;
  std::unique_ptr<CudaActivations> buffers_;
  std::unique_ptr<CudaAttention> attention_;
  std::array<std::unique_ptr<CudaStepBatch>, SampledTokens::kSlots> batches_;
  std::unique_ptr<SampledTokens> sampled_;
  std::vector<KvScale> kv_scales_;
  std::vector<CudaShaping> shaping_;
  std::vector<CudaKvShaping> kv_shaping_;
  DeviceBuffer rope_table_, pool_;
  std::unique_ptr<CudaLauncher> launcher_;
  Tap tap_;
  BusyClock clock_;
  std::deque<Flight> flights_;       // the oldest first
  std::vector<int64_t> sampled_at_;  // Flight::sampled_at of the step that was submitted last
  int next_slot_ = 0;
};

CudaExecutor::CudaExecutor(std::shared_ptr<const Checkpoint> checkpoint, const ExecutorOptions& options,
                           const CudaExecutorOptions& cuda)
    : checkpoint_(std::move(checkpoint)),
      table_(checkpoint_->table()),
      options_(options),
      cuda_(cuda),
      current_(cuda_.device),
      device_(read_device_capabilities(cuda_.device)) {
  if (cuda_.family) device_.family = std::min(device_.family, *cuda_.family);
  if (cuda_.shared_bytes > 0)
    device_.shared_bytes_per_block = std::min(device_.shared_bytes_per_block, cuda_.shared_bytes);
  if (options_.max_pieces <= 0) options_.max_pieces = options_.max_rows;
  if (options_.page_tokens <= 0 || options_.max_rows <= 0)
    throw Error(
        fmt::format("page_tokens {} and max_rows {} must be positive", options_.page_tokens, options_.max_rows));
  if (options_.max_rows > kMostRows)
    throw Error(fmt::format("the GPU engine takes at most {} rows a step, not {}", kMostRows, options_.max_rows), "",
                "take fewer (--max-rows)");
  const ModelShape& s = table_.shape;
  if (s.hidden > kLargestNormWidth || s.hidden % 8 != 0 || s.ffn % 8 != 0)
    throw Error(
        fmt::format("the GPU engine takes widths that are multiples of 8 and at most {}; the model has hidden {} "
                    "and ffn {}",
                    kLargestNormWidth, s.hidden, s.ffn),
        checkpoint_->folder().string(), "use --executor cpu");
  attention_desc_.heads = s.heads;
  attention_desc_.kv = {options_.kv, s.kv_heads, s.head_dim, options_.page_tokens};
  attention_desc_.sliding_window = s.sliding_window;
  attention_desc_.score_scale = attention_score_scale(s);
  for (const KvLayerStorage& storage : kv_storage_for(*checkpoint_, options_.kv)) {
    kv_scales_.push_back(storage.scale);
    if (!storage.shaping) continue;
    shaping_.push_back(upload_shaping(*storage.shaping));
    kv_shaping_.push_back(shaping_.back().view());
  }
  queue_ = {stream_.stream, device_.family == KernelFamily::sm90a};
  check_weights_fit(weight_budget(), checkpoint_->folder().string());
  try {
    load();
  } catch (const DeviceMemoryError& e) {  // more than the estimate, or others took it meanwhile
    const WeightBudget b = weight_budget();
    throw Error(fmt::format("the card's memory ran out: {}; weights take {} bytes of its {}, and {} are kept free",
                            e.problem(), b.weight_bytes, b.card_bytes, b.reserved_bytes),
                checkpoint_->folder().string(),
                "take a smaller weight format, batch or number of rows a step, or end what else runs on the card",
                ExitCode::cannot_here);
  }
}

WeightBudget CudaExecutor::weight_budget() const {
  size_t free_bytes = 0, total_bytes = 0;
  QG_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  return {static_cast<int64_t>(total_bytes), static_cast<int64_t>(free_bytes), cuda_.memory_bytes, kReservedBytes,
          device_weight_bytes(table_, checkpoint_->quant())};
}

void CudaExecutor::load() {
  linear_ = std::make_unique<CudaLinearContext>(device_, options_.max_rows, cuda_.dtype);
  // With --deterministic the library's own first choices stand, which are the same in every run.
  std::optional<CudaTuning> tuning;
  if (!options_.deterministic) tuning.emplace(cuda_, device_, *linear_);
  model_ = load_cuda_model(*checkpoint_, *linear_);
  // As CudaActivations are made.
  const int64_t logits = logit_rows(options_.max_rows, options_.max_pieces);
  for (const CudaLayer& layer : model_.layers)
    for (CudaLinear* linear : {layer.qkv.get(), layer.attention_output.get(), layer.gate_up.get(), layer.down.get()})
      linear->set_room(options_.max_rows);
  model_.lm_head->set_room(logits);
  if (tuning) tuning->measure(model_, options_.max_rows, logits);
  make_buffers();
}

int64_t CudaExecutor::fitting_pages(int64_t page_bytes) const {
  size_t free_bytes = 0, total_bytes = 0;
  QG_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  KvBudget budget;
  budget.card_bytes = static_cast<int64_t>(total_bytes);
  budget.free_bytes = static_cast<int64_t>(free_bytes);
  budget.limit_bytes = cuda_.memory_bytes;
  budget.reserved_bytes = kReservedBytes;
  budget.weight_bytes = model_.bytes;
  budget.buffer_bytes = buffers_->bytes() + linear_->bytes() + attention_->scratch_bytes();
  budget.page_bytes = page_bytes;
  budget.page_tokens = options_.page_tokens;
  budget.wanted_pages = options_.num_pages;
  budget.wanted_bytes = options_.kv_bytes;
  budget.less_will_do = options_.less_kv_will_do;
  return pages_that_fit(budget);
}

void CudaExecutor::make_buffers() {
  const ModelShape& s = table_.shape;
  const int64_t longest = s.max_position > 0 ? s.max_position : 4096;
  pages_per_piece_ = (longest + options_.page_tokens - 1) / options_.page_tokens;
  if (options_.num_pages > 0) pages_per_piece_ = std::min(pages_per_piece_, options_.num_pages);
  // Graphs read page tables as wide as their context bucket.
  pages_per_piece_ =
      std::max(pages_per_piece_, context_bucket(pages_per_piece_ * options_.page_tokens) / options_.page_tokens);
  buffers_ = std::make_unique<CudaActivations>(s, options_.max_rows, options_.max_pieces);
  attention_ = std::make_unique<CudaAttention>(attention_desc_, device_, options_.max_rows, options_.max_pieces,
                                               pages_per_piece_);
  for (auto& batch : batches_)
    batch = std::make_unique<CudaStepBatch>(BatchLimits{options_.max_rows, options_.max_pieces, pages_per_piece_});
  sampled_ = std::make_unique<SampledTokens>(options_.max_rows);
  std::vector<int64_t> positions(static_cast<size_t>(std::min(longest, pages_per_piece_ * options_.page_tokens)));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int64_t>(i);
  const RopeTable rope = make_rope_table(rope_frequencies(s), positions);
  std::vector<float> pairs(2 * rope.cosine.size());
  for (size_t i = 0; i < rope.cosine.size(); ++i) {
    pairs[2 * i] = rope.cosine[i];
    pairs[2 * i + 1] = rope.sine[i];
  }
  rope_table_ = upload_f32(pairs);
  const int64_t page_bytes = s.layers * attention_desc_.kv.page_bytes();
  limits_ = {options_.max_rows, options_.page_tokens, fitting_pages(page_bytes), true};
  pool_ = DeviceBuffer(static_cast<size_t>(limits_.num_pages * page_bytes));
  QG_CUDA(cudaMemset(pool_.data(), 0, pool_.bytes()));
  launcher_ = std::make_unique<CudaLauncher>(forward(), queue_, *sampled_, options_.max_rows, cuda_.most_graphs);
  info("{}: weights {} bytes, buffers {} bytes, KV cache {} bytes ({} tokens)", device_.name, model_.bytes,
       buffers_->bytes() + linear_->bytes() + attention_->scratch_bytes(), pool_.bytes(),
       limits_.num_pages * options_.page_tokens);
}

CudaForward CudaExecutor::forward() {
  return {table_.shape,
          model_,
          *buffers_,
          *attention_,
          attention_desc_.kv,
          kv_scales_,
          kv_shaping_,
          rope_table_.as<float2>(),
          sampled_->device(),
          pool_.data(),
          limits_.num_pages * attention_desc_.kv.page_bytes(),
          device_.shared_bytes_per_block,
          {}};
}

void CudaExecutor::step(const StepInput& input, StepOutput& output) {
  if (!flights_.empty()) throw Error("a whole step is asked for while another is under way", "cuda executor");
  submit(input);
  collect(output);
}

void CudaExecutor::submit(const StepInput& input) {
  if (flights_.size() == SampledTokens::kSlots)
    throw Error("a step is submitted, and the two before were not collected", "cuda executor");
  check_step(input, table_.shape, limits_);
  if (static_cast<int64_t>(input.pieces.size()) > options_.max_pieces)
    throw Error(
        fmt::format("a step of {} sequences is over the limit of {}", input.pieces.size(), options_.max_pieces));
  for (const SequencePiece& piece : input.pieces)
    if (piece.token_of_piece >= static_cast<int64_t>(sampled_at_.size()) ||
        (piece.token_of_piece >= 0 && sampled_at_[static_cast<size_t>(piece.token_of_piece)] < 0))
      throw Error(fmt::format("piece {} of the step before, which had {}, sampled no token that could be computed with",
                              piece.token_of_piece, sampled_at_.size()));
  Flight flight;
  flight.slot = next_slot_;
  flight.output.sampled.assign(input.pieces.size(), -1);
  flight.sampled_at.assign(input.pieces.size(), -1);
  QG_CUDA(cudaSetDevice(cuda_.device));
  try {
    if (!input.tokens.empty()) launch(input, flight);
  } catch (...) {
    cudaStreamSynchronize(stream_.stream);  // a part of it may be on its way
    throw;
  }
  sampled_at_ = flight.sampled_at;
  next_slot_ = (next_slot_ + 1) % SampledTokens::kSlots;
  flights_.push_back(std::move(flight));
}

void CudaExecutor::launch(const StepInput& input, Flight& flight) {
  clock_.start(stream_.stream);
  const bool keep_order = tap_ || input.logits != LogitsWanted::none;
  const std::vector<size_t> order = step_order(input.pieces, keep_order);
  // While the step before runs, the batch is copied beside it; nobody reads the slot's memory then, since
  // clock_.start() has waited for the end of the step before that one, which had the slot. A copy between two steps
  // would cost the device some microseconds.
  const bool beside = !flights_.empty();
  if (!options_.deterministic) {
    run(input, order, beside, flight);
  } else {
    for (size_t i = 0; i < order.size(); ++i) run(input, std::span(&order[i], 1), beside && i == 0, flight);
  }
  flight.number = clock_.stop(stream_.stream);
}

void CudaExecutor::run(const StepInput& input, std::span<const size_t> order, bool beside, Flight& flight) {
  std::vector<const SequencePiece*> pieces;
  int64_t columns = 1;
  for (const size_t i : order) {
    const SequencePiece& piece = input.pieces[i];
    pieces.push_back(&piece);
    columns = std::max(columns, static_cast<int64_t>(piece.pages.size()));
  }
  const PlannedStep planned =
      plan_step(pieces, input.logits, static_cast<bool>(tap_),
                {options_.max_rows, options_.max_pieces, buffers_->logit_rows, cuda_.graphs, options_.deterministic});
  if (columns > pages_per_piece_)
    throw Error(fmt::format("a sequence of {} pages, at most {} were planned for", columns, pages_per_piece_));
  // A graph's page table is as wide as its context bucket; prefill kernels plan for the widest.
  columns = planned.graph ? planned.shape.max_context / options_.page_tokens : pages_per_piece_;
  CudaStepBatch& batch = *batches_[static_cast<size_t>(flight.slot)];
  batch.fill(input.tokens, pieces, planned.graph ? planned.shape.rows : static_cast<int64_t>(pieces.size()), columns,
             sampled_at_, flight.tokens);
  sampled_->expect(flight.slot, flight.tokens, batch.samples());
  batch.upload(beside ? copies_.stream : stream_.stream);
  if (beside) batch.wait_uploaded();
  launcher_->run({batch, flight.slot, pieces, planned, input.logits, tap_}, flight.output.logits);
  int64_t at = sampled_->place(flight.slot, flight.tokens);
  for (const size_t i : order)
    if (input.pieces[i].sample) flight.sampled_at[i] = at++;
  flight.tokens += batch.samples();
}

void CudaExecutor::collect(StepOutput& output) {
  if (flights_.empty()) throw Error("no step was submitted that could be collected", "cuda executor");
  Flight flight = std::move(flights_.front());
  flights_.pop_front();
  if (flight.tokens == 0 && flight.number >= 0) clock_.wait(flight.number);
  const std::span<const int32_t> tokens = sampled_->wait(flight.slot, flight.tokens, stream_.stream);
  const int64_t first = sampled_->place(flight.slot, 0);
  for (size_t i = 0; i < flight.sampled_at.size(); ++i) {
    if (flight.sampled_at[i] < 0) continue;
    const int32_t token = tokens[static_cast<size_t>(flight.sampled_at[i] - first)];
    flight.output.sampled[i] = token < 0 ? kNotFinite : token;
  }
  output = std::move(flight.output);
}

void CudaExecutor::copy_page(int32_t from, int32_t to) {
  check_page(from, limits_);
  check_page(to, limits_);
  if (from == to) return;
  const int64_t bytes = attention_desc_.kv.page_bytes();
  for (int64_t layer = 0; layer < table_.shape.layers; ++layer) {
    std::byte* pool = pool_.data() + layer * limits_.num_pages * bytes;
    QG_CUDA(cudaMemcpyAsync(pool + to * bytes, pool + from * bytes, static_cast<size_t>(bytes),
                            cudaMemcpyDeviceToDevice, stream_.stream));
  }
}

}  // namespace

std::unique_ptr<Executor> make_cuda_executor(std::shared_ptr<const Checkpoint> checkpoint,
                                             const ExecutorOptions& options, const CudaExecutorOptions& cuda) {
  return std::make_unique<CudaExecutor>(std::move(checkpoint), options, cuda);
}

}  // namespace qg
