#pragma once
// A linear layer on the GPU, run twice on poisoned memory and compared with a double-precision loop over the same
// bytes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/linear/cuda_state.h"
#include "tests/gpu/linear_layers.h"

namespace qg::test {

struct Shape2 {
  int64_t n, k, group;
};

inline DeviceCapabilities capabilities(KernelFamily family = KernelFamily::sm90a) {
  DeviceCapabilities device = read_device_capabilities(0);
  device.family = std::min(device.family, family);
  return device;
}

inline cudaStream_t stream() {
  static const cudaStream_t made = [] {
    cudaStream_t s = nullptr;
    QG_CUDA(cudaStreamCreate(&s));  // ordered with the default stream's copies
    return s;
  }();
  return made;
}

inline DeviceBuffer to_device(const void* from, size_t bytes) {
  DeviceBuffer buffer(bytes);
  QG_CUDA(cudaMemcpy(buffer.data(), from, bytes, cudaMemcpyHostToDevice));
  return buffer;
}

// `count` places spread over [0, size), ends included.
inline std::vector<int64_t> spread(int64_t size, int64_t count) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = count == 1 ? 0 : i * (size - 1) / (count - 1);
    if (places.empty() || places.back() != at) places.push_back(at);
  }
  return places;
}

// How far an output may be off:
// - the output's own rounding, 2^-11 (2^-22 for F32, whose scale products round too), 2^-8 for BF16; the library's BF16
//   products that become halves have both roundings;
// - float sums: each of the k/16 additions of an instruction's result, and the 64 of warps and slices, is off by at
// most
//   2^-23 of a partial sum, which is at most the sum of the magnitudes. Integer sums are exact;
// - fp8 through Hopper's wgmma (cuBLASLt): for every 32 of k the products and the sum so far are aligned to the largest
//   and cut to 14 bits (DeepSeek-V3 report, section 3.3.2), so each loses up to u = 2^-13 of the largest, which is of
//   the size of the root of the sum of squares. The sum always loses towards zero: k/32 times up to u. The products
//   lose with their signs, independently and evenly between 0 and u: three standard deviations are 3 u sqrt(k / 3);
// - weights expanded to halves: each is off by at most 2^-11, independently: four standard deviations.
inline double tolerance(const Expected& e, Kind kind, const std::string& kernel, int64_t k, DType y_type) {
  const int bits = y_type == DType::f16 ? 11 : y_type == DType::bf16 ? 8 : 21;
  double allowed = std::fabs(e.value) * std::ldexp(1.0, -bits);
  if (y_type == DType::f16 && kernel == "cublaslt_w16a16_bf16") allowed += std::fabs(e.value) * std::ldexp(1.0, -8);
  allowed += y_type == DType::f16 ? std::ldexp(1.0, -25) : 0;
  if (is_int8(kind)) return allowed + std::fabs(e.value) * std::ldexp(1.0, -21);
  allowed += (static_cast<double>(k) / 16 + 64) * std::ldexp(1.0, -23) * e.magnitude;
  const bool wide = kernel.find("skinny") == std::string::npos;
  if (wide && kernel.find("w8a8_fp8") != std::string::npos) {
    const double terms = static_cast<double>(k) / 32 + std::sqrt(3.0 * static_cast<double>(k));
    allowed += terms * std::ldexp(1.0, -13) * std::max(e.root_square, std::fabs(e.value));
  }
  if (kernel.find("expand") != std::string::npos || kernel.find("wide_w4") != std::string::npos)
    allowed += 4 * std::ldexp(1.0, -11) * e.root_square;
  return allowed;
}

// A layer on the device with an input of up to `rows` rows, and the expected outputs of some of them.
class Case {
 public:
  Case(Kind kind, Shape2 shape, int64_t rows, CudaLinearContext& context, std::vector<int64_t> part_rows = {},
       PartOrder order = PartOrder::joined)
      : kind_(kind),
        order_(order),
        name_(fmt::format("{} n={} k={} group={}", to_string(kind), shape.n, shape.k, shape.group)) {
    if (part_rows.empty()) part_rows = {shape.n};
    std::vector<const LinearWeights*> pointers;
    for (size_t i = 0; i < part_rows.size(); ++i)
      parts_.push_back(make_part(kind, part_rows[i], shape.k, shape.group, 100 + i));
    for (const LinearWeights& part : parts_) pointers.push_back(&part);
    layer_ = std::make_unique<CudaLinear>(pointers, activations_of(kind), context, order);
    const ActivationRequest request = layer_->input();
    x_ = std::make_unique<Input>(request.form, request.per_token, rows, shape.k, 5);
    values_ = to_device(x_->values.tensor.data, x_->values.tensor.bytes());
    scales_ = to_device(x_->row_scales.data(), x_->row_scales.size() * sizeof(float));
  }

  void expect_at(std::vector<int64_t> rows, std::vector<int64_t> columns) {
    rows_ = std::move(rows);
    columns_ = std::move(columns);
    expected_ = reference(parts_, *x_, rows_, columns_);
  }
  void expect_all() {
    std::vector<int64_t> rows(static_cast<size_t>(x_->m)), columns(static_cast<size_t>(layer_->n()));
    std::iota(rows.begin(), rows.end(), 0);
    std::iota(columns.begin(), columns.end(), 0);
    expect_at(rows, columns);
  }
  // Room for `rows` rows in x, its scales and y. Those of x from row m on hold `beyond` in every byte.
  void give_room(int64_t m, int64_t rows, int beyond) {
    room_ = rows;
    layer_->set_room(rows);
    const auto fill = [&](DeviceBuffer& buffer, const void* from, size_t row_bytes) {
      buffer = DeviceBuffer(static_cast<size_t>(rows) * row_bytes);
      QG_CUDA(cudaMemset(buffer.data(), beyond, buffer.bytes()));
      QG_CUDA(cudaMemcpy(buffer.data(), from, static_cast<size_t>(m) * row_bytes, cudaMemcpyHostToDevice));
    };
    fill(values_, x_->values.tensor.data, x_->values.tensor.bytes() / static_cast<size_t>(x_->m));
    if (!x_->row_scales.empty()) fill(scales_, x_->row_scales.data(), sizeof(float));
  }
  CudaLinear& layer() { return *layer_; }
  int64_t room(int64_t m) const { return std::max(m, room_); }
  ActivationBuffer input() const { return {values_.data(), scales_.as<float>()}; }
  // Where the output of a column, counted through the parts, lies.
  int64_t place(int64_t column) const {
    const int64_t half = layer_->n() / 2, row = column % half;
    return order_ == PartOrder::joined ? column : row / 8 * 16 + column / half * 8 + row % 8;
  }

  // Runs m rows twice on poisoned memory and compares. Reports the worst output.
  void check(int64_t m) { check(m, layer_->output_type()); }
  void check(int64_t m, DType y_type) {
    latest_.clear();
    const std::string kernel = layer_->kernel_name(m);
    if ((kernel.find("w16a16_bf16") != std::string::npos) != (type_of(kind_) == DType::bf16))
      ADD_FAILURE() << name_ << " m=" << m << " went through " << kernel;
    const std::vector<std::byte> first = run(m, y_type), second = run(m, y_type);
    if (first != second) {
      int64_t differ = 0, at = -1, last = -1;
      const int64_t all = m * layer_->n();
      for (int64_t i = 0; i < all; ++i)
        if (value(first, y_type, i) != value(second, y_type, i)) {
          ++differ;
          if (at < 0) at = i;
          last = i;
        }
      ADD_FAILURE() << name_ << " m=" << m << " " << kernel << ": two runs differ in " << differ
                    << " outputs, from row " << at / layer_->n() << " column " << at % layer_->n() << ": "
                    << value(first, y_type, at) << " and " << value(second, y_type, at) << ", to row "
                    << last / layer_->n() << " column " << last % layer_->n();
      return;
    }
    latest_ = first;
    double worst = 0;
    std::string report;
    for (size_t r = 0; r < rows_.size(); ++r) {
      if (rows_[r] >= m) continue;
      for (size_t c = 0; c < columns_.size(); ++c) {
        const Expected& e = expected_[r * columns_.size() + c];
        const double got = value(first, y_type, rows_[r] * layer_->n() + place(columns_[c]));
        const double allowed = tolerance(e, kind_, kernel, layer_->k(), y_type);
        const double share = std::isfinite(got) ? std::fabs(got - e.value) / allowed : 1e30;
        if (share <= worst) continue;
        worst = share;
        report =
            fmt::format("row {} column {}: got {}, want {}, allowed {}", rows_[r], columns_[c], got, e.value, allowed);
      }
    }
    if (worst > 1) ADD_FAILURE() << name_ << " m=" << m << " " << kernel << ": " << report << ", " << worst << " times";
    worst_ = std::max(worst_, worst);
  }
  double worst() const { return worst_; }
  const std::vector<std::byte>& latest() const { return latest_; }  // m rows of the last check
  const std::string& name() const { return name_; }

 private:
  static constexpr size_t kGuardBytes = 4096;

  static double value(const std::vector<std::byte>& y, DType type, int64_t at) {
    if (type == DType::f32) {
      float v;
      std::memcpy(&v, y.data() + at * 4, 4);
      return static_cast<double>(v);
    }
    uint16_t v;
    std::memcpy(&v, y.data() + at * 2, 2);
    return static_cast<double>(type == DType::bf16 ? f32_from_bf16(v) : f32_from_f16(v));
  }

  std::vector<std::byte> run(int64_t m, DType y_type) {
    const size_t row_bytes = static_cast<size_t>(layer_->n()) * size_bytes(y_type);
    const size_t bytes = static_cast<size_t>(room(m)) * row_bytes;
    if (y_.bytes() < bytes + kGuardBytes) y_ = DeviceBuffer(bytes + kGuardBytes);
    QG_CUDA(cudaMemset(y_.data(), 0xff, bytes + kGuardBytes));  // NaN in both types
    ActivationBuffer x;
    x.values = values_.data();
    x.row_scales = scales_.as<float>();
    layer_->run(CudaQueue{stream(), true}, m, x, y_.data(), y_type);
    QG_CUDA(cudaDeviceSynchronize());
    std::vector<std::byte> out(bytes + kGuardBytes);
    QG_CUDA(cudaMemcpy(out.data(), y_.data(), out.size(), cudaMemcpyDeviceToHost));
    for (size_t i = bytes; i < out.size(); ++i)
      if (out[i] != std::byte{0xff}) {
        ADD_FAILURE() << name_ << " m=" << m << ": wrote behind the output, at byte " << i - bytes;
        break;
      }
    int64_t unwritten = -1;
    for (int64_t i = m * layer_->n() - 1; i >= 0; --i)
      if (std::isnan(value(out, y_type, i))) unwritten = i;
    if (unwritten >= 0)
      ADD_FAILURE() << name_ << " m=" << m << " " << layer_->kernel_name(m) << ": nothing written (or NaN) at row "
                    << unwritten / layer_->n() << " column " << unwritten % layer_->n();
    out.resize(static_cast<size_t>(m) * row_bytes);
    return out;
  }

  Kind kind_;
  PartOrder order_;
  std::string name_;
  std::vector<LinearWeights> parts_;
  std::unique_ptr<CudaLinear> layer_;
  std::unique_ptr<Input> x_;
  DeviceBuffer values_, scales_, y_;
  std::vector<int64_t> rows_, columns_;
  std::vector<Expected> expected_;
  std::vector<std::byte> latest_;
  double worst_ = 0;
  int64_t room_ = 0;
};

}  // namespace qg::test
