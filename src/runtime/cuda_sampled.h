#pragma once
// Where the tokens go that a step samples: device memory, in which the next step finds those that it computes with, and
// page-locked memory, in which the host waits for them. Two steps may be under way, so there are two places ("slots").
#include <cstdint>
#include <span>

#include "kernels/common/cuda.h"
#include "kernels/pointwise/cuda.h"
#include "runtime/cuda_batch.h"

namespace qg {

class SampledTokens {
 public:
  static constexpr int kSlots = 2;

  explicit SampledTokens(int64_t rows);  // most tokens of a step

  // For the kernels that sample: token i of the slot goes to device[i] and host[i].
  TokenTarget target(int slot) const;
  // Of both slots; token i of a slot is at place(slot, i).
  const int32_t* device() const { return device_.as<int32_t>(); }
  int64_t place(int slot, int64_t i) const { return slot * rows_ + i; }

  // Before the kernels that sample tokens first .. first + count - 1 of the slot are launched. None of an earlier step
  // may be missing any more.
  void expect(int slot, int64_t first, int64_t count);
  // Waits, without giving the processor away, until the first `count` tokens of the slot are there; -2 is that of
  // logits that are not finite. Throws Error when the stream failed or has nothing more to do.
  std::span<const int32_t> wait(int slot, int64_t count, cudaStream_t stream) const;

 private:
  int32_t* host(int slot) const { return pinned_.as<int32_t>() + slot * rows_; }

  int64_t rows_;
  DeviceBuffer device_;
  PinnedBuffer pinned_;
};

}  // namespace qg
