#pragma once
// The base model's layers on their way to the card: while one is used, the next is read from the mapped files through
// page-locked memory into the other of two device buffers.
#include <future>
#include <memory>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "kernels/common/cuda.h"
#include "kernels/quantize/cuda_statistics.h"
#include "runtime/cuda_batch.h"

namespace qg {

// The linear layers that read one activation, stacked along n.
struct CudaStoredLinear {
  const void* stored = nullptr;  // [n, k], as in the checkpoint
  const __half* half = nullptr;  // the same as half
  int64_t n = 0, k = 0;
  std::vector<int64_t> rows;  // of each layer
};

struct CudaStoredLayer {
  CudaStoredLinear qkv, attention_output, gate_up, down;
  const float *attention_norm = nullptr, *mlp_norm = nullptr;  // [hidden]
  std::vector<float> host_attention_norm, host_mlp_norm;
};

class CudaLayerStream {
 public:
  // queue: what uses the layers; device: as CUDA numbers them. Takes its memory now.
  CudaLayerStream(const Checkpoint& base, int device, const CudaQueue& queue);
  ~CudaLayerStream();
  CudaLayerStream(const CudaLayerStream&) = delete;
  CudaLayerStream& operator=(const CudaLayerStream&) = delete;

  DType stored_type() const { return type_; }
  // Layer `index` on the card, until the next call; layers are taken in order, and the queue has ended what it did with
  // the one before. Starts on the one after. Throws Error when a weight is beyond half's range, and what
  // check_finite_layer throws.
  const CudaStoredLayer& take(int index);

  double read_seconds() const { return read_seconds_; }      // of a reader: from the files into page-locked memory
  double upload_seconds() const { return upload_seconds_; }  // of a reader: waiting for copies to the card
  double wait_seconds() const { return wait_seconds_; }      // of callers: for layers that were not there yet
  int64_t read_bytes() const { return read_bytes_; }

 private:
  struct Reader;
  struct Piece {
    const std::byte* from;
    std::byte* to;
    size_t bytes;
  };
  void load(int index);
  void copy(const std::vector<Piece>& pieces);

  const Checkpoint& base_;
  int device_;
  CudaQueue queue_;
  DType type_;
  int64_t layer_elements_ = 0;
  DeviceBuffer stored_[2], half_, norms_[2], overflow_;
  CudaStoredLayer layers_[2];
  std::vector<std::unique_ptr<Reader>> readers_;
  std::future<void> loading_;
  int next_ = 0;  // the layer that is being loaded or will be
  double read_seconds_ = 0, upload_seconds_ = 0, wait_seconds_ = 0;
  int64_t read_bytes_ = 0;
};

}  // namespace qg
