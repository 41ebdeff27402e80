#include "quantize/cuda_layer_stream.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/error.h"
#include "quantize/input_check.h"

namespace qg {
namespace {

constexpr size_t kPieceBytes = size_t{16} << 20;
constexpr int kReaders = 4;

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr LinearRole kOrder[] = {LinearRole::qkv, LinearRole::attention_output, LinearRole::gate, LinearRole::up,
                                 LinearRole::down};

}  // namespace

// Two pieces of page-locked memory, filled in turn, and a stream of its own.
struct CudaLayerStream::Reader {
  Reader() {
    QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (cudaEvent_t& event : sent) QG_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  ~Reader() {
    for (cudaEvent_t event : sent) cudaEventDestroy(event);
    cudaStreamDestroy(stream);
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  void copy(const Piece& piece, DType type) {
    const int slot = turn++ % 2;
    const auto start = Clock::now();
    QG_CUDA(cudaEventSynchronize(sent[slot]));
    upload_seconds += seconds_since(start);
    const auto reading = Clock::now();
    std::memcpy(memory[slot].as<std::byte>(), piece.from, piece.bytes);
    // While the piece is in the processor's cache.
    finite =
        all_finite(type, memory[slot].as<std::byte>(), static_cast<int64_t>(piece.bytes / size_bytes(type))) && finite;
    read_seconds += seconds_since(reading);
    QG_CUDA(cudaMemcpyAsync(piece.to, memory[slot].as<std::byte>(), piece.bytes, cudaMemcpyHostToDevice, stream));
    QG_CUDA(cudaEventRecord(sent[slot], stream));
  }
  void finish() {
    const auto start = Clock::now();
    QG_CUDA(cudaStreamSynchronize(stream));
    upload_seconds += seconds_since(start);
  }

  PinnedBuffer memory[2] = {PinnedBuffer(kPieceBytes), PinnedBuffer(kPieceBytes)};
  cudaStream_t stream = nullptr;
  cudaEvent_t sent[2] = {};
  int turn = 0;
  bool finite = true;  // all that was copied
  double read_seconds = 0, upload_seconds = 0;
};

CudaLayerStream::CudaLayerStream(const Checkpoint& base, int device, const CudaQueue& queue)
    : base_(base), device_(device), queue_(queue), type_(base.dtype()) {
  const ModelTable& table = base.table();
  for (const LinearSpec* spec : table.layer_linears(0)) layer_elements_ += spec->n * spec->k;
  for (int i = 0; i < 2; ++i) {
    stored_[i] = DeviceBuffer(static_cast<size_t>(layer_elements_) * size_bytes(type_));
    norms_[i] = DeviceBuffer(static_cast<size_t>(2 * table.shape.hidden) * sizeof(float));
  }
  if (type_ != DType::f16) half_ = DeviceBuffer(static_cast<size_t>(layer_elements_) * sizeof(__half));
  overflow_ = DeviceBuffer(sizeof(int32_t));
  for (int i = 0; i < kReaders; ++i) readers_.push_back(std::make_unique<Reader>());
}

CudaLayerStream::~CudaLayerStream() {
  if (loading_.valid()) loading_.wait();
}

void CudaLayerStream::copy(const std::vector<Piece>& pieces) {
  std::vector<std::future<void>> work;
  for (size_t i = 0; i < readers_.size(); ++i)
    work.push_back(std::async(std::launch::async, [this, &pieces, i] {
      QG_CUDA(cudaSetDevice(device_));
      for (size_t at = i; at < pieces.size(); at += readers_.size()) readers_[i]->copy(pieces[at], type_);
      readers_[i]->finish();
    }));
  for (std::future<void>& each : work) each.wait();
  for (std::future<void>& each : work) each.get();
}

void CudaLayerStream::load(int index) {
  QG_CUDA(cudaSetDevice(device_));
  const ModelTable& table = base_.table();
  const size_t element = size_bytes(type_);
  CudaStoredLayer& layer = layers_[index % 2];
  std::byte* to = stored_[index % 2].data();
  const std::byte* const begin = to;
  layer = {};
  std::vector<Tensor> tensors;
  std::vector<Piece> pieces;
  for (const LinearRole role : kOrder) {
    const LinearSpec& spec = table.linear(role, index);
    const Tensor weight = base_.linear(spec).weight;
    if (weight.dtype != type_)
      throw Error("layers of several types (" + std::string(to_string(weight.dtype)) + ", " +
                      std::string(to_string(type_)) + ") cannot be quantized on a GPU",
                  spec.trtllm_name, "use --executor cpu");
    CudaStoredLinear& linear = role == LinearRole::qkv                ? layer.qkv
                               : role == LinearRole::attention_output ? layer.attention_output
                               : role == LinearRole::down             ? layer.down
                                                                      : layer.gate_up;
    if (!linear.stored) linear.stored = to;
    if (!linear.half)
      linear.half = type_ == DType::f16 ? reinterpret_cast<const __half*>(to)
                                        : half_.as<__half>() + (to - begin) / static_cast<std::ptrdiff_t>(element);
    linear.k = spec.k;
    linear.n += spec.n;
    linear.rows.push_back(spec.n);
    for (size_t at = 0; at < weight.bytes(); at += kPieceBytes)
      pieces.push_back({weight.data + at, to + at, std::min(kPieceBytes, weight.bytes() - at)});
    to += weight.bytes();
    read_bytes_ += static_cast<int64_t>(weight.bytes());
    tensors.push_back(weight);  // keeps it until it is copied
  }
  copy(pieces);
  if (!std::all_of(readers_.begin(), readers_.end(), [](const auto& reader) { return reader->finite; }))
    check_finite_layer(base_, index);  // which tensor it is
  layer.host_attention_norm = to_f32(base_.tensor(*table.find(TensorRole::attention_norm, index)));
  layer.host_mlp_norm = to_f32(base_.tensor(*table.find(TensorRole::mlp_norm, index)));
  for (const std::vector<float>* norm : {&layer.host_attention_norm, &layer.host_mlp_norm})
    if (!all_finite(DType::f32, norm->data(), static_cast<int64_t>(norm->size()))) check_finite_layer(base_, index);
  float* norms = norms_[index % 2].as<float>();
  layer.attention_norm = norms;
  layer.mlp_norm = norms + table.shape.hidden;
  const size_t norm_bytes = layer.host_mlp_norm.size() * sizeof(float);
  QG_CUDA(cudaMemcpy(norms, layer.host_attention_norm.data(), norm_bytes, cudaMemcpyHostToDevice));
  QG_CUDA(cudaMemcpy(norms + table.shape.hidden, layer.host_mlp_norm.data(), norm_bytes, cudaMemcpyHostToDevice));
}

const CudaStoredLayer& CudaLayerStream::take(int index) {
  const auto start = Clock::now();
  if (!loading_.valid() || next_ != index) {
    if (loading_.valid()) loading_.get();
    next_ = index;
    loading_ = std::async(std::launch::async, [this, index] { load(index); });
  }
  loading_.get();
  wait_seconds_ += seconds_since(start);
  read_seconds_ = upload_seconds_ = 0;
  for (const auto& reader : readers_) {
    read_seconds_ += reader->read_seconds / kReaders;
    upload_seconds_ += reader->upload_seconds / kReaders;
  }
  next_ = index + 1;
  if (next_ < base_.table().shape.layers)
    loading_ = std::async(std::launch::async, [this, next = next_] { load(next); });
  if (type_ != DType::f16) {
    QG_CUDA(cudaMemsetAsync(overflow_.data(), 0, sizeof(int32_t), queue_.stream));
    narrow(queue_, stored_[index % 2].data(), type_, layer_elements_, half_.as<__half>(), overflow_.as<int32_t>());
    int32_t overflow = 0;
    QG_CUDA(cudaMemcpyAsync(&overflow, overflow_.data(), sizeof overflow, cudaMemcpyDeviceToHost, queue_.stream));
    QG_CUDA(cudaStreamSynchronize(queue_.stream));
    if (overflow)
      throw Error("a weight is beyond the range of fp16 (65504), in which the GPU computes",
                  "layer " + std::to_string(index), "use --executor cpu");
  }
  return layers_[index % 2];
}

}  // namespace qg
