#include "quantize/cuda_pass.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "kernels/kvcache/cuda.h"
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/run.h"
#include "kernels/quantize/cuda_feedback.h"
#include "runtime/cpu_forward.h"
#include "runtime/cpu_layer.h"
#include "runtime/cuda_batch.h"
#include "runtime/cuda_model.h"

namespace qg {
namespace {

constexpr int64_t kPageTokens = 64;

size_t halves(int64_t count) {
  return static_cast<size_t>(count) * sizeof(__half);
}
int64_t pages_of(int64_t tokens) {
  return (tokens + kPageTokens - 1) / kPageTokens;
}

void require_supported(const ModelShape& s) {
  if (s.head_dim != 64 && s.head_dim != 128)
    throw Error("the GPU's kernels take heads of 64 or 128, the model has " + std::to_string(s.head_dim),
                "--executor cuda", "use --executor cpu", ExitCode::cannot_here);
  if (s.hidden > kLargestNormWidth || s.hidden % 8 != 0 || s.ffn % 8 != 0)
    throw Error("the GPU's kernels take widths that are multiples of 8 and at most " +
                    std::to_string(kLargestNormWidth) + "; the model has hidden " + std::to_string(s.hidden) +
                    " and ffn " + std::to_string(s.ffn),
                "--executor cuda", "use --executor cpu", ExitCode::cannot_here);
}

}  // namespace

// Sequences that go through a layer together.
struct CudaCalibrationPass::Chunk {
  explicit Chunk(const BatchLimits& limits) : batch(limits) {}
  int64_t first_row = 0, rows = 0;
  int64_t first_sample = 0, samples = 0;  // of the rows that are kept
  std::vector<int64_t> lengths;
  std::vector<CudaPrefillPiece> pieces;
  CudaStepBatch batch;
};

// Of one activation, over all chunks.
struct CudaCalibrationPass::Sums {
  int64_t k = 0;
  DeviceBuffer absmax, abs_sum, sample, gram;
};

CudaCalibrationPass::CudaCalibrationPass(const Checkpoint& base, const CalibrationText& text,
                                         const CalibrationOptions& options, const GpuBudget& budget,
                                         const DeviceCapabilities& device, CublasLt& blas, const CudaQueue& queue,
                                         const CudaPassOptions& pass)
    : shape_(base.table().shape), blas_(blas), queue_(queue), options_(pass), rows_(text.num_tokens()) {
  const ModelShape& s = shape_;
  require_supported(s);
  sampled_ = sampled_rows(rows_, options);
  make_chunks(text, budget);
  residual_ = DeviceBuffer(static_cast<size_t>(rows_ * s.hidden) * sizeof(float));
  input_ = DeviceBuffer(halves(max_rows_ * std::max({s.hidden, s.q_rows(), s.ffn})));
  qkv_ = DeviceBuffer(halves(max_rows_ * s.qkv_rows()));
  q_ = DeviceBuffer(halves(max_rows_ * s.q_rows()));
  keys_ = DeviceBuffer(halves(max_rows_ * s.kv_rows()));
  projected_ = DeviceBuffer(halves(max_rows_ * s.hidden));
  gate_up_ = DeviceBuffer(halves(max_rows_ * 2 * s.ffn));
  const std::vector<int32_t> list(sampled_.begin(), sampled_.end());
  sample_list_ = DeviceBuffer(list.size() * sizeof(int32_t));
  QG_CUDA(cudaMemcpy(sample_list_.data(), list.data(), sample_list_.bytes(), cudaMemcpyHostToDevice));
  int64_t widest = 0;
  for (const int64_t k : {s.hidden, s.q_rows(), s.hidden, s.ffn}) {
    Sums sums;
    sums.k = k;
    widest = std::max(widest, k);
    if (pass.statistics) {
      sums.absmax = DeviceBuffer(static_cast<size_t>(k) * sizeof(float));
      sums.abs_sum = DeviceBuffer(static_cast<size_t>(k) * sizeof(double));
      sums.sample = DeviceBuffer(halves(static_cast<int64_t>(sampled_.size()) * k));
      if (pass.gram) sums.gram = DeviceBuffer(static_cast<size_t>(k * k) * sizeof(float));
    }
    sums_.push_back(std::move(sums));
  }
  column_scratch_ = DeviceBuffer(static_cast<size_t>(column_statistics_scratch_bytes(widest)));

  AttentionDesc desc;
  desc.heads = s.heads;
  desc.kv = kv_layout_ = {KvFormat::fp16, s.kv_heads, s.head_dim, kPageTokens};
  desc.sliding_window = s.sliding_window;
  desc.score_scale = attention_score_scale(s);
  int64_t longest = 0, most_pages = 0, most_pieces = 0;
  for (const auto& chunk : chunks_) {
    int64_t pages = 0;
    for (const int64_t length : chunk->lengths) {
      longest = std::max(longest, length);
      pages += pages_of(length);
    }
    most_pages = std::max(most_pages, pages);
    most_pieces = std::max(most_pieces, static_cast<int64_t>(chunk->lengths.size()));
  }
  pool_ = DeviceBuffer(static_cast<size_t>(most_pages * kv_layout_.page_bytes()));
  QG_CUDA(cudaMemset(pool_.data(), 0, pool_.bytes()));
  attention_ = std::make_unique<CudaAttention>(desc, device, max_rows_, most_pieces, pages_of(longest), false);
  std::vector<int64_t> positions(static_cast<size_t>(longest));
  std::iota(positions.begin(), positions.end(), 0);
  const RopeTable rope = make_rope_table(rope_frequencies(s), positions);
  std::vector<float> pairs;
  for (size_t i = 0; i < rope.cosine.size(); ++i) {
    pairs.push_back(rope.cosine[i]);
    pairs.push_back(rope.sine[i]);
  }
  rope_table_ = upload_f32(pairs);
  embed(base, text);
}

CudaCalibrationPass::~CudaCalibrationPass() = default;

void CudaCalibrationPass::make_chunks(const CalibrationText& text, const GpuBudget& budget) {
  size_t next = 0, sample = 0;
  int64_t row = 0;
  for (const int64_t count : budget.chunk_sequences) {
    int64_t rows = 0, longest = 0;
    for (int64_t i = 0; i < count; ++i) {
      const auto length = static_cast<int64_t>(text.sequences[next + static_cast<size_t>(i)].size());
      rows += length;
      longest = std::max(longest, length);
    }
    auto chunk = std::make_unique<Chunk>(BatchLimits{rows, count, pages_of(longest)});
    chunk->first_row = row;
    chunk->rows = rows;
    chunk->first_sample = static_cast<int64_t>(sample);
    while (sample < sampled_.size() && sampled_[sample] < row + rows) ++sample;
    chunk->samples = static_cast<int64_t>(sample) - chunk->first_sample;
    std::vector<int32_t> tokens, pages(static_cast<size_t>(rows));
    std::iota(pages.begin(), pages.end(), 0);
    std::vector<SequencePiece> pieces;
    size_t first_page = 0;
    for (int64_t i = 0; i < count; ++i, ++next) {
      const std::vector<int32_t>& sequence = text.sequences[next];
      const auto length = static_cast<int64_t>(sequence.size());
      SequencePiece piece;
      piece.first_row = static_cast<int64_t>(tokens.size());
      piece.num_tokens = length;
      piece.pages = std::span(pages).subspan(first_page, static_cast<size_t>(pages_of(length)));
      first_page += static_cast<size_t>(pages_of(length));
      chunk->lengths.push_back(length);
      chunk->pieces.push_back(
          {static_cast<int32_t>(piece.first_row), static_cast<int32_t>(length), static_cast<int32_t>(length)});
      tokens.insert(tokens.end(), sequence.begin(), sequence.end());
      pieces.push_back(piece);
    }
    std::vector<const SequencePiece*> pointers;
    for (const SequencePiece& piece : pieces) pointers.push_back(&piece);
    chunk->batch.fill(tokens, pointers, count, pages_of(longest));
    chunk->batch.upload(queue_.stream);
    max_rows_ = std::max(max_rows_, rows);
    row += rows;
    chunks_.push_back(std::move(chunk));
  }
  QG_CUDA(cudaStreamSynchronize(queue_.stream));
}

void CudaCalibrationPass::embed(const Checkpoint& base, const CalibrationText& text) {
  std::vector<float> rows;
  int64_t row = 0;
  for (const std::vector<int32_t>& sequence : text.sequences) {
    rows.resize(sequence.size() * static_cast<size_t>(shape_.hidden));
    embed_tokens(base, sequence, rows.data());
    QG_CUDA(cudaMemcpy(residual_.as<float>() + row * shape_.hidden, rows.data(), rows.size() * sizeof(float),
                       cudaMemcpyHostToDevice));
    row += static_cast<int64_t>(sequence.size());
  }
}

CudaActivation CudaCalibrationPass::activation(TappedInput input) const {
  const Sums& s = sums_[static_cast<size_t>(input)];
  return {s.k,
          rows_,
          static_cast<int64_t>(sampled_.size()),
          s.absmax.as<float>(),
          s.abs_sum.as<double>(),
          s.sample.as<__half>(),
          s.gram.bytes() > 0 ? s.gram.as<float>() : nullptr};
}

void CudaCalibrationPass::begin_statistics() {
  for (const Sums& s : sums_) {
    QG_CUDA(cudaMemsetAsync(s.absmax.data(), 0, s.absmax.bytes(), queue_.stream));
    QG_CUDA(cudaMemsetAsync(s.abs_sum.data(), 0, s.abs_sum.bytes(), queue_.stream));
  }
}

void CudaCalibrationPass::run_layer(const CudaStoredLayer& layer, CudaKvCollector* kv, CudaPhases& phases) {
  if (kv && options_.statistics) begin_statistics();
  for (const auto& chunk : chunks_) run_chunk(*chunk, layer, kv, phases);
  phases.collect();
}

void CudaCalibrationPass::learn(const Chunk& chunk, TappedInput input, const __half* x, CudaPhases& phases) {
  if (!options_.statistics) return;
  phases.open(CudaPhase::statistics);
  const Sums& s = sums_[static_cast<size_t>(input)];
  add_column_statistics(queue_, x, chunk.rows, s.k, s.absmax.as<float>(), s.abs_sum.as<double>(),
                        column_scratch_.data());
  gather_rows(queue_, x, sample_list_.as<int32_t>() + chunk.first_sample, chunk.samples, chunk.first_row, s.k,
              s.sample.as<__half>() + chunk.first_sample * s.k);
  if (options_.gram) add_gram(queue_, blas_, x, chunk.rows, s.k, chunk.first_row == 0, s.gram.as<float>());
  phases.open(CudaPhase::forward);
}

void CudaCalibrationPass::multiply(const CudaStoredLinear& linear, int64_t rows, const __half* x, __half* y) {
  GemmShape shape;
  shape.m = rows;
  shape.n = shape.y_pitch = linear.n;
  shape.k = shape.weight_pitch = linear.k;
  GemmPointers pointers;
  pointers.weight = linear.half;
  pointers.x = x;
  pointers.y = y;
  blas_.run(shape, pointers, queue_.stream);
}

void CudaCalibrationPass::norm(const Chunk& chunk, const float* weight, const __half* delta) {
  AddRmsNormParams params;
  params.rows = chunk.rows;
  params.width = shape_.hidden;
  params.epsilon = static_cast<float>(shape_.norm_epsilon);
  params.residual = residual_.as<float>() + chunk.first_row * shape_.hidden;
  params.delta = delta;
  params.weight = weight;
  params.out.values = input_.data();
  add_rms_norm(queue_, params);
}

void CudaCalibrationPass::attend(const Chunk& chunk, CudaKvCollector* kv, CudaPhases& phases) {
  const CudaQkv qkv = {qkv_.as<__half>(), shape_.qkv_rows(), shape_.heads};
  rope_and_append(queue_, kv_layout_, chunk.batch.view(), chunk.rows, qkv, rope_table_.as<float2>(), {},
                  q_.as<__half>(), pool_.data());
  if (kv) {
    phases.open(CudaPhase::kv);
    gather_keys(queue_, kv_layout_, chunk.batch.view(), chunk.rows, pool_.data(), keys_.as<__half>());
    CudaKvChunk read;
    read.q = q_.as<__half>();
    read.keys = keys_.as<__half>();
    read.values = qkv_.as<__half>() + shape_.q_rows() + shape_.kv_rows();
    read.value_stride = shape_.qkv_rows();
    read.first_row = chunk.first_row;
    read.lengths = chunk.lengths;
    kv->add(read);
    phases.open(CudaPhase::forward);
  }
  attention_->plan_prefill(queue_, chunk.batch.view(), 0, chunk.pieces);
  attention_->prefill(queue_, chunk.batch.view(), q_.as<__half>(), pool_.data(), {}, {}, {input_.data(), nullptr});
}

void CudaCalibrationPass::run_chunk(const Chunk& chunk, const CudaStoredLayer& layer, CudaKvCollector* kv,
                                    CudaPhases& phases) {
  const auto* input = input_.as<__half>();
  const auto see = [&](TappedInput tapped) {
    if (kv) learn(chunk, tapped, input, phases);
  };
  phases.open(CudaPhase::forward);
  norm(chunk, layer.attention_norm, nullptr);
  see(TappedInput::attention_in);
  multiply(layer.qkv, chunk.rows, input, qkv_.as<__half>());
  attend(chunk, kv, phases);
  see(TappedInput::attention_out);
  multiply(layer.attention_output, chunk.rows, input, projected_.as<__half>());
  norm(chunk, layer.mlp_norm, projected_.as<__half>());
  see(TappedInput::mlp_in);
  multiply(layer.gate_up, chunk.rows, input, gate_up_.as<__half>());
  silu_mul_joined(queue_, gate_up_.as<__half>(), chunk.rows, shape_.ffn, input_.as<__half>());
  see(TappedInput::mlp_act);
  multiply(layer.down, chunk.rows, input, projected_.as<__half>());
  add_half(queue_, projected_.as<__half>(), chunk.rows * shape_.hidden,
           residual_.as<float>() + chunk.first_row * shape_.hidden);
}

}  // namespace qg
