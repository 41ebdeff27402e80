#include "runtime/cuda_sampled.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "core/error.h"

namespace qg {
namespace {

// What no kernel writes.
constexpr int32_t kAwaited = std::numeric_limits<int32_t>::min();
// Asking the driver for errors disturbs the device, so it is done about once a millisecond.
constexpr int64_t kLooksBetweenChecks = 20000;

void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

SampledTokens::SampledTokens(int64_t rows)
    : rows_(rows),
      device_(static_cast<size_t>(kSlots * rows) * sizeof(int32_t)),
      pinned_(static_cast<size_t>(kSlots * rows) * sizeof(int32_t)) {
  QG_CUDA(cudaMemset(device_.data(), 0, device_.bytes()));
  std::fill_n(pinned_.as<int32_t>(), kSlots * rows, 0);
}

TokenTarget SampledTokens::target(int slot) const {
  return {device_.as<int32_t>() + slot * rows_, host(slot), nullptr};
}

void SampledTokens::expect(int slot, int64_t first, int64_t count) {
  std::fill_n(host(slot) + first, count, kAwaited);
}

std::span<const int32_t> SampledTokens::wait(int slot, int64_t count, cudaStream_t stream) const {
  for (int64_t i = 0; i < count; ++i) {
    const std::atomic_ref<int32_t> token(host(slot)[i]);
    bool ended = false;
    for (int64_t looks = 1; token.load(std::memory_order_acquire) == kAwaited; ++looks) {
      if (ended) throw Error("internal error: a step ended without its tokens", "cuda executor", "please report this");
      pause_processor();
      if (looks % kLooksBetweenChecks != 0) continue;
      const cudaError_t status = cudaStreamQuery(stream);
      if (status != cudaErrorNotReady) QG_CUDA(status);
      ended = status == cudaSuccess;
    }
  }
  return {host(slot), static_cast<size_t>(count)};
}

}  // namespace qg
