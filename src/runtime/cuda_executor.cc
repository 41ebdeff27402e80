#include "runtime/cuda_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "core/error.h"
#include "core/float.h"
#include "core/log.h"
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/run.h"
#include "runtime/cpu_forward.h"
#include "runtime/cpu_layer.h"
#include "runtime/cuda_forward.h"
#include "runtime/cuda_tap.h"
#include "runtime/step_check.h"
#include "runtime/step_plan.h"

namespace qg {
namespace {

// Kept free for CUDA itself: graphs, local memory of kernels, the driver's own.
constexpr int64_t kReservedBytes = int64_t{1} << 30;

struct Stream {
  Stream() { QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t stream = nullptr;
};

// Time between two points of a stream.
struct StepTimer {
  StepTimer() {
    QG_CUDA(cudaEventCreate(&begin));
    QG_CUDA(cudaEventCreate(&end));
  }
  ~StepTimer() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  StepTimer(const StepTimer&) = delete;
  StepTimer& operator=(const StepTimer&) = delete;
  cudaEvent_t begin = nullptr, end = nullptr;
};

class CudaExecutor : public Executor {
 public:
  CudaExecutor(std::shared_ptr<const Checkpoint> checkpoint, const ExecutorOptions& options,
               const CudaExecutorOptions& cuda);
  ~CudaExecutor() override {
    for (auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
  }

  const ModelTable& table() const override { return table_; }
  KvFormat kv_format() const override { return options_.kv; }
  int64_t page_tokens() const override { return options_.page_tokens; }
  int64_t num_pages() const override { return limits_.num_pages; }
  int64_t max_rows() const override { return options_.max_rows; }
  void set_tap(Tap tap) override { tap_ = std::move(tap); }
  int64_t weight_bytes() const override { return model_.bytes; }
  int64_t kv_pool_bytes() const override { return static_cast<int64_t>(pool_.bytes()); }
  std::string name() const override { return "cuda"; }
  double device_seconds() const override { return device_seconds_; }
  std::vector<std::string> kernels() const override { return {ran_.begin(), ran_.end()}; }
  ComputePath compute_path() const override { return model_.layers.front().gate_up->path(); }
  void step(const StepInput& input, StepOutput& output) override;
  void copy_page(int32_t from, int32_t to) override;

 private:
  void choose_algorithms();
  int64_t fitting_pages(int64_t page_bytes) const;
  void make_buffers();
  CudaForward forward();
  void run(const StepInput& input, std::span<const size_t> order, StepOutput& output);
  void launch_directly(const StepInput& input, std::span<const SequencePiece* const> pieces, const PlannedStep& planned,
                       StepOutput& output);
  void launch_graph(const StepShape& shape);
  void heads(int64_t samples, const std::function<void(int64_t first, int64_t count)>& after_each);
  void read_logits(int64_t count, float* to);
  void finish(std::span<const size_t> sampling, StepOutput& output);

  std::shared_ptr<const Checkpoint> checkpoint_;
  ModelTable table_;
  ExecutorOptions options_;
  CudaExecutorOptions cuda_;
  DeviceCapabilities device_;
  AttentionDesc attention_desc_;
  StepLimits limits_;
  int64_t pages_per_piece_ = 0;
  Stream stream_;
  CudaQueue queue_;
  std::unique_ptr<CudaLinearContext> linear_;
  CudaModel model_;
  std::unique_ptr<CudaActivations> buffers_;
  std::unique_ptr<CudaAttention> attention_;
  std::unique_ptr<CudaStepBatch> batch_;
  std::vector<KvScale> kv_scales_;
  std::vector<CudaShaping> shaping_;
  std::vector<CudaKvShaping> kv_shaping_;
  DeviceBuffer rope_table_, pool_, row_numbers_;
  PinnedBuffer sampled_, logits_;
  std::map<std::tuple<int64_t, int64_t, bool>, cudaGraphExec_t> graphs_;  // by rows, context, draws
  std::set<std::string> ran_;
  Tap tap_;
  StepTimer timer_;
  double device_seconds_ = 0;
};

CudaExecutor::CudaExecutor(std::shared_ptr<const Checkpoint> checkpoint, const ExecutorOptions& options,
                           const CudaExecutorOptions& cuda)
    : checkpoint_(std::move(checkpoint)), table_(checkpoint_->table()), options_(options), cuda_(cuda) {
  QG_CUDA(cudaSetDevice(cuda_.device));
  device_ = read_device_capabilities(cuda_.device);
  if (cuda_.family) device_.family = std::min(device_.family, *cuda_.family);
  if (options_.max_pieces <= 0) options_.max_pieces = options_.max_rows;
  if (options_.page_tokens <= 0 || options_.max_rows <= 0)
    throw Error(
        fmt::format("page_tokens {} and max_rows {} must be positive", options_.page_tokens, options_.max_rows));
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
  linear_ = std::make_unique<CudaLinearContext>(device_, options_.max_rows);
  model_ = load_cuda_model(*checkpoint_, *linear_);
  if (!options_.deterministic) choose_algorithms();
  make_buffers();
}

// Library products are timed here once, for every bucket of rows that a step may have. Layers of one shape share what
// was found. With --deterministic the library's own first choice stands, which is the same in every run.
void CudaExecutor::choose_algorithms() {
  const CudaLayer& layer = model_.layers.front();
  for (int64_t m = 16; m < options_.max_rows; m += m < 64 ? 16 : m < 512 ? 64 : m < 2048 ? 256 : 1024)
    for (CudaLinear* linear :
         {layer.qkv.get(), layer.attention_output.get(), layer.gate_up.get(), layer.down.get(), model_.lm_head.get()})
      if (linear != model_.lm_head.get() || m <= kLogitRows) linear->prepare(m);
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
  buffers_ = std::make_unique<CudaActivations>(s, options_.max_rows);
  attention_ = std::make_unique<CudaAttention>(attention_desc_, device_, options_.max_rows, options_.max_pieces,
                                               pages_per_piece_);
  batch_ = std::make_unique<CudaStepBatch>(BatchLimits{options_.max_rows, options_.max_pieces, pages_per_piece_});
  std::vector<int64_t> positions(static_cast<size_t>(std::min(longest, pages_per_piece_ * options_.page_tokens)));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int64_t>(i);
  const RopeTable rope = make_rope_table(rope_frequencies(s), positions);
  std::vector<float> pairs(2 * rope.cosine.size());
  for (size_t i = 0; i < rope.cosine.size(); ++i) {
    pairs[2 * i] = rope.cosine[i];
    pairs[2 * i + 1] = rope.sine[i];
  }
  rope_table_ = upload_f32(pairs);
  std::vector<int32_t> numbers(static_cast<size_t>(options_.max_rows));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int32_t>(i);
  row_numbers_ = DeviceBuffer(numbers.size() * sizeof(int32_t));
  QG_CUDA(cudaMemcpy(row_numbers_.data(), numbers.data(), row_numbers_.bytes(), cudaMemcpyHostToDevice));
  sampled_ = PinnedBuffer(static_cast<size_t>(options_.max_rows) * sizeof(int32_t));
  const int64_t page_bytes = s.layers * attention_desc_.kv.page_bytes();
  limits_ = {options_.max_rows, options_.page_tokens, fitting_pages(page_bytes)};
  pool_ = DeviceBuffer(static_cast<size_t>(limits_.num_pages * page_bytes));
  QG_CUDA(cudaMemset(pool_.data(), 0, pool_.bytes()));
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
          pool_.data(),
          limits_.num_pages * attention_desc_.kv.page_bytes(),
          {}};
}

void CudaExecutor::step(const StepInput& input, StepOutput& output) {
  check_step(input, table_.shape, limits_);
  if (static_cast<int64_t>(input.pieces.size()) > options_.max_pieces)
    throw Error(
        fmt::format("a step of {} sequences is over the limit of {}", input.pieces.size(), options_.max_pieces));
  output.sampled.assign(input.pieces.size(), -1);
  output.logits.clear();
  if (input.tokens.empty()) return;
  QG_CUDA(cudaSetDevice(cuda_.device));
  const bool keep_order = tap_ || input.logits != LogitsWanted::none;
  const std::vector<size_t> order = step_order(input.pieces, keep_order);
  if (!options_.deterministic) return run(input, order, output);
  for (const size_t piece : order) run(input, std::span(&piece, 1), output);
}

void CudaExecutor::run(const StepInput& input, std::span<const size_t> order, StepOutput& output) {
  std::vector<const SequencePiece*> pieces;
  std::vector<size_t> sampling;  // numbers of the pieces that sample, in the order of their rows
  int64_t columns = 1;
  for (const size_t i : order) {
    const SequencePiece& piece = input.pieces[i];
    pieces.push_back(&piece);
    if (piece.sample) sampling.push_back(i);
    columns = std::max(columns, static_cast<int64_t>(piece.pages.size()));
  }
  const PlannedStep planned = plan_step(pieces, input.logits, static_cast<bool>(tap_),
                                        {options_.max_rows, options_.max_pieces, kLogitRows, cuda_.graphs});
  if (columns > pages_per_piece_)
    throw Error(fmt::format("a sequence of {} pages, at most {} were planned for", columns, pages_per_piece_));
  // A graph's page table is as wide as its context bucket; prefill kernels plan for the widest.
  columns = planned.graph ? planned.shape.max_context / options_.page_tokens : pages_per_piece_;
  batch_->fill(input.tokens, pieces, planned.graph ? planned.shape.rows : static_cast<int64_t>(pieces.size()), columns);
  QG_CUDA(cudaEventRecord(timer_.begin, stream_.stream));
  batch_->upload(stream_.stream);
  // Decoding is a chain of short kernels, which only overlap where they agree on the memory of a multiprocessor.
  queue_.shared_percent =
      queue_.chained && planned.graph ? model_.layers.front().gate_up->shared_percent(planned.shape.rows) : -1;
  if (planned.graph) {
    launch_graph(planned.shape);
    if (input.logits == LogitsWanted::sampled) {
      const size_t before = output.logits.size(), count = sampling.size() * static_cast<size_t>(table_.shape.vocab);
      output.logits.resize(before + count);
      read_logits(static_cast<int64_t>(sampling.size()), output.logits.data() + before);
    }
  } else {
    launch_directly(input, pieces, planned, output);
  }
  finish(sampling, output);
}

void CudaExecutor::heads(int64_t samples, const std::function<void(int64_t first, int64_t count)>& after_each) {
  const CudaForward f = forward();
  for (int64_t first = 0; first < samples; first += kLogitRows) {
    const int64_t count = std::min(kLogitRows, samples - first);
    run_cuda_head(f, queue_, batch_->sample_rows() + first, count);
    argmax_rows(queue_, count, table_.shape.vocab, buffers_->logits.as<float>(),
                buffers_->sampled.as<int32_t>() + first, buffers_->argmax.data());
    if (after_each) after_each(first, count);
  }
}

void CudaExecutor::read_logits(int64_t count, float* to) {
  const size_t bytes = static_cast<size_t>(count * table_.shape.vocab) * sizeof(float);
  if (logits_.bytes() < bytes) logits_ = PinnedBuffer(bytes);
  QG_CUDA(cudaMemcpyAsync(logits_.as<float>(), buffers_->logits.data(), bytes, cudaMemcpyDeviceToHost, stream_.stream));
  QG_CUDA(cudaStreamSynchronize(stream_.stream));
  std::copy_n(logits_.as<float>(), bytes / sizeof(float), to);
}

void CudaExecutor::launch_directly(const StepInput& input, std::span<const SequencePiece* const> pieces,
                                   const PlannedStep& planned, StepOutput& output) {
  CudaForward f = forward();
  if (tap_) f.observe = make_cuda_observer(f, tap_, stream_.stream, planned.shape.rows);
  if (planned.shape.prefill) {
    std::vector<CudaPrefillPiece> prefill;
    int64_t row = planned.shape.decode_pieces;
    for (size_t i = static_cast<size_t>(planned.shape.decode_pieces); i < pieces.size(); ++i) {
      const SequencePiece& piece = *pieces[i];
      prefill.push_back({static_cast<int32_t>(row), static_cast<int32_t>(piece.num_tokens),
                         static_cast<int32_t>(piece.context_tokens + piece.num_tokens)});
      row += piece.num_tokens;
    }
    attention_->plan_prefill(queue_, batch_->view(), planned.shape.decode_pieces, prefill);
  }
  run_cuda_layers(f, queue_, *batch_, planned.shape);
  ran_.merge(cuda_kernel_names(f, planned.shape));
  const size_t vocab = static_cast<size_t>(table_.shape.vocab);
  if (input.logits == LogitsWanted::all) {
    output.logits.reserve(input.tokens.size() * vocab);
    for (int64_t first = 0; first < planned.shape.rows; first += kLogitRows) {
      const int64_t count = std::min(kLogitRows, planned.shape.rows - first);
      run_cuda_head(f, queue_, row_numbers_.as<int32_t>() + first, count);
      const size_t before = output.logits.size();
      output.logits.resize(before + static_cast<size_t>(count) * vocab);
      read_logits(count, output.logits.data() + before);
    }
    if (tap_) tap_("logits", output.logits, planned.shape.rows, table_.shape.vocab);
  }
  heads(batch_->samples(), [&](int64_t, int64_t count) {
    if (input.logits != LogitsWanted::sampled) return;
    const size_t before = output.logits.size();
    output.logits.resize(before + static_cast<size_t>(count) * vocab);
    read_logits(count, output.logits.data() + before);
  });
}

void CudaExecutor::launch_graph(const StepShape& shape) {
  const auto key = std::make_tuple(shape.rows, shape.max_context, batch_->draws());
  auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    const CudaForward f = forward();
    // Once directly: lazily loaded kernels cannot be loaded while a graph is captured.
    run_cuda_layers(f, queue_, *batch_, shape);
    heads(shape.rows, {});
    QG_CUDA(cudaStreamSynchronize(stream_.stream));
    cudaGraph_t graph = nullptr;
    QG_CUDA(cudaStreamBeginCapture(stream_.stream, cudaStreamCaptureModeThreadLocal));
    run_cuda_layers(f, queue_, *batch_, shape);
    heads(shape.rows, {});
    QG_CUDA(cudaStreamEndCapture(stream_.stream, &graph));
    cudaGraphExec_t executable = nullptr;
    QG_CUDA(cudaGraphInstantiate(&executable, graph, 0));
    cudaGraphDestroy(graph);
    found = graphs_.emplace(key, executable).first;
    ran_.merge(cuda_kernel_names(f, shape));
  }
  QG_CUDA(cudaGraphLaunch(found->second, stream_.stream));
}

void CudaExecutor::finish(std::span<const size_t> sampling, StepOutput& output) {
  if (!sampling.empty())
    QG_CUDA(cudaMemcpyAsync(sampled_.as<int32_t>(), buffers_->sampled.data(), sampling.size() * sizeof(int32_t),
                            cudaMemcpyDeviceToHost, stream_.stream));
  QG_CUDA(cudaEventRecord(timer_.end, stream_.stream));
  QG_CUDA(cudaStreamSynchronize(stream_.stream));
  float milliseconds = 0;
  QG_CUDA(cudaEventElapsedTime(&milliseconds, timer_.begin, timer_.end));
  device_seconds_ += 1e-3 * milliseconds;
  for (size_t i = 0; i < sampling.size(); ++i) {
    const int32_t token = sampled_.as<int32_t>()[i];
    if (token < 0)
      throw Error("the model's logits are not finite numbers", "", "look at the layers with `quantgrid inspect`");
    output.sampled[sampling[i]] = token;
  }
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
