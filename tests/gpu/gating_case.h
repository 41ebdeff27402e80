#pragma once
// A layer of a gate and its up, the product that ends with the gating against a product and a launch.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/pointwise/cuda.h"
#include "tests/gpu/linear_case.h"

namespace qg::test {

// What run_gated writes is what run and silu_mul do, bit for bit, in each form; a scale per token is refused.
inline void check_gating(Case& c, int64_t m) {
  const int64_t width = c.layer().n() / 2;
  std::vector<float> multipliers(static_cast<size_t>(width));
  for (size_t i = 0; i < multipliers.size(); ++i) multipliers[i] = 0.5f + static_cast<float>(i % 17) / 16;
  const DeviceBuffer prequant = to_device(multipliers.data(), multipliers.size() * sizeof(float));
  const size_t bytes = static_cast<size_t>(m * width) * 2;
  const DeviceBuffer gate_up(static_cast<size_t>(c.room(m) * width) * 4), two(bytes), one(bytes);
  const ActivationForm wide = c.layer().output_type() == DType::bf16 ? ActivationForm::bf16 : ActivationForm::f16;
  for (const ActivationForm form : {wide, ActivationForm::fp8, ActivationForm::int8})
    for (const bool scaled : {false, true}) {
      ActivationRequest wanted;
      wanted.form = form;
      wanted.static_scale = is_16_bit(form) ? 1.0f : 0.0371f;
      wanted.prequant = scaled ? prequant.as<float>() : nullptr;
      if (wide == ActivationForm::bf16 && form != wide) {
        EXPECT_FALSE(c.layer().can_gate(m, wanted)) << c.name();
        continue;
      }
      if (!c.layer().can_gate(m, wanted)) {
        for (const char* own : {"sm90a_skinny", "sm90a_wide"})
          EXPECT_EQ(c.layer().kernel_name(m).find(own), std::string::npos) << c.name() << " m=" << m;
        continue;
      }
      QG_CUDA(cudaMemset(two.data(), 0xff, bytes));
      QG_CUDA(cudaMemset(one.data(), 0xff, bytes));
      const CudaQueue queue{stream(), true};
      c.layer().run(queue, m, c.input(), gate_up.data(), c.layer().output_type());
      silu_mul(queue, m, width, gate_up.data(), wanted, {two.data(), nullptr});
      c.layer().run_gated(queue, m, c.input(), wanted, one.data());
      QG_CUDA(cudaDeviceSynchronize());
      std::vector<uint8_t> want(bytes), got(bytes);
      QG_CUDA(cudaMemcpy(want.data(), two.data(), bytes, cudaMemcpyDeviceToHost));
      QG_CUDA(cudaMemcpy(got.data(), one.data(), bytes, cudaMemcpyDeviceToHost));
      const auto differs = std::mismatch(want.begin(), want.end(), got.begin());
      if (differs.first != want.end())
        ADD_FAILURE() << c.name() << " m=" << m << " form " << static_cast<int>(form) << (scaled ? " prequant" : "")
                      << ": byte " << differs.first - want.begin() << " of " << bytes << " is "
                      << static_cast<int>(*differs.second) << ", by two launches " << static_cast<int>(*differs.first);
      wanted.per_token = true;
      EXPECT_FALSE(c.layer().can_gate(m, wanted));
    }
}

}  // namespace qg::test
