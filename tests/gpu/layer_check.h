#pragma once
// One layer of a step on the GPU, operation by operation: what each wrote against the CPU's definition of that
// operation, on the very values that it read, as the executor's taps tell them.
//
// Tolerances. Linear layers: those of linear_case.h, in double precision over the stored bytes. Attention: that of
// attention_step.h; keys and values are stored again from the tapped qkv, which gives the same bytes
// (kvcache_test.cc). Then, for what is rounded to the form of the next layer's input: half a step of that form.
#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

#include "kernels/attention/run.h"
#include "kernels/kvcache/run.h"
#include "kernels/kvcache/shaping.h"
#include "kernels/pointwise/run.h"
#include "runtime/cpu_layer.h"
#include "tests/gpu/linear_case.h"

namespace qg::testing {

struct TappedValues {
  std::vector<float> values;
  int64_t rows = 0, width = 0;
  float at(int64_t row, int64_t column) const { return values[static_cast<size_t>(row * width + column)]; }
};
using StepTaps = std::map<std::string, TappedValues>;

// In which form the linear layers of a path read their input, and what the kernels make of it.
struct LayerForm {
  test::Kind kind = test::Kind::f16;
  float static_scale = 1;

  bool is_f16() const { return activations_of(kind) == ActivationScaling::none; }
  float largest_code() const { return test::is_int8(kind) ? 127.0f : kE4m3Max; }
};

struct Wanted {
  double value = 0, tolerance = 0;
};

// The greatest share of its tolerance that a value of each kind of operation took, and what was outside.
struct CheckReport {
  std::map<std::string, double> shares;
  std::vector<std::string> problems;

  // where(): says which value it is; only asked for one that is outside.
  template <class Where>
  void take(const char* operation, const Where& where, double got, const Wanted& want) {
    const double share = std::isfinite(got) ? std::fabs(got - want.value) / want.tolerance : 1e30;
    double& worst = shares[operation];
    worst = std::max(worst, share);
    if (share > 1 && problems.size() < 10)
      problems.push_back(
          fmt::format("{}, {}: got {}, want {} +- {}", operation, where(), got, want.value, want.tolerance));
  }
};

// What `value`, known to `tolerance`, becomes when it is rounded to the form; row_largest: of its row, for scales per
// token.
inline Wanted rounded(const LayerForm& form, Wanted w, double row_largest) {
  w.tolerance += std::fabs(w.value) * std::ldexp(1.0, -19);  // float arithmetic before the rounding
  if (form.is_f16()) {
    w.tolerance += std::fabs(w.value) * std::ldexp(1.0, -11) + std::ldexp(1.0, -25);
    return w;
  }
  const bool per_token = activations_of(form.kind) == ActivationScaling::dynamic_token;
  const double scale =
      per_token ? row_largest / static_cast<double>(form.largest_code()) : static_cast<double>(form.static_scale);
  const double largest = scale * static_cast<double>(form.largest_code());
  w.value = std::clamp(w.value, -largest, largest);
  // A scale per token is known as well as the value that it comes from.
  const double slack = per_token ? w.tolerance : 0;
  w.tolerance +=
      slack + (test::is_int8(form.kind)
                   ? scale / 2 * 1.001
                   : std::max(std::fabs(w.value) * std::ldexp(1.0, -4), scale * std::ldexp(1.0, -10)) * 1.001);
  return w;
}

// Some of [0, count): the first and last few, and others evenly at random.
inline std::vector<int64_t> some_of(int64_t count, int64_t wanted, uint64_t seed) {
  std::set<int64_t> chosen;
  for (int64_t i = 0; i < std::min<int64_t>(count, wanted / 8 + 1); ++i) {
    chosen.insert(i);
    chosen.insert(count - 1 - i);
  }
  Rng rng(seed);
  while (static_cast<int64_t>(chosen.size()) < std::min(count, wanted))
    chosen.insert(static_cast<int64_t>(rng.next_below(static_cast<uint64_t>(count))));
  return {chosen.begin(), chosen.end()};
}

// A linear layer's tapped input, for test::reference.
struct TappedInput {
  const TappedValues& tapped;
  int64_t k = 0;
  double at(int64_t row, int64_t column) const { return static_cast<double>(tapped.at(row, column)); }
};

// Names a value for people.
struct TappedPlace {
  int layer;
  const char* tap;
  int64_t row, column;
  std::string operator()() const { return fmt::format("layers.{}.{} row {} column {}", layer, tap, row, column); }
};

class LayerCheck {
 public:
  LayerCheck(const ModelShape& shape, const CpuLayer& layer, const KvLayerStorage& storage, const AttentionDesc& desc,
             const LayerForm& form, int64_t num_pages)
      : shape_(shape),
        layer_(layer),
        storage_(storage),
        desc_(desc),
        form_(form),
        pool_(static_cast<size_t>(num_pages * desc.kv.page_bytes())) {}

  // One step's taps of layer `index`, steps in their order. before: the residual stream that the layer read, [rows,
  // hidden]. pieces: of the step, by rows.
  void check(const StepTaps& taps, int index, const std::vector<float>& before, std::span<const AttentionPiece> pieces,
             CheckReport& report) {
    taps_ = &taps;
    index_ = index;
    report_ = &report;
    check_norm("attention_in", before, layer_.attention_norm);
    check_linear("attention_in", "qkv", {&layer_.qkv.weights}, false);
    check_attention(pieces);
    check_linear("attention_out", "attention_projected", {&layer_.attention_output.weights}, false);
    std::vector<float> between = before;
    add_to(between, tap("attention_projected"));
    check_norm("mlp_in", between, layer_.mlp_norm);
    check_gate();
    check_linear("mlp_act", "mlp_projected", {&layer_.down.weights}, false);
    add_to(between, tap("mlp_projected"));
    for (size_t i = 0; i < between.size(); i += 97)
      report.take("residual", TappedPlace{index_, "out", 0, static_cast<int64_t>(i)},
                  static_cast<double>(tap("out").values[i]),
                  {static_cast<double>(between[i]), std::fabs(static_cast<double>(between[i])) * 1e-6 + 1e-7});
  }

  // final_norm and logits of a step's rows; residual: the last layer's `out`.
  static void check_head(const StepTaps& taps, const CpuHead& head, const ModelShape& shape,
                         const std::vector<float>& residual, CheckReport& report) {
    const TappedValues &normed = taps.at("final_norm"), &logits = taps.at("logits");
    std::vector<float> want(residual.size());
    rms_norm(residual.data(), head.final_norm.data(), shape.norm_epsilon, want.data(), normed.rows, shape.hidden);
    for (size_t i = 0; i < want.size(); i += 31)
      report.take(
          "norm", [&] { return fmt::format("final_norm, value {}", i); }, static_cast<double>(normed.values[i]),
          rounded({}, {static_cast<double>(want[i]), 0}, 0));
    compare_linear(normed, logits, {&head.lm_head.weights}, false, test::Kind::f16, DType::f32, "logits", report);
  }

 private:
  const TappedValues& tap(const std::string& name) const {
    return taps_->at(fmt::format("layers.{}.{}", index_, name));
  }
  static void add_to(std::vector<float>& sum, const TappedValues& delta) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += delta.values[i];
  }
  static double row_largest(const float* row, int64_t width) {
    float largest = 0;
    for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(row[i]));
    return static_cast<double>(largest);
  }

  void check_norm(const char* name, const std::vector<float>& residual, const std::vector<float>& weight) {
    const TappedValues& got = tap(name);
    std::vector<float> want(residual.size());
    rms_norm(residual.data(), weight.data(), shape_.norm_epsilon, want.data(), got.rows, shape_.hidden);
    for (int64_t row = 0; row < got.rows; ++row) {
      const float* values = want.data() + row * shape_.hidden;
      const double largest = row_largest(values, shape_.hidden);
      for (int64_t c = row % 7; c < shape_.hidden; c += 7)
        report_->take("norm", TappedPlace{index_, name, row, c}, static_cast<double>(got.at(row, c)),
                      rounded(form_, {static_cast<double>(values[c]), 0}, largest));
    }
  }

  // rows of two parts alternate by eight: where column c, counted through the parts, lies among n.
  static int64_t place(int64_t c, int64_t n, bool alternating) {
    const int64_t half = n / 2, row = c % half;
    return alternating ? row / 8 * 16 + c / half * 8 + row % 8 : c;
  }

  static void compare_linear(const TappedValues& input, const TappedValues& output,
                             const std::vector<const LinearWeights*>& parts, bool alternating, test::Kind kind,
                             DType y_type, const std::string& name, CheckReport& report) {
    std::vector<LinearWeights> weights;
    for (const LinearWeights* part : parts) weights.push_back(*part);
    const std::vector<int64_t> rows = some_of(output.rows, 4, 1), columns = some_of(output.width, 192, 2);
    const std::vector<test::Expected> expected =
        test::reference(weights, TappedInput{input, weights.front().k}, rows, columns);
    for (size_t r = 0; r < rows.size(); ++r)
      for (size_t c = 0; c < columns.size(); ++c) {
        const test::Expected& e = expected[r * columns.size() + c];
        report.take("linear", [&] { return fmt::format("{} row {} column {}", name, rows[r], columns[c]); },
                    static_cast<double>(output.at(rows[r], place(columns[c], output.width, alternating))),
                    {e.value, linear_tolerance(e, kind, output.rows, weights.front().k, y_type)});
      }
  }
  void check_linear(const char* input, const char* output, const std::vector<const LinearWeights*>& parts,
                    bool alternating) {
    compare_linear(tap(input), tap(output), parts, alternating, form_.kind, DType::f16,
                   fmt::format("layers.{}.{}", index_, output), *report_);
  }

  // Of the kernels that may run this many rows, the one that rounds most. The tapped input is code times scale in
  // float: off by 2^-24 of each product.
  static double linear_tolerance(const test::Expected& e, test::Kind kind, int64_t rows, int64_t k, DType y_type) {
    constexpr int64_t kFewRows = 8;
    const std::string kernel = rows <= kFewRows      ? "skinny"
                               : test::is_fp8(kind)  ? "cublaslt_w8a8_fp8"
                               : test::is_int4(kind) ? "expand"
                                                     : "cublaslt";
    return test::tolerance(e, kind, kernel, k, y_type) + e.magnitude * std::ldexp(1.0, -24);
  }

  // Gate and up apart, then silu(gate) * up; or, where one kernel does all, that alone.
  void check_gate() {
    const TappedValues& act = tap("mlp_act");
    const std::vector<const LinearWeights*> parts{&layer_.gate.weights, &layer_.up.weights};
    const int64_t ffn = shape_.ffn;
    if (taps_->contains(fmt::format("layers.{}.gate_up", index_))) {
      check_linear("mlp_in", "gate_up", parts, true);
      const TappedValues& both = tap("gate_up");
      std::vector<float> want(static_cast<size_t>(ffn));
      for (int64_t row = 0; row < act.rows; ++row) {
        for (int64_t c = 0; c < ffn; ++c) {
          const float g = both.at(row, place(c, 2 * ffn, true)), u = both.at(row, place(ffn + c, 2 * ffn, true));
          want[static_cast<size_t>(c)] = g / (1 + std::exp(-g)) * u;
        }
        const double largest = row_largest(want.data(), ffn);
        for (int64_t c = row % 7; c < ffn; c += 7)
          report_->take("gate", TappedPlace{index_, "mlp_act", row, c}, static_cast<double>(act.at(row, c)),
                        rounded(form_, {static_cast<double>(want[static_cast<size_t>(c)]), 0}, largest));
      }
      return;
    }
    const std::vector<int64_t> rows = some_of(act.rows, 4, 1), outputs = some_of(ffn, 192, 2);
    std::vector<int64_t> columns = outputs;
    for (const int64_t c : outputs) columns.push_back(ffn + c);
    const std::vector<LinearWeights> weights{*parts[0], *parts[1]};
    const std::vector<test::Expected> expected =
        test::reference(weights, TappedInput{tap("mlp_in"), shape_.hidden}, rows, columns);
    for (size_t r = 0; r < rows.size(); ++r)
      for (size_t c = 0; c < outputs.size(); ++c) {
        const test::Expected &g = expected[r * columns.size() + c],
                             &u = expected[r * columns.size() + outputs.size() + c];
        const double sigmoid = 1 / (1 + std::exp(-g.value)), silu = g.value * sigmoid;
        const double slope = std::fabs(sigmoid * (1 + g.value * (1 - sigmoid)));
        const double off_g = linear_tolerance(g, form_.kind, act.rows, shape_.hidden, DType::f16);
        const double off_u = linear_tolerance(u, form_.kind, act.rows, shape_.hidden, DType::f16);
        const Wanted want{silu * u.value, 1.1 * slope * off_g * std::fabs(u.value) + (std::fabs(silu) + off_g) * off_u};
        report_->take("gate", TappedPlace{index_, "mlp_act", rows[r], outputs[c]},
                      static_cast<double>(act.at(rows[r], outputs[c])), rounded(form_, want, 0));
      }
  }

  void check_attention(std::span<const AttentionPiece> pieces) {
    const int64_t d = shape_.head_dim, heads = shape_.heads, width = shape_.q_rows(), stride = shape_.qkv_rows();
    const TappedValues &q = tap("q"), &out = tap("attention_out");
    std::vector<float> qkv = tap("qkv").values;
    std::vector<int64_t> positions;
    std::vector<KvAppendPiece> appends;
    for (const AttentionPiece& p : pieces) {
      for (int64_t i = 0; i < p.num_tokens; ++i) positions.push_back(p.context_tokens + i);
      appends.push_back({p.first_row, p.num_tokens, p.context_tokens, p.pages});
    }
    rope(make_rope_table(rope_frequencies(shape_), positions), qkv.data(), stride, q.rows, heads + shape_.kv_heads, d);
    run_kv_append_reference(desc_.kv, {qkv.data() + width, qkv.data() + width + shape_.kv_rows(), stride,
                                       storage_.scale, appends, pool_.data(), storage_.shaping});
    if (storage_.shaping) shape_queries(*storage_.shaping, heads, shape_.kv_heads, d, qkv.data(), stride, q.rows);
    std::vector<float> want(static_cast<size_t>(q.rows * width));
    run_attention_reference(desc_, {q.values.data(), width, pool_.data(), storage_.scale, pieces, want.data()});
    for (int64_t row = 0; row < q.rows; ++row) {
      const double largest = row_largest(want.data() + row * width, width);
      for (int64_t head = 0; head < heads; ++head) {
        const float* values = want.data() + row * width + head * d;
        double squares = 0, query = 0;
        for (int64_t c = 0; c < d; ++c) {
          squares += static_cast<double>(values[c]) * values[c];
          const double x = static_cast<double>(qkv[static_cast<size_t>(row * stride + head * d + c)]);
          query += x * x;
        }
        const double rms = std::sqrt(squares / static_cast<double>(d));
        // A shaped query is a sum of head_dim products of halves; both are rounded to half.
        const double query_off = std::sqrt(query / static_cast<double>(d)) * std::ldexp(1.0, -11);
        for (int64_t c = head % 3; c < d; c += 3) {
          const double x = static_cast<double>(qkv[static_cast<size_t>(row * stride + head * d + c)]);
          report_->take("rope", TappedPlace{index_, "q", row, head * d + c},
                        static_cast<double>(q.at(row, head * d + c)),
                        {x, std::fabs(x) * std::ldexp(1.0, -11) + (storage_.shaping ? 4 * query_off : 1e-7)});
          const double value = static_cast<double>(values[c]);
          report_->take("attention", TappedPlace{index_, "attention_out", row, head * d + c},
                        static_cast<double>(out.at(row, head * d + c)),
                        rounded(form_, {value, std::ldexp(1.0, -11) * (std::fabs(value) + 4 * rms)}, largest));
        }
      }
    }
  }

  const ModelShape& shape_;
  const CpuLayer& layer_;
  const KvLayerStorage& storage_;
  AttentionDesc desc_;
  LayerForm form_;
  std::vector<std::byte> pool_;  // what the layer has stored so far
  const StepTaps* taps_ = nullptr;
  int index_ = 0;
  CheckReport* report_ = nullptr;
};

}  // namespace qg::testing
