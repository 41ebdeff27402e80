#pragma once
// cuBLASLt, opened at run time: y[m, n] = alpha x[m, k] W[n, k]^T + beta y. Algorithms are looked up once a shape and
// bucket of m, or timed on request, and kept; the same shape then always runs the same algorithm.
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "kernels/common/cuda.h"

namespace qg {

// e4m3_scaled: a float scale for each row of x and each row of W, applied by the library (sm_90). int8: sums as int32.
// f32: products and sums in float, no shorter formats inside.
enum class GemmKind { f16, e4m3, e4m3_scaled, int8, f32, bf16 };

struct GemmShape {
  GemmKind kind = GemmKind::f16;
  DType y_type = DType::f16;  // F16 or F32; I32 for int8; BF16 or F32 for bf16
  int64_t m = 0, n = 0, k = 0;
  int64_t weight_pitch = 0, y_pitch = 0;  // elements from row to row
  int64_t x_pitch = 0;                    // 0: x is dense
  // The sum runs over rows instead: x is [k, m] and W is [k, n], so that y = x^T W (f16 and f32 only).
  bool over_rows = false;
};
struct GemmPointers {
  const void* weight = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  const float* weight_scales = nullptr;  // [n], e4m3_scaled
  const float* x_scales = nullptr;       // [m], e4m3_scaled
  float alpha = 1, beta = 0;             // not for int8
};

// The library's own description of an algorithm: plain bytes, good for the same version of it on the same card.
using GemmAlgorithm = std::array<uint8_t, 64>;
struct FoundGemm {
  GemmShape shape;  // m: the bucket's largest
  GemmAlgorithm algorithm = {};
  float us = 0;
};

class CublasLt {
 public:
  explicit CublasLt(const DeviceCapabilities& device);  // throws Error (cannot_here) where the library is missing
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  bool can_run(const GemmShape& shape);  // does the library have an algorithm
  void run(const GemmShape& shape, const GemmPointers& pointers, cudaStream_t stream);
  // Times the heuristic's first algorithms for the bucket of shape.m, L2 emptied before each by writing `flush` bytes
  // (0: not), and keeps the fastest; returns its time. x and y must hold the bucket's largest m. Waits for the device.
  float find_fastest_us(const GemmShape& shape, const GemmPointers& pointers, void* flush, size_t flush_bytes,
                        cudaStream_t stream);
  static int64_t bucket(int64_t m);              // the largest m of the bucket
  bool was_timed(const GemmShape& shape) const;  // the bucket of shape.m: by find_fastest_us or adopt
  std::vector<FoundGemm> timed() const;
  // Takes an algorithm that was found earlier; false where the library refuses it for this shape.
  bool adopt(const FoundGemm& found);
  static int64_t version();
  int64_t bytes() const;  // workspace on the device

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qg
