// The element-wise kernels against their CPU references, on the same stored values. Outputs are poisoned first.
#include "kernels/pointwise/cuda.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/float.h"
#include "kernels/pointwise/run.h"
#include "runtime/cuda_batch.h"
#include "runtime/sampling.h"
#include "tests/gpu/device_vector.h"

namespace qg::testing {
namespace {

struct Form {
  const char* name;
  ActivationForm form;
  bool per_token, prequant;
};
const Form kForms[] = {
    {"f16", ActivationForm::f16, false, false},         {"f16 prequant", ActivationForm::f16, false, true},
    {"fp8 static", ActivationForm::fp8, false, false},  {"fp8 token", ActivationForm::fp8, true, true},
    {"int8 static", ActivationForm::int8, false, true}, {"int8 token", ActivationForm::int8, true, true},
    {"bf16", ActivationForm::bf16, false, false},       {"bf16 prequant", ActivationForm::bf16, false, true}};
constexpr float kStaticScale = 0.03f;

// 16-bit values in the type that a kernel reads which ends in a form, and back.
std::vector<uint16_t> to_wide(const Form& form, const std::vector<float>& values) {
  return form.form == ActivationForm::bf16 ? to_bfloat(values) : to_half(values);
}
std::vector<float> from_wide(const Form& form, const std::vector<uint16_t>& bits) {
  return form.form == ActivationForm::bf16 ? from_bfloat(bits) : from_half(bits);
}

// A row's values as the kernel stored them, and as the reference would store them.
struct Outcome {
  std::vector<float> got, want, got_scales, want_scales;
};

class Output {
 public:
  Output(const Form& form, int64_t m, int64_t width)
      : form_(form),
        m_(m),
        width_(width),
        prequant_(normal_values(static_cast<size_t>(width), 99)),
        codes_(bytes()),
        scales_(static_cast<size_t>(m)),
        device_prequant_(prequant_) {}

  ActivationRequest request() const {
    return {form_.form, form_.per_token, kStaticScale, form_.prequant ? device_prequant_.data() : nullptr};
  }
  ActivationBuffer buffer() const { return {codes_.data(), scales_.data()}; }

  Outcome compare(const std::vector<float>& exact) const {
    Outcome o;
    const float* multiplier = form_.prequant ? prequant_.data() : nullptr;
    const size_t count = static_cast<size_t>(m_ * width_);
    const std::vector<uint8_t> raw = codes_.read();
    o.got_scales = scales_.read();
    o.want.resize(count);
    o.want_scales.resize(static_cast<size_t>(m_));
    if (is_16_bit(form_.form)) {
      std::vector<uint16_t> bits(count);
      std::memcpy(bits.data(), raw.data(), raw.size());
      o.got = from_wide(form_, bits);
      for (size_t i = 0; i < count; ++i)
        o.want[i] = exact[i] * (multiplier ? multiplier[i % static_cast<size_t>(width_)] : 1.0f);
      return o;
    }
    const bool fp8 = form_.form == ActivationForm::fp8;
    for (const uint8_t code : raw)
      o.got.push_back(fp8 ? f32_from_e4m3(code) : static_cast<float>(static_cast<int8_t>(code)));
    const auto quantize = fp8 ? quantize_activation_fp8 : quantize_activation_int8;
    quantize(exact.data(), multiplier, form_.per_token ? 0 : kStaticScale, o.want.data(), width_, o.want_scales.data(),
             m_, width_);
    return o;
  }

  // Half: one rounding (2^-11; BF16: 2^-8) and the kernel's float arithmetic. Codes: the two sides' floats differ in
  // their last bits, so a value on the edge between two codes may go either way; few do.
  void check(const std::vector<float>& exact, const std::string& what) const {
    const Outcome o = compare(exact);
    int64_t flips = 0;
    for (size_t i = 0; i < o.got.size(); ++i) {
      const float got = o.got[i], want = o.want[i];
      ASSERT_FALSE(std::isnan(got)) << what << " " << form_.name << ": element " << i << " was not written";
      if (is_16_bit(form_.form)) {
        const float share = form_.form == ActivationForm::f16 ? 0x1p-10f : 0x1.02p-8f;
        ASSERT_NEAR(got, want, std::fabs(want) * share + 1e-6f) << what << " " << form_.name << " at " << i;
      } else if (got != want) {
        ++flips;
        const float step = form_.form == ActivationForm::int8 ? 1.0f : std::max(std::fabs(want) * 0.125f, 0x1p-9f);
        ASSERT_LE(std::fabs(got - want), step * 1.001f) << what << " " << form_.name << " at " << i;
      }
    }
    EXPECT_LE(flips, 2 + static_cast<int64_t>(o.got.size()) / 500) << what << " " << form_.name;
    if (!form_.per_token) return;
    for (size_t i = 0; i < o.got_scales.size(); ++i)
      EXPECT_NEAR(o.got_scales[i], o.want_scales[i], o.want_scales[i] * 1e-5f) << what << " row " << i;
  }

 private:
  size_t bytes() const { return static_cast<size_t>(m_ * width_ * bytes_of(form_.form)); }
  Form form_;
  int64_t m_, width_;
  std::vector<float> prequant_;
  DeviceVector<uint8_t> codes_;
  DeviceVector<float> scales_;
  DeviceVector<float> device_prequant_;
};

TEST(AddRmsNorm, MatchesTheReference) {
  for (const int64_t width : {8, 72, 576, 1024, 1028, 3072, 4096, 5120, 14336})
    for (const int64_t m : {1, 8, 17})
      for (const Form& form : kForms) {
        const size_t count = static_cast<size_t>(m * width);
        std::vector<float> residual = normal_values(count, 1, 3), weight = normal_values(static_cast<size_t>(width), 2);
        const std::vector<uint16_t> delta = to_wide(form, normal_values(count, 3));
        DeviceVector<float> device_residual(residual), device_weight(weight);
        DeviceVector<uint16_t> device_delta(delta);
        Output out(form, m, width);
        AddRmsNormParams p;
        p.rows = m, p.width = width, p.epsilon = 1e-5f;
        p.residual = device_residual.data();
        p.delta = device_delta.data();
        p.weight = device_weight.data();
        p.request = out.request(), p.out = out.buffer();
        add_rms_norm({}, p);
        const std::vector<float> added = from_wide(form, delta);
        for (size_t i = 0; i < count; ++i) residual[i] += added[i];
        EXPECT_EQ(device_residual.read(), residual);
        std::vector<float> normed(count);
        rms_norm(residual.data(), weight.data(), 1e-5, normed.data(), m, width);
        out.check(normed, "width " + std::to_string(width) + " m " + std::to_string(m));
      }
}

void start_and_end(const Form& form) {
  constexpr int64_t kWidth = 576, kVocab = 50;
  const std::vector<uint16_t> table = to_wide(form, normal_values(kWidth * kVocab, 5));
  const std::vector<int32_t> tokens = {7, 0, 49, 7};
  // The second and third are such that an earlier step sampled; -2 there is that of logits that are not finite.
  const std::vector<int32_t> given = {7, -1 - 3, -1 - 1, 7}, sampled = {5, 49, 5, -2};
  const std::vector<float> weight = normal_values(kWidth, 2), rows = from_wide(form, table);
  DeviceVector<uint16_t> device_table(table);
  DeviceVector<int32_t> device_tokens(given), device_sampled(sampled);
  DeviceVector<float> residual(4 * kWidth), device_weight(weight);
  AddRmsNormParams p;
  p.rows = 4, p.width = kWidth, p.epsilon = 1e-5f, p.residual = residual.data();
  p.tokens = device_tokens.data(), p.sampled = device_sampled.data(), p.embedding = device_table.data();
  p.weight = device_weight.data();
  Output out(form, 4, kWidth);
  p.request = out.request(), p.out = out.buffer();
  add_rms_norm({}, p);
  std::vector<float> embedded;
  for (const int32_t t : tokens)
    embedded.insert(embedded.end(), rows.begin() + t * kWidth, rows.begin() + (t + 1) * kWidth);
  EXPECT_EQ(residual.read(), embedded);

  const std::vector<int32_t> chosen = {3, 1};
  DeviceVector<int32_t> device_chosen(chosen);
  Output last(form, 2, kWidth);
  AddRmsNormParams q;
  q.rows = 2, q.width = kWidth, q.epsilon = 1e-5f, q.residual = residual.data(), q.source_rows = device_chosen.data();
  q.keeps_sum = false;
  q.weight = device_weight.data(), q.request = last.request(), q.out = last.buffer();
  add_rms_norm({}, q);
  std::vector<float> want;
  for (const int32_t r : chosen)
    want.insert(want.end(), embedded.begin() + r * kWidth, embedded.begin() + (r + 1) * kWidth);
  rms_norm(want.data(), weight.data(), 1e-5, want.data(), 2, kWidth);
  last.check(want, "chosen rows");
  EXPECT_EQ(residual.read(), embedded) << "the residual was written";
}

TEST(AddRmsNorm, StartsFromTheEmbeddingAndEndsWithChosenRows) {
  start_and_end({"f16", ActivationForm::f16, false, false});
  start_and_end({"bf16", ActivationForm::bf16, false, false});
}

// Values that FP16 does not hold: the addend and the normed row are beyond it.
TEST(AddRmsNorm, Bf16HoldsWhatFp16DoesNot) {
  constexpr int64_t kWidth = 4096;
  std::vector<float> residual = normal_values(kWidth, 1, 1e6f), normed(kWidth);
  const std::vector<float> weight = normal_values(kWidth, 2, 1e6f);
  const std::vector<uint16_t> delta = to_bfloat(normal_values(kWidth, 3, 1e12f));
  DeviceVector<float> device_residual(residual), device_weight(weight);
  DeviceVector<uint16_t> device_delta(delta);
  Output out({"bf16", ActivationForm::bf16, false, false}, 1, kWidth);
  AddRmsNormParams p;
  p.rows = 1, p.width = kWidth, p.epsilon = 1e-5f;
  p.residual = device_residual.data(), p.delta = device_delta.data(), p.weight = device_weight.data();
  p.request = out.request(), p.out = out.buffer();
  add_rms_norm({}, p);
  const std::vector<float> added = from_bfloat(delta);
  for (size_t i = 0; i < kWidth; ++i) residual[i] += added[i];
  EXPECT_EQ(device_residual.read(), residual);
  rms_norm(residual.data(), weight.data(), 1e-5, normed.data(), 1, kWidth);
  out.check(normed, "large");
}

// The last layer's second norm and the norm after it, where only some rows are wanted.
TEST(AddRmsNorm, ChosenRowsKeepTheirSumAndTakeWhatFollowsInOrder) {
  constexpr int64_t kWidth = 576;
  const std::vector<float> stream = normal_values(5 * kWidth, 1), weight = normal_values(kWidth, 2);
  const std::vector<uint16_t> added = to_half(normal_values(5 * kWidth, 3)),
                              then = to_half(normal_values(2 * kWidth, 4));
  const std::vector<int32_t> chosen = {3, 1};
  DeviceVector<float> residual(stream), device_weight(weight);
  DeviceVector<uint16_t> delta(added), next(then);
  DeviceVector<int32_t> device_chosen(chosen);
  Output out({"f16", ActivationForm::f16, false, false}, 2, kWidth);
  AddRmsNormParams p;
  p.rows = 2, p.width = kWidth, p.epsilon = 1e-5f, p.residual = residual.data(), p.source_rows = device_chosen.data();
  p.delta = delta.data(), p.weight = device_weight.data();
  p.request = out.request(), p.out = out.buffer();
  add_rms_norm({}, p);
  std::vector<float> sums = stream, want;
  for (const int32_t r : chosen)
    for (int64_t i = 0; i < kWidth; ++i) {
      const auto at = static_cast<size_t>(r * kWidth + i);
      want.push_back(sums[at] += f32_from_f16(added[at]));
    }
  EXPECT_EQ(residual.read(), sums) << "the chosen rows alone keep their sums";
  rms_norm(want.data(), weight.data(), 1e-5, want.data(), 2, kWidth);
  out.check(want, "chosen rows with delta");

  Output last({"f16", ActivationForm::f16, false, false}, 2, kWidth);
  p.delta = next.data(), p.delta_in_order = true, p.keeps_sum = false;
  p.request = last.request(), p.out = last.buffer();
  add_rms_norm({}, p);
  want.clear();
  for (size_t r = 0; r < chosen.size(); ++r)
    for (size_t i = 0; i < static_cast<size_t>(kWidth); ++i)
      want.push_back(sums[static_cast<size_t>(chosen[r]) * kWidth + i] + f32_from_f16(then[r * kWidth + i]));
  rms_norm(want.data(), weight.data(), 1e-5, want.data(), 2, kWidth);
  last.check(want, "chosen rows with delta in order");
  EXPECT_EQ(residual.read(), sums) << "the residual was written";
}

// A chained queue is Hopper's: there a row may be spread over a cluster of blocks.
CudaQueue queue_of(bool chained) {
  CudaQueue queue;
  queue.chained = chained;
  return queue;
}

TEST(SiluMul, MatchesTheReference) {
  for (const int64_t width : {8, 24, 1536, 8192, 14336, 20000})
    for (const int64_t m : {1, 2, 5, 300})
      for (const Form& form : kForms) {
        if (m == 300 && (width != 1536 || !form.per_token)) continue;  // more rows than multiprocessors
        // What BF16 is for: products of gate and up beyond FP16's range.
        const float deviation = form.form == ActivationForm::bf16 ? 2000 : 2;
        const std::vector<uint16_t> gate_up =
            to_wide(form, normal_values(static_cast<size_t>(2 * m * width), 4, deviation));
        DeviceVector<uint16_t> device(gate_up);
        const std::vector<float> values = from_wide(form, gate_up);
        std::vector<float> want;
        for (int64_t row = 0; row < m; ++row) {
          for (int64_t column = 0; column < width; column += 8) {
            const float* gate = values.data() + (row * width + column) * 2;
            float gated[8];
            silu_mul(gate, gate + 8, gated, 1, 8);
            want.insert(want.end(), gated, gated + 8);
          }
        }
        for (const bool chained : {false, true}) {
          Output out(form, m, width);
          silu_mul(queue_of(chained), m, width, device.data(), out.request(), out.buffer());
          out.check(want, "silu width " + std::to_string(width) + (chained ? " chained" : ""));
        }
      }
}

TEST(QuantizeRows, MatchesTheReference) {
  for (const Form& form : kForms) {
    const std::vector<uint16_t> x = to_wide(form, normal_values(3 * 4096, 6, 2));
    DeviceVector<uint16_t> device(x);
    for (const bool chained : {false, true}) {
      Output out(form, 3, 4096);
      quantize_rows(queue_of(chained), 3, 4096, device.data(), out.request(), out.buffer());
      out.check(from_wide(form, x), "quantize");
    }
  }
}

TEST(ArgmaxRows, LowestIndexOfEqualsAndFlagsNonFinite) {
  for (const int64_t vocab : {1, 31, 257, 32768, 49152, 128256}) {
    std::vector<float> logits = normal_values(static_cast<size_t>(5 * vocab), 8, 4);
    const size_t v = static_cast<size_t>(vocab);
    for (size_t i = v; i < 2 * v; ++i) logits[i] = -2.5f;  // all equal
    logits[2 * v + v / 2] = logits[2 * v + v - 1] = 100;
    logits[3 * v + v / 3] = std::nanf("");
    logits[4 * v + v - 1] = INFINITY;
    DeviceVector<float> device(logits);
    DeviceVector<int32_t> tokens(5);
    DeviceVector<uint8_t> scratch(static_cast<size_t>(argmax_scratch_bytes(5)));
    QG_CUDA(cudaMemset(scratch.data(), 0, static_cast<size_t>(argmax_scratch_bytes(5))));
    for (int run = 0; run < 2; ++run) {  // the second finds the scratch as the first left it
      tokens.poison();
      argmax_rows({}, 5, vocab, device.data(), {tokens.data(), nullptr, nullptr}, scratch.data());
      const std::vector<int32_t> got = tokens.read();
      const auto first = logits.begin();
      EXPECT_EQ(got[0], std::max_element(first, first + vocab) - first);
      EXPECT_EQ(got[1], 0);
      EXPECT_EQ(got[2], v / 2);
      EXPECT_EQ(got[3], -2);
      EXPECT_EQ(got[4], -2);
    }
  }
}

// Two places of tokens, one of which a number on the device picks; nothing else is touched.
TEST(ArgmaxRows, GoesWhereItIsTold) {
  DeviceVector<float> logits(std::vector<float>{0, 3, 1, 2, 0, 0, 0, 7});
  DeviceVector<int32_t> tokens(std::vector<int32_t>{-9, -9, -9, -9, -9, -9}), first(std::vector<int32_t>{3});
  DeviceVector<uint8_t> scratch(static_cast<size_t>(argmax_scratch_bytes(2)));
  QG_CUDA(cudaMemset(scratch.data(), 0, static_cast<size_t>(argmax_scratch_bytes(2))));
  const PinnedBuffer host(6 * sizeof(int32_t));
  std::fill_n(host.as<int32_t>(), 6, -9);
  argmax_rows({}, 2, 4, logits.data(), {tokens.data(), host.as<int32_t>(), first.data()}, scratch.data());
  const std::vector<int32_t> want{-9, -9, -9, 1, 3, -9};
  EXPECT_EQ(tokens.read(), want);
  EXPECT_TRUE(std::equal(want.begin(), want.end(), host.as<int32_t>()));
}

struct Asked {
  float temperature;
  int32_t top_k;
  float top_p;
};

// The draws of the GPU's rows and of sample_token agree, but for those that fall on the edge of two tokens, where the
// last bits of a probability decide.
TEST(SampleRows, DrawsAsTheCpuDoes) {
  constexpr int64_t kRows = 64;
  const Asked kinds[] = {{1.0f, 0, 1.0f}, {0.7f, 0, 0.9f},       {1.3f, 40, 1.0f}, {0.9f, 50, 0.95f},
                         {2.0f, 1, 1.0f}, {1.0f, 5, 0.5f},       {0.3f, 0, 0.01f}, {0.0f, 0, 1.0f},
                         {1.0f, 3, 1.0f}, {5.0f, 100000, 0.999f}};
  for (const int64_t vocab : {3, 1000, 32768, 128256}) {
    int64_t different = 0, drawn = 0, spread = 0;
    for (const Asked& kind : kinds) {
      std::vector<float> logits = normal_values(static_cast<size_t>(kRows * vocab), 21, 3);
      for (size_t i = 0; i < logits.size(); i += 7) logits[i] = std::round(logits[i]);  // equals, some of them the best
      std::vector<SampleRow> asked(kRows);
      std::vector<int32_t> want(kRows);
      for (size_t row = 0; row < kRows; ++row) {
        SamplingParams params;
        params.temperature = kind.temperature, params.top_k = kind.top_k, params.top_p = kind.top_p, params.seed = 77;
        const std::span values(logits.data() + row * static_cast<size_t>(vocab), static_cast<size_t>(vocab));
        want[row] = sample_token(values, params, static_cast<int64_t>(row));
        asked[row] = sample_row(params, static_cast<int64_t>(row));
        spread += want[row] != greedy_token(values);
      }
      DeviceVector<float> device(logits);
      DeviceVector<SampleRow> device_asked(asked);
      DeviceVector<int32_t> tokens(kRows);
      const PinnedBuffer host(kRows * sizeof(int32_t));
      DeviceVector<uint8_t> scratch(static_cast<size_t>(argmax_scratch_bytes(kRows)));
      QG_CUDA(cudaMemset(scratch.data(), 0, static_cast<size_t>(argmax_scratch_bytes(kRows))));
      argmax_rows({}, kRows, vocab, device.data(), {tokens.data(), nullptr, nullptr}, scratch.data());
      sample_rows({}, kRows, vocab, device.data(), device_asked.data(), {tokens.data(), host.as<int32_t>(), nullptr});
      const std::vector<int32_t> got = tokens.read();
      EXPECT_TRUE(std::equal(got.begin(), got.end(), host.as<int32_t>())) << "the host got other tokens";
      for (size_t row = 0; row < kRows; ++row) {
        ASSERT_GE(got[row], 0);
        ASSERT_LT(got[row], vocab);
        ++drawn;
        different += got[row] != want[row];
      }
    }
    printf("vocabulary %ld: %ld of %ld draws differ\n", vocab, different, drawn);
    EXPECT_LE(different, 1 + drawn / 100) << vocab;
    // Of three tokens the best holds most of the mass: the CPU draws another 76 times of 640.
    EXPECT_GT(spread, drawn / (vocab > 3 ? 4 : 10)) << "hardly anything but the best token was drawn";
  }
}

}  // namespace
}  // namespace qg::testing
