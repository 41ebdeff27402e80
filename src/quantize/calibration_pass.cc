#include "quantize/calibration_pass.h"

#include <cmath>
#include <numeric>

#include "kernels/attention/run.h"
#include "kernels/pointwise/run.h"

namespace qg {
namespace {

// Above this the MLP's activation is computed twice instead of kept: time for memory.
constexpr int64_t kKeptActBytes = int64_t{512} << 20;

int64_t total(std::span<const int64_t> lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

void visit_pieces(std::span<const int64_t> lengths, const std::vector<float>& values, int64_t width,
                  const CalibrationPass::Visitor& visitor) {
  int64_t row = 0;
  for (int64_t rows : lengths) {
    visitor(std::span(values).subspan(static_cast<size_t>(row * width), static_cast<size_t>(rows * width)), rows);
    row += rows;
  }
}

}  // namespace

CalibrationPass::CalibrationPass(const ModelShape& shape, const CpuLayer& layer, std::span<const int64_t> lengths,
                                 std::vector<float>& hidden)
    : shape_(shape), layer_(layer), lengths_(lengths), hidden_(hidden) {}

void CalibrationPass::each_sequence(const std::function<void(int64_t, int64_t)>& fn) const {
  int64_t row = 0;
  for (int64_t rows : lengths_) {
    fn(row, rows);
    row += rows;
  }
}

std::vector<float> CalibrationPass::normed(const std::vector<float>& weight, int64_t first_row, int64_t rows) const {
  std::vector<float> x(static_cast<size_t>(rows * shape_.hidden));
  rms_norm(hidden_.data() + first_row * shape_.hidden, weight.data(), shape_.norm_epsilon, x.data(), rows,
           shape_.hidden);
  return x;
}

void CalibrationPass::visit_attention_in(const Visitor& visitor) const {
  each_sequence([&](int64_t row, int64_t rows) { visitor(normed(layer_.attention_norm, row, rows), rows); });
}

void CalibrationPass::attend(const SequenceVisitor& visitor) {
  const int64_t width = shape_.qkv_rows(), q_rows = shape_.q_rows();
  attention_.resize(static_cast<size_t>(total(lengths_) * q_rows));
  const std::vector<double> frequencies = rope_frequencies(shape_);
  AttentionDesc desc;
  desc.heads = shape_.heads;
  desc.kv = {KvFormat::fp16, shape_.kv_heads, shape_.head_dim, 16};
  desc.sliding_window = shape_.sliding_window;
  desc.score_scale = 1.0 / std::sqrt(static_cast<double>(shape_.head_dim));
  each_sequence([&](int64_t row, int64_t rows) {
    const std::vector<float> x = normed(layer_.attention_norm, row, rows);
    std::vector<float> qkv(static_cast<size_t>(rows * width));
    layer_.qkv.run(x.data(), rows, qkv.data());
    std::vector<int64_t> positions(static_cast<size_t>(rows));
    std::iota(positions.begin(), positions.end(), 0);
    const RopeTable table = make_rope_table(frequencies, positions);
    rope(table, qkv.data(), width, rows, shape_.heads, shape_.head_dim);
    rope(table, qkv.data() + q_rows, width, rows, shape_.kv_heads, shape_.head_dim);
    if (visitor) visitor(qkv.data(), rows);

    DenseAttentionParams params;
    params.q = qkv.data();
    params.k = qkv.data() + q_rows;
    params.v = qkv.data() + q_rows + shape_.kv_rows();
    params.q_stride = params.kv_stride = width;
    params.lengths = std::span(&rows, 1);
    params.out = attention_.data() + row * q_rows;
    run_dense_attention(desc, params);
  });
}

void CalibrationPass::visit_attention_out(const Visitor& visitor) const {
  visit_pieces(lengths_, attention_, shape_.q_rows(), visitor);
}

void CalibrationPass::add_attention() {
  each_sequence([&](int64_t row, int64_t rows) {
    std::vector<float> y(static_cast<size_t>(rows * shape_.hidden));
    layer_.attention_output.run(attention_.data() + row * shape_.q_rows(), rows, y.data());
    add(hidden_.data() + row * shape_.hidden, y.data(), rows, shape_.hidden);
  });
  attention_ = {};
}

void CalibrationPass::visit_mlp_in(const Visitor& visitor) const {
  each_sequence([&](int64_t row, int64_t rows) { visitor(normed(layer_.mlp_norm, row, rows), rows); });
}

std::vector<float> CalibrationPass::gated(int64_t row, int64_t rows) const {
  const std::vector<float> x = normed(layer_.mlp_norm, row, rows);
  std::vector<float> gate(static_cast<size_t>(rows * shape_.ffn)), up(gate.size());
  layer_.gate.run(x.data(), rows, gate.data());
  layer_.up.run(x.data(), rows, up.data());
  silu_mul(gate.data(), up.data(), gate.data(), rows, shape_.ffn);
  return gate;
}

void CalibrationPass::run_gate() {
  const int64_t rows = total(lengths_);
  if (rows * shape_.ffn * static_cast<int64_t>(sizeof(float)) > kKeptActBytes) return;
  act_.resize(static_cast<size_t>(rows * shape_.ffn));
  each_sequence([&](int64_t row, int64_t count) {
    const std::vector<float> act = gated(row, count);
    std::copy(act.begin(), act.end(), act_.begin() + row * shape_.ffn);
  });
}

void CalibrationPass::visit_mlp_act(const Visitor& visitor) const {
  if (!act_.empty()) return visit_pieces(lengths_, act_, shape_.ffn, visitor);
  each_sequence([&](int64_t row, int64_t rows) { visitor(gated(row, rows), rows); });
}

void CalibrationPass::add_mlp() {
  each_sequence([&](int64_t row, int64_t rows) {
    const std::vector<float> act =
        act_.empty() ? gated(row, rows)
                     : std::vector<float>(act_.begin() + row * shape_.ffn, act_.begin() + (row + rows) * shape_.ffn);
    std::vector<float> y(static_cast<size_t>(rows * shape_.hidden));
    layer_.down.run(act.data(), rows, y.data());
    add(hidden_.data() + row * shape_.hidden, y.data(), rows, shape_.hidden);
  });
  act_ = {};
}

}  // namespace qg
