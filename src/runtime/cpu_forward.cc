#include "runtime/cpu_forward.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/linear/run.h"

namespace qg {
namespace {

class Taps {
 public:
  Taps(const LayerPass& pass) : pass_(pass) {}

  // values [m, width], rows `stride` elements apart.
  void yield(const char* name, const float* values, int64_t width, int64_t stride) const {
    if (!pass_.tap) return;
    const std::string full = fmt::format("layers.{}.{}", pass_.index, name);
    if (stride == width) return pass_.tap(full, {values, static_cast<size_t>(pass_.m * width)}, pass_.m, width);
    std::vector<float> dense(static_cast<size_t>(pass_.m * width));
    for (int64_t i = 0; i < pass_.m; ++i) std::copy_n(values + i * stride, width, dense.data() + i * width);
    pass_.tap(full, dense, pass_.m, width);
  }
  void yield(const char* name, const std::vector<float>& values, int64_t width) const {
    yield(name, values.data(), width, width);
  }

 private:
  const LayerPass& pass_;
};

// y [m, n] = linear(x); tap: what x is called.
void apply(const LayerPass& pass, LinearRole role, const char* tap, const std::vector<float>& x,
           std::vector<float>& y) {
  const CpuLinear& linear = pass.layer.linear(role);
  y.resize(static_cast<size_t>(pass.m * linear.weights.n));
  InputJudge judge;
  if (pass.judge) judge = [&](const RoundedInput& input) { pass.judge({pass.index, role, tap, input}); };
  const ComputePath path = linear.run(x.data(), pass.m, y.data(), judge);
  if (!pass.ran) return;
  pass.ran->names.insert(linear_reference_name(describe_linear(linear.weights, linear.activations, pass.m)));
  pass.ran->linear_weights[path] += linear.weights.n * linear.weights.k;
}

void normalize(const LayerPass& pass, const float* hidden, const std::vector<float>& weight, std::vector<float>& out) {
  out.resize(static_cast<size_t>(pass.m * pass.shape.hidden));
  rms_norm(hidden, weight.data(), pass.shape.norm_epsilon, out.data(), pass.m, pass.shape.hidden);
}

void attention_half(const LayerPass& pass, const Taps& taps, LayerBuffers& b, float* hidden) {
  const ModelShape& s = pass.shape;
  normalize(pass, hidden, pass.layer.attention_norm, b.normed);
  taps.yield("attention_in", b.normed, s.hidden);
  apply(pass, LinearRole::qkv, "attention_in", b.normed, b.qkv);

  float *q = b.qkv.data(), *k = q + s.q_rows(), *v = k + s.kv_rows();
  rope(pass.rope, q, s.qkv_rows(), pass.m, s.heads + s.kv_heads, s.head_dim);  // k's heads follow q's
  taps.yield("q", q, s.q_rows(), s.qkv_rows());
  taps.yield("k", k, s.kv_rows(), s.qkv_rows());
  taps.yield("v", v, s.kv_rows(), s.qkv_rows());
  b.attended.resize(static_cast<size_t>(pass.m * s.q_rows()));
  pass.attention(b.qkv.data(), b.attended.data());
  taps.yield("attention_out", b.attended, s.q_rows());
  apply(pass, LinearRole::attention_output, "attention_out", b.attended, b.projected);
  add(hidden, b.projected.data(), pass.m, s.hidden);
}

void mlp_half(const LayerPass& pass, const Taps& taps, LayerBuffers& b, float* hidden) {
  const ModelShape& s = pass.shape;
  normalize(pass, hidden, pass.layer.mlp_norm, b.normed);
  taps.yield("mlp_in", b.normed, s.hidden);
  apply(pass, LinearRole::gate, "mlp_in", b.normed, b.gate);
  apply(pass, LinearRole::up, "mlp_in", b.normed, b.up);
  silu_mul(b.gate.data(), b.up.data(), b.gate.data(), pass.m, s.ffn);
  taps.yield("mlp_act", b.gate, s.ffn);
  apply(pass, LinearRole::down, "mlp_act", b.gate, b.projected);
  add(hidden, b.projected.data(), pass.m, s.hidden);
}

}  // namespace

void forward_layer(const LayerPass& pass, LayerBuffers& buffers, float* hidden) {
  const Taps taps(pass);
  attention_half(pass, taps, buffers, hidden);
  mlp_half(pass, taps, buffers, hidden);
  taps.yield("out", hidden, pass.shape.hidden, pass.shape.hidden);
}

double attention_score_scale(const ModelShape& shape) {
  return 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
}

}  // namespace qg
