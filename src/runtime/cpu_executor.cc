#include "runtime/cpu_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "kernels/attention/run.h"
#include "kernels/kvcache/run.h"
#include "kernels/kvcache/shaping.h"
#include "kernels/linear/run.h"
#include "runtime/cpu_forward.h"
#include "runtime/cpu_layer.h"
#include "runtime/sampling.h"
#include "runtime/step_check.h"

namespace qg {
namespace {

int64_t pages_for(const ExecutorOptions& options, int64_t bytes_per_page_of_all_layers) {
  const int64_t pages = options.num_pages > 0 ? options.num_pages : options.kv_bytes / bytes_per_page_of_all_layers;
  if (pages <= 0)
    throw Error(fmt::format("{} bytes for the KV cache hold no page of {} tokens, which takes {} bytes",
                            options.kv_bytes, options.page_tokens, bytes_per_page_of_all_layers),
                "", "give the KV cache more memory");
  return pages;
}

class CpuExecutor : public Executor {
 public:
  CpuExecutor(std::shared_ptr<const Checkpoint> checkpoint, const ExecutorOptions& options, RoundingJudge judge)
      : checkpoint_(std::move(checkpoint)), table_(checkpoint_->table()), options_(options), judge_(std::move(judge)) {
    const ModelShape& s = table_.shape;
    if (options_.page_tokens <= 0 || options_.max_rows <= 0)
      throw Error(
          fmt::format("page_tokens {} and max_rows {} must be positive", options_.page_tokens, options_.max_rows));
    attention_.heads = s.heads;
    attention_.kv = {options_.kv, s.kv_heads, s.head_dim, options_.page_tokens};
    attention_.sliding_window = s.sliding_window;
    attention_.score_scale = attention_score_scale(s);
    kv_storage_ = kv_storage_for(*checkpoint_, options_.kv);
    num_pages_ = pages_for(options_, s.layers * attention_.kv.page_bytes());
    pool_ = HostBuffer(static_cast<size_t>(kv_pool_bytes()));
    rope_frequencies_ = rope_frequencies(s);
    load_weights();
  }

  const ModelTable& table() const override { return table_; }
  KvFormat kv_format() const override { return options_.kv; }
  int64_t page_tokens() const override { return options_.page_tokens; }
  int64_t num_pages() const override { return num_pages_; }
  int64_t max_rows() const override { return options_.max_rows; }
  void set_tap(Tap tap) override { tap_ = std::move(tap); }
  int64_t weight_bytes() const override { return weight_bytes_; }
  int64_t kv_pool_bytes() const override { return table_.shape.layers * layer_pool_bytes(); }
  std::string name() const override { return "cpu"; }
  std::vector<std::string> kernels() const override { return {ran_.names.begin(), ran_.names.end()}; }
  ComputePath compute_path() const override;
  void step(const StepInput& input, StepOutput& output) override;
  void copy_page(int32_t from, int32_t to) override;

 private:
  int64_t layer_pool_bytes() const { return num_pages_ * attention_.kv.page_bytes(); }
  std::byte* layer_pool(int64_t layer) { return pool_.data() + layer * layer_pool_bytes(); }
  void load_weights();
  StepLimits limits() const { return {options_.max_rows, options_.page_tokens, num_pages_}; }
  void run_layers(const StepInput& input, std::vector<float>& hidden);
  // Rows of `hidden` whose logits are computed: all, or the last of each sampling piece.
  std::vector<float> rows_for_logits(const StepInput& input, std::vector<float> hidden) const;
  void sample(const StepInput& input, const std::vector<float>& logits, StepOutput& output) const;
  void tap(const char* name, const std::vector<float>& values, int64_t width) const {
    if (tap_) tap_(name, values, static_cast<int64_t>(values.size()) / width, width);
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  ModelTable table_;
  ExecutorOptions options_;
  AttentionDesc attention_;
  std::vector<KvLayerStorage> kv_storage_;
  std::vector<double> rope_frequencies_;
  int64_t num_pages_ = 0, weight_bytes_ = 0;
  HostBuffer pool_;  // [layers][pages], KvLayout
  Tensor embedding_;
  std::vector<CpuLayer> layers_;
  CpuHead head_;
  Tap tap_;
  RoundingJudge judge_;
  KernelsRan ran_;
  LayerBuffers buffers_;
};

void CpuExecutor::load_weights() {
  for (int layer = 0; layer < table_.shape.layers; ++layer) {
    layers_.push_back(load_cpu_layer(*checkpoint_, layer));
    weight_bytes_ += layers_.back().bytes();
  }
  head_ = load_cpu_head(*checkpoint_);
  const TensorSpec* spec = table_.find(TensorRole::embedding);
  if (!spec) throw Error("the model has no embedding", checkpoint_->folder().string());
  embedding_ = checkpoint_->tensor(*spec);
  const bool shared = embedding_.data == head_.lm_head.weights.weight.data;
  weight_bytes_ += static_cast<int64_t>(embedding_.bytes() + head_.final_norm.size() * sizeof(float));
  if (!shared) weight_bytes_ += head_.lm_head.bytes();
}

ComputePath CpuExecutor::compute_path() const {
  if (ran_.linear_weights.empty()) {
    const CpuLinear& linear = layers_.front().qkv;
    return linear_reference_path(describe_linear(linear.weights, linear.activations, 1));
  }
  const auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
  return std::max_element(ran_.linear_weights.begin(), ran_.linear_weights.end(), less)->first;
}

void CpuExecutor::run_layers(const StepInput& input, std::vector<float>& hidden) {
  const ModelShape& s = table_.shape;
  const int64_t m = static_cast<int64_t>(input.tokens.size());
  std::vector<int64_t> positions;
  std::vector<KvAppendPiece> appends;
  std::vector<AttentionPiece> pieces;
  for (const SequencePiece& p : input.pieces) {
    for (int64_t i = 0; i < p.num_tokens; ++i) positions.push_back(p.context_tokens + i);
    appends.push_back({p.first_row, p.num_tokens, p.context_tokens, p.pages});
    pieces.push_back({p.first_row, p.num_tokens, p.context_tokens, p.pages});
  }
  const RopeTable rope = make_rope_table(rope_frequencies_, positions);
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    std::byte* pool = layer_pool(layer);
    const KvLayerStorage& storage = kv_storage_[static_cast<size_t>(layer)];
    const auto attention = [&](float* qkv, float* attended) {
      const float *k = qkv + s.q_rows(), *v = k + s.kv_rows();
      run_kv_append_reference(attention_.kv, {k, v, s.qkv_rows(), storage.scale, appends, pool, storage.shaping});
      if (storage.shaping) shape_queries(*storage.shaping, s.heads, s.kv_heads, s.head_dim, qkv, s.qkv_rows(), m);
      run_attention_reference(attention_, {qkv, s.qkv_rows(), pool, storage.scale, pieces, attended});
    };
    forward_layer(
        {s, layers_[static_cast<size_t>(layer)], static_cast<int>(layer), m, rope, tap_, attention, &ran_, judge_},
        buffers_, hidden.data());
  }
  ran_.names.insert(attention_reference_name(attention_));
}

std::vector<float> CpuExecutor::rows_for_logits(const StepInput& input, std::vector<float> hidden) const {
  if (input.logits == LogitsWanted::all) return hidden;
  const int64_t width = table_.shape.hidden;
  std::vector<float> rows;
  for (const SequencePiece& piece : input.pieces) {
    if (!piece.sample) continue;
    const float* last = hidden.data() + (piece.first_row + piece.num_tokens - 1) * width;
    rows.insert(rows.end(), last, last + width);
  }
  return rows;
}

void CpuExecutor::sample(const StepInput& input, const std::vector<float>& logits, StepOutput& output) const {
  const size_t vocab = static_cast<size_t>(table_.shape.vocab);
  size_t sampling = 0;
  for (size_t i = 0; i < input.pieces.size(); ++i) {
    const SequencePiece& piece = input.pieces[i];
    if (!piece.sample) continue;
    const size_t row =
        input.logits == LogitsWanted::all ? static_cast<size_t>(piece.first_row + piece.num_tokens - 1) : sampling;
    ++sampling;
    output.sampled[i] =
        sample_token(std::span(logits).subspan(row * vocab, vocab), piece.sampling, piece.output_position);
  }
}

void CpuExecutor::step(const StepInput& input, StepOutput& output) {
  check_step(input, table_.shape, limits());
  const ModelShape& s = table_.shape;
  output.sampled.assign(input.pieces.size(), -1);
  output.logits.clear();
  if (input.tokens.empty()) return;
  std::vector<float> hidden(input.tokens.size() * static_cast<size_t>(s.hidden));
  embedding(embedding_.dtype, embedding_.data, input.tokens, hidden.data(), s.hidden);
  tap("embedding", hidden, s.hidden);
  run_layers(input, hidden);

  std::vector<float> rows = rows_for_logits(input, std::move(hidden));
  const int64_t m = static_cast<int64_t>(rows.size()) / s.hidden;
  if (m == 0) return;
  rms_norm(rows.data(), head_.final_norm.data(), s.norm_epsilon, rows.data(), m, s.hidden);
  tap("final_norm", rows, s.hidden);
  std::vector<float> logits(static_cast<size_t>(m * s.vocab));
  head_.lm_head.run(rows.data(), m, logits.data());
  tap("logits", logits, s.vocab);
  sample(input, logits, output);
  if (input.logits != LogitsWanted::none) output.logits = std::move(logits);
}

void CpuExecutor::copy_page(int32_t from, int32_t to) {
  check_page(from, limits());
  check_page(to, limits());
  if (from == to) return;
  const int64_t bytes = attention_.kv.page_bytes();
  for (int64_t layer = 0; layer < table_.shape.layers; ++layer)
    std::memcpy(layer_pool(layer) + to * bytes, layer_pool(layer) + from * bytes, static_cast<size_t>(bytes));
}

}  // namespace

std::unique_ptr<Executor> make_cpu_executor(std::shared_ptr<const Checkpoint> checkpoint,
                                            const ExecutorOptions& options, RoundingJudge judge) {
  return std::make_unique<CpuExecutor>(std::move(checkpoint), options, std::move(judge));
}

}  // namespace qg
