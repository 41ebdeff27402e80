#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "kernels/common/cuda.h"
#include "kernels/common/cuda_cublaslt.h"
#include "kernels/common/cuda_read.h"
#include "runtime/device_probe.h"

namespace qg {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 30;
constexpr int64_t kSide = 8192;
constexpr int kPasses = 10;

class Stream {
 public:
  Stream() { QG_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { QG_CUDA(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// The fastest of several passes, after one that is not counted: other work can only slow a pass down.
double best_seconds(cudaStream_t stream, const std::function<void()>& work) {
  Event before, after;
  double best = 1e300;
  for (int i = 0; i <= kPasses; ++i) {
    QG_CUDA(cudaEventRecord(before.get(), stream));
    work();
    QG_CUDA(cudaEventRecord(after.get(), stream));
    QG_CUDA(cudaEventSynchronize(after.get()));
    float ms = 0;
    QG_CUDA(cudaEventElapsedTime(&ms, before.get(), after.get()));
    if (i > 0) best = std::min(best, 1e-3 * static_cast<double>(ms));
  }
  return best;
}

// Operations per second, in 10^12, of one kind of product.
double product_rate(CublasLt& blas, GemmKind kind, const DeviceBuffer& a, const DeviceBuffer& b, cudaStream_t stream) {
  GemmShape shape;
  shape.kind = kind;
  shape.y_type = kind == GemmKind::int8 ? DType::i32 : DType::f16;
  shape.m = shape.n = shape.k = shape.weight_pitch = shape.y_pitch = kSide;
  if (!blas.can_run(shape)) return 0;
  const DeviceBuffer y(static_cast<size_t>(CublasLt::bucket(kSide) * kSide) * size_bytes(shape.y_type));
  const GemmPointers pointers{.weight = a.data(), .x = b.data(), .y = y.data()};
  blas.find_fastest_us(shape, pointers, nullptr, 0, stream);
  const double seconds = best_seconds(stream, [&] { blas.run(shape, pointers, stream); });
  return 2e-12 * static_cast<double>(kSide) * kSide * kSide / seconds;
}

}  // namespace

DeviceProbe probe_device(int index) {
  QG_CUDA(cudaSetDevice(index));
  const DeviceCapabilities device = read_device_capabilities(index);
  const Stream stream;
  const DeviceBuffer from(kBufferBytes), to(kBufferBytes);
  // Zeros would let some cards clock higher than real numbers do; these are small halves of either sign.
  QG_CUDA(cudaMemset(from.data(), 0x2e, kBufferBytes));
  QG_CUDA(cudaMemset(to.data(), 0x2e, kBufferBytes));
  const double gigabytes = 1e-9 * static_cast<double>(kBufferBytes);
  DeviceProbe probe;
  probe.copy_gbps =
      2 * gigabytes / best_seconds(stream.get(), [&] {
        QG_CUDA(cudaMemcpyAsync(to.data(), from.data(), kBufferBytes, cudaMemcpyDeviceToDevice, stream.get()));
      });
  probe.read_gbps =
      gigabytes / best_seconds(stream.get(), [&] {
        read_memory({stream.get(), false}, from.data(), kBufferBytes, device.multiprocessors, to.as<uint32_t>());
      });
  CublasLt blas(device);
  probe.f16_tflops = product_rate(blas, GemmKind::f16, from, to, stream.get());
  if (device.compute_capability >= 89) probe.fp8_tflops = product_rate(blas, GemmKind::e4m3, from, to, stream.get());
  probe.int8_tops = product_rate(blas, GemmKind::int8, from, to, stream.get());
  return probe;
}

std::vector<std::string> visible_devices() {
  int count = 0;
  std::vector<std::string> uuids;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver, or none for this toolkit: `doctor` says which
    return uuids;
  }
  for (int i = 0; i < count; ++i) uuids.push_back(device_uuid(i));
  return uuids;
}

std::string device_uuid(int index) {
  cudaDeviceProp properties;
  QG_CUDA(cudaGetDeviceProperties(&properties, index));
  const char* bytes = properties.uuid.bytes;
  std::string text = "GPU";
  for (int i = 0; i < 16; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned>(static_cast<unsigned char>(bytes[i])));
  }
  return text;
}

}  // namespace qg
