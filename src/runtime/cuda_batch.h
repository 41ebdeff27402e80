#pragma once
// A step's batch in device memory: written to pinned memory, copied once, at addresses that never change, so that a
// captured graph reads the batch of every later step that uses the same object.
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention/cuda_batch.h"
#include "kernels/common/cuda.h"
#include "kernels/pointwise/cuda.h"
#include "runtime/cuda_clock.h"
#include "runtime/executor.h"

namespace qg {

// Page-locked host memory: copies from it run beside the host.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

struct BatchLimits {
  int64_t rows = 0, pieces = 0, pages_per_piece = 0;
};

// How the kernel of kernels/pointwise/cuda.h draws what sample_token would draw.
SampleRow sample_row(const SamplingParams& params, int64_t output_position);

// Pieces in the order in which their rows lie: decode pieces (one token each) first.
class CudaStepBatch {
 public:
  explicit CudaStepBatch(const BatchLimits& limits);

  // Lays the pieces out; waits for the last upload first. padded_pieces: that many in all, the rest being padding of
  // one row each, for which nothing is stored and nothing read. page_columns: width of the page table, at least every
  // piece's pages. sampled_at: places (SampledTokens::place) of what the pieces of the step before sampled.
  // first_sample: place of this batch's first sampled token in its slot.
  void fill(std::span<const int32_t> tokens, std::span<const SequencePiece* const> pieces, int64_t padded_pieces,
            int64_t page_columns, std::span<const int64_t> sampled_at = {}, int64_t first_sample = 0);
  void upload(cudaStream_t stream);
  void wait_uploaded() const;

  CudaBatch view() const { return view_; }
  const int32_t* tokens() const { return tokens_; }  // device [rows]; AddRmsNormParams says what those below 0 mean
  const int32_t* first_sample() const { return device(first_sample_); }  // device: one number
  const int32_t* sample_rows() const { return sample_rows_; }            // device: the last row of each sampling piece
  int64_t rows() const { return rows_; }
  int64_t samples() const { return samples_; }
  const SampleRow* asked() const { return device_asked_.as<SampleRow>(); }  // device [samples]
  bool draws() const { return draws_; }                                     // some row is not greedy

 private:
  int32_t* host(size_t section) const { return pinned_.as<int32_t>() + section; }
  const int32_t* device(size_t section) const { return device_.as<int32_t>() + section; }

  BatchLimits limits_;
  size_t first_sample_ = 0, first_row_ = 0, num_tokens_ = 0, kv_tokens_ = 0, samples_at_ = 0, row_tokens_ = 0,
         row_piece_ = 0, row_position_ = 0, page_table_ = 0;  // offsets of the sections, in elements
  PinnedBuffer pinned_, asked_;
  DeviceBuffer device_, device_asked_;
  CudaBatch view_ = {};
  const int32_t* tokens_ = nullptr;
  const int32_t* sample_rows_ = nullptr;
  int64_t rows_ = 0, samples_ = 0, used_ = 0;
  bool draws_ = false;
  CudaEvent uploaded_{cudaEventDisableTiming};
};

}  // namespace qg
