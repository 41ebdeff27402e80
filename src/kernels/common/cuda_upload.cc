#include "kernels/common/cuda_upload.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"

namespace qg {
namespace {

constexpr size_t kStageBytes = size_t{16} << 20;
constexpr size_t kGrainBytes = size_t{256} << 10;  // what one thread fills at a time

}  // namespace

CudaUpload::~CudaUpload() {
  for (Stage& stage : stages_) {
    if (stage.taken) cudaEventSynchronize(stage.taken);
    cudaFreeHost(stage.data);
    if (stage.taken) cudaEventDestroy(stage.taken);
  }
  if (stream_) cudaStreamDestroy(stream_);
}

void CudaUpload::wait() {
  if (stream_) QG_CUDA(cudaStreamSynchronize(stream_));
}

void CudaUpload::release() {
  wait();
  for (Stage& stage : stages_) {
    cudaFreeHost(stage.data);
    stage.data = nullptr;
  }
  stage_bytes_ = 0;
}

// A stage that the card has taken, of at least `bytes`.
CudaUpload::Stage& CudaUpload::next_stage(size_t bytes) {
  // Ordered with the default stream, on which weights are repacked.
  if (!stream_) QG_CUDA(cudaStreamCreate(&stream_));
  if (bytes > stage_bytes_) {
    release();
    const size_t wanted = std::max(bytes, kStageBytes);
    for (Stage& stage : stages_) {
      QG_CUDA(cudaHostAlloc(reinterpret_cast<void**>(&stage.data), wanted, cudaHostAllocDefault));
      if (!stage.taken) QG_CUDA(cudaEventCreateWithFlags(&stage.taken, cudaEventDisableTiming));
    }
    stage_bytes_ = wanted;
  }
  Stage& stage = stages_[static_cast<size_t>(next_)];
  next_ = (next_ + 1) % kStages;
  QG_CUDA(cudaEventSynchronize(stage.taken));
  return stage;
}

void CudaUpload::rows(std::byte* to, int64_t rows, size_t pitch,
                      const std::function<void(int64_t row, std::byte* out)>& fill) {
  if (pitch == 0) return;
  const auto most = static_cast<int64_t>(std::max<size_t>(1, kStageBytes / pitch));
  const auto grain = static_cast<int64_t>(std::max<size_t>(1, kGrainBytes / pitch));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    const size_t bytes = static_cast<size_t>(count) * pitch;
    Stage& stage = next_stage(bytes);
    parallel_for(count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) fill(first + row, stage.data + static_cast<size_t>(row) * pitch);
    });
    QG_CUDA(
        cudaMemcpyAsync(to + static_cast<size_t>(first) * pitch, stage.data, bytes, cudaMemcpyHostToDevice, stream_));
    QG_CUDA(cudaEventRecord(stage.taken, stream_));
    sent_ += static_cast<int64_t>(bytes);
  }
}

void CudaUpload::bytes(std::byte* to, const void* from, size_t count) {
  const auto* source = static_cast<const std::byte*>(from);
  const auto whole = static_cast<int64_t>(count / kGrainBytes);
  rows(to, whole, kGrainBytes, [&](int64_t row, std::byte* out) {
    std::memcpy(out, source + static_cast<size_t>(row) * kGrainBytes, kGrainBytes);
  });
  const size_t done = static_cast<size_t>(whole) * kGrainBytes;
  if (count > done)
    rows(to + done, 1, count - done, [&](int64_t, std::byte* out) { std::memcpy(out, source + done, count - done); });
}

}  // namespace qg
