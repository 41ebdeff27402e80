#pragma once
// A quantized group of linear layers as feedback_check.h takes it.
#include <algorithm>

#include "quantize/group.h"
#include "tests/quantize/feedback_check.h"

namespace qg::testing {

// By what the group's inputs are multiplied; empty: by nothing.
inline std::vector<float> down_of(const GroupResult& result) {
  if (!result.norm_multiplier.empty()) return result.norm_multiplier;
  const Tensor& stored = result.linears.front().prequant_scale;
  return stored.empty() ? std::vector<float>() : to_f32(stored);
}

// Codes as bytes: of int4 the nibbles.
inline std::vector<uint8_t> codes_of(const LinearWeights& w) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(w.weight.data);
  std::vector<uint8_t> codes(bytes, bytes + w.weight.bytes());
  if (w.format != WeightFormat::int4_awq) return codes;
  std::vector<uint8_t> nibbles;
  for (const uint8_t c : codes) {
    nibbles.push_back(c & 15);
    nibbles.push_back(c >> 4);
  }
  return nibbles;
}

// All but order and factor. weight [n, k]: what was quantized, of all layers of the group.
inline FeedbackRun run_of_group(const GroupResult& result, const std::vector<float>& weight,
                                const std::vector<float>& down) {
  FeedbackRun run;
  run.format = result.linears.front().format;
  run.k = result.linears.front().k;
  run.group = run.format == WeightFormat::int4_awq ? result.linears.front().group_size : 0;
  run.weight = weight;
  for (size_t i = 0; i < weight.size() && !down.empty(); ++i)
    run.weight[i] *= 1.0f / down[i % static_cast<size_t>(run.k)];
  for (const LinearWeights& w : result.linears) {
    run.n += w.n;
    const std::vector<uint8_t> codes = codes_of(w);
    run.codes.insert(run.codes.end(), codes.begin(), codes.end());
    std::vector<float> scales = to_f32(w.weight_scale);
    if (scales.size() == 1) scales.resize(static_cast<size_t>(w.n), scales.front());  // one for all rows
    run.scales.insert(run.scales.end(), scales.begin(), scales.end());
    if (w.format != WeightFormat::int4_awq) continue;
    for (size_t g = 0; g < scales.size(); ++g)
      run.zeros.push_back(w.zero_point.empty() ? 8.0f : static_cast<float>(w.zero_point.as<uint8_t>()[g]));
  }
  return run;
}

}  // namespace qg::testing
