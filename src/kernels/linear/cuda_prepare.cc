// Timing cuBLASLt's algorithms for a layer, on values that cost the card what real ones do.
#include <algorithm>

#include "core/rng.h"
#include "kernels/linear/cuda_state.h"

namespace qg {
namespace {

// Random values: halves of 2^-4 to 1, or bytes that are small and no NaN in e4m3. Of values that are all the same, a
// product takes less power and the card clocks higher: another algorithm may then look like the fastest.
void fill_randomly(std::byte* to, size_t bytes, bool halves) {
  std::vector<uint16_t> pattern(std::min<size_t>(bytes / 2, 1 << 19));
  for (size_t i = 0; i < pattern.size(); ++i) {
    const uint64_t v = mix64((i + 1) * 0x9e3779b97f4a7c15ull);
    pattern[i] = static_cast<uint16_t>(halves ? (v & 0x83ff) | ((11 + (v >> 16) % 4) << 10) : v & 0xbfbf);
  }
  size_t filled = pattern.size() * 2;
  QG_CUDA(cudaMemcpy(to, pattern.data(), filled, cudaMemcpyHostToDevice));
  for (size_t more = 0; filled < bytes; filled += more) {
    more = std::min(filled, bytes - filled);
    QG_CUDA(cudaMemcpy(to + filled, to, more, cudaMemcpyDeviceToDevice));
  }
}

}  // namespace

void CudaLinear::prepare(int64_t m) {
  const LinearState& s = *state_;
  const LinearRoute route = choose_route(s, m);
  if (runs_few_rows(route) || route == LinearRoute::wide) return;
  const int64_t rows = CublasLt::bucket(std::min(m, rows_a_piece(s, route, m)));
  GemmShape shape = library_shape(s, route, rows, DType::f16);
  const bool halves = s.path == ComputePath::w16a16 || route == LinearRoute::expand;
  const size_t x_bytes = static_cast<size_t>(rows * s.k) * (halves ? 2 : 1);
  const size_t y_bytes = static_cast<size_t>(rows * s.n) * 4;
  const auto flush_bytes = static_cast<size_t>(2 * s.context->device.l2_bytes);
  const DeviceBuffer x(x_bytes), y(y_bytes), flush(flush_bytes), scales(static_cast<size_t>(rows) * sizeof(float));
  fill_randomly(x.data(), x_bytes, halves);
  QG_CUDA(cudaMemset(scales.data(), 0x35, static_cast<size_t>(rows) * sizeof(float)));
  GemmPointers p;
  p.weight = route == LinearRoute::expand ? s.context->scratch.data() : s.weight.data();
  p.x = x.data();
  p.y = y.data();
  p.weight_scales = s.channel_scales.as<float>();
  p.x_scales = scales.as<float>();
  if (route == LinearRoute::expand) fill_randomly(s.context->scratch.data(), static_cast<size_t>(s.n * s.k) * 2, true);
  if (route != LinearRoute::library_parts) {
    s.context->library.find_fastest_us(shape, p, flush.data(), flush_bytes, nullptr);
    return;
  }
  for (const LinearPart& part : s.parts) {
    shape.n = part.n;
    s.context->library.find_fastest_us(shape, p, flush.data(), flush_bytes, nullptr);
  }
}

}  // namespace qg
