#pragma once
#include "core/rng.h"
#include "tests/runtime/same_roundings.h"

namespace qg::test {

// Another program, on the CPU: for make_cpu_executor, rounds each value moved by up to `move` of itself, and so each
// scale per token; but not at the first roundings, before which no program has rounded anything.
inline RoundingJudge nudged_roundings(double move, bool per_token) {
  return [=](const Rounding& r) {
    const RoundedInput& in = r.input;
    if (r.layer == 0 && r.role == LinearRole::qkv) return;
    const CodeGrid grid{in.format == WeightFormat::fp8};
    // Gate and up read the same.
    const auto place = static_cast<uint64_t>(8 * r.layer) + static_cast<uint64_t>(std::string(r.tap).size());
    const Rng of_scales(9, 2 * place), of_codes(9, 2 * place + 1);
    for_rows(in.m, [&](int64_t row) {
      if (per_token)
        in.scales[row] *= static_cast<float>(1 + move * (2 * of_scales.uniform(static_cast<uint64_t>(row)) - 1));
      for (int64_t c = 0; c < in.k; ++c) {
        float& code = in.codes[row * in.stride + c];
        if (std::fabs(static_cast<double>(code)) >= grid.largest()) continue;
        const float x = in.x[row * in.k + c] * (in.prequant ? in.prequant[c] : 1.0f);
        const double moved = 1 + move * (2 * of_codes.uniform(static_cast<uint64_t>(row * in.k + c)) - 1);
        code = static_cast<float>(grid.nearest(static_cast<double>(x) / static_cast<double>(in.scales[row]) * moved));
      }
    });
  };
}

}  // namespace qg::test
