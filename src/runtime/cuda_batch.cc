#include "runtime/cuda_batch.h"

#include <algorithm>

#include "core/rng.h"

namespace qg {

PinnedBuffer::PinnedBuffer(size_t bytes) {
  QG_CUDA(cudaHostAlloc(&data_, bytes, cudaHostAllocDefault));
  bytes_ = bytes;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_) cudaFreeHost(data_);
}

SampleRow sample_row(const SamplingParams& params, int64_t output_position) {
  SampleRow row;
  if (params.temperature <= 0 || params.top_k == 1) return row;
  row.inverse_temperature = 1 / params.temperature;
  row.top_k = params.top_k;
  row.top_p = params.top_p;
  row.draw = Rng(params.seed).uniform(static_cast<uint64_t>(output_position));
  return row;
}

CudaStepBatch::CudaStepBatch(const BatchLimits& limits) : limits_(limits) {
  size_t next = 0;
  const auto section = [&](int64_t elements) {
    const size_t at = next;
    next += (static_cast<size_t>(elements) + 31) / 32 * 32;
    return at;
  };
  first_sample_ = section(1);
  first_row_ = section(limits.pieces);
  num_tokens_ = section(limits.pieces);
  kv_tokens_ = section(limits.pieces);
  samples_at_ = section(limits.pieces);
  row_tokens_ = section(limits.rows);
  row_piece_ = section(limits.rows);
  row_position_ = section(limits.rows);
  page_table_ = section(limits.pieces * limits.pages_per_piece);  // last: only what is used is copied
  pinned_ = PinnedBuffer(next * sizeof(int32_t));
  device_ = DeviceBuffer(next * sizeof(int32_t));
  asked_ = PinnedBuffer(static_cast<size_t>(limits.pieces) * sizeof(SampleRow));
  device_asked_ = DeviceBuffer(asked_.bytes());
  tokens_ = device(row_tokens_);
  sample_rows_ = device(samples_at_);
  view_.first_row = device(first_row_);
  view_.num_tokens = device(num_tokens_);
  view_.kv_tokens = device(kv_tokens_);
  view_.page_table = device(page_table_);
  view_.row_piece = device(row_piece_);
  view_.row_position = device(row_position_);
}

void CudaStepBatch::fill(std::span<const int32_t> tokens, std::span<const SequencePiece* const> pieces,
                         int64_t padded_pieces, int64_t page_columns, std::span<const int64_t> sampled_at,
                         int64_t first_sample) {
  wait_uploaded();
  rows_ = samples_ = 0;
  draws_ = false;
  *host(first_sample_) = static_cast<int32_t>(first_sample);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const SequencePiece& piece = *pieces[i];
    host(first_row_)[i] = static_cast<int32_t>(rows_);
    host(num_tokens_)[i] = static_cast<int32_t>(piece.num_tokens);
    host(kv_tokens_)[i] = static_cast<int32_t>(piece.context_tokens + piece.num_tokens);
    for (int64_t t = 0; t < piece.num_tokens; ++t, ++rows_) {
      host(row_tokens_)[rows_] = piece.token_of_piece < 0
                                     ? tokens[static_cast<size_t>(piece.first_row + t)]
                                     : static_cast<int32_t>(-1 - sampled_at[static_cast<size_t>(piece.token_of_piece)]);
      host(row_piece_)[rows_] = static_cast<int32_t>(i);
      host(row_position_)[rows_] = static_cast<int32_t>(piece.context_tokens + t);
    }
    if (piece.sample) {
      SampleRow& asked = asked_.as<SampleRow>()[samples_];
      asked = sample_row(piece.sampling, piece.output_position);
      draws_ |= asked.inverse_temperature > 0;
      host(samples_at_)[samples_++] = static_cast<int32_t>(rows_ - 1);
    }
    const int64_t pages = std::min(static_cast<int64_t>(piece.pages.size()), page_columns);
    std::copy_n(piece.pages.begin(), pages, host(page_table_) + static_cast<int64_t>(i) * page_columns);
  }
  for (int64_t i = static_cast<int64_t>(pieces.size()); i < padded_pieces; ++i, ++rows_) {
    host(first_row_)[i] = static_cast<int32_t>(rows_);
    host(num_tokens_)[i] = 1;
    host(kv_tokens_)[i] = 0;
    host(row_tokens_)[rows_] = 0;
    host(row_piece_)[rows_] = static_cast<int32_t>(i);
    host(row_position_)[rows_] = -1;
    asked_.as<SampleRow>()[samples_] = {};
    host(samples_at_)[samples_++] = static_cast<int32_t>(rows_);
  }
  view_.max_pages = static_cast<int32_t>(page_columns);
  used_ = static_cast<int64_t>(page_table_) +
          std::max<int64_t>(padded_pieces, static_cast<int64_t>(pieces.size())) * page_columns;
}

void CudaStepBatch::upload(cudaStream_t stream) {
  QG_CUDA(cudaMemcpyAsync(device_.data(), pinned_.as<std::byte>(), static_cast<size_t>(used_) * sizeof(int32_t),
                          cudaMemcpyHostToDevice, stream));
  if (draws_)
    QG_CUDA(cudaMemcpyAsync(device_asked_.data(), asked_.as<std::byte>(),
                            static_cast<size_t>(samples_) * sizeof(SampleRow), cudaMemcpyHostToDevice, stream));
  QG_CUDA(cudaEventRecord(uploaded_.event, stream));
}

void CudaStepBatch::wait_uploaded() const {
  QG_CUDA(cudaEventSynchronize(uploaded_.event));
}

}  // namespace qg
