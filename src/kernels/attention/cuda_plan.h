#pragma once
// What the host works out once a step for the prefill kernels, and how it gets to the device.
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention/cuda.h"
#include "kernels/attention/cuda_kernels.h"

namespace qg::attention {

// A list of int32 that the host makes anew for every step while earlier ones may still be on their way.
class PlanBuffer {
 public:
  explicit PlanBuffer(int64_t capacity);
  ~PlanBuffer();
  PlanBuffer(const PlanBuffer&) = delete;
  PlanBuffer& operator=(const PlanBuffer&) = delete;
  int64_t capacity() const { return capacity_; }
  void send(const CudaQueue& queue, std::span<const int32_t> values);  // Throws Error when there are too many
  const int32_t* device() const { return device_.as<int32_t>(); }
  int64_t bytes() const { return static_cast<int64_t>(device_.bytes()); }

 private:
  static constexpr size_t kSlots = 4;
  int64_t capacity_;
  DeviceBuffer device_;
  int32_t* pinned_ = nullptr;  // [kSlots, capacity]
  std::array<cudaEvent_t, kSlots> sent_ = {};
  size_t next_ = 0;
};

// Prefill through the Hopper kernel.
class Sm90Prefill {
 public:
  Sm90Prefill(const AttentionDesc& desc, const DeviceCapabilities& device, int64_t max_rows, int64_t max_pieces,
              int64_t max_pages_per_piece, int64_t f16_copy_bytes);

  // Takes the pieces that it can and gives back the places of the others: those whose f16 copy does not fit.
  std::vector<size_t> plan(const CudaQueue& queue, int64_t max_pages, int64_t first_piece,
                           std::span<const CudaPrefillPiece> pieces);
  void run(const CudaQueue& queue, const Variant& variant, const Inputs& in, void* f16_out) const;
  int64_t bytes() const;

 private:
  // Pieces whose f16 copies fit in the scratch together.
  struct Pass {
    int64_t begin_at = 0, works_at = 0, works = 0, pages_at = 0, pages = 0, end_row = 0;  // *_at: places in the plan
  };
  struct Member {
    size_t index;
    int64_t first_page;  // place of its first page number
  };
  void add_pass(int64_t first_piece, std::span<const CudaPrefillPiece> pieces, std::span<const Member> members);

  AttentionDesc desc_;
  int64_t multiprocessors_, scratch_pages_;
  int64_t max_pages_ = 0;  // of the batch that was planned for
  PlanBuffer plan_;
  DeviceBuffer expanded_, identity_;
  std::vector<int32_t> values_;
  std::vector<Pass> passes_;
};

}  // namespace qg::attention
