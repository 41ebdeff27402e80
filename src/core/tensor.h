#pragma once
// Host memory and views of it. A Tensor shares ownership of what it points at (a buffer, or a mapped file), so that a
// checkpoint's tensors can be handed around without copies.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace qg {

using Shape = std::vector<int64_t>;  // row-major, outermost first; {} is a scalar

// Product of the dimensions; throws Error on a negative dimension or overflow.
int64_t num_elements(const Shape& shape);
std::string to_string(const Shape& shape);  // "[3, 4]"

// Owns 64-byte aligned host memory.
class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(size_t bytes);  // uninitialized; throws Error (cannot_here) when there is no memory
  HostBuffer(HostBuffer&&) = default;
  HostBuffer& operator=(HostBuffer&&) = default;

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size_bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t bytes_ = 0;
};

// A dense row-major tensor in host memory, read-only once shared.
struct Tensor {
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;  // keeps `data` alive; null only for an empty tensor

  bool empty() const { return data == nullptr; }
  int64_t elements() const { return num_elements(shape); }
  size_t bytes() const { return static_cast<size_t>(elements()) * size_bytes(dtype); }
  // Typed pointer. T must have the dtype's size (checked).
  template <class T>
  const T* as() const {
    check_element_size(sizeof(T));
    return reinterpret_cast<const T*>(data);
  }
  void check_element_size(size_t bytes) const;
};

// A new tensor and the pointer through which its maker fills it.
struct NewTensor {
  Tensor tensor;
  std::byte* data;
  template <class T>
  T* as() const {
    tensor.check_element_size(sizeof(T));
    return reinterpret_cast<T*>(data);
  }
};
NewTensor new_tensor(DType dtype, Shape shape);  // uninitialized
Tensor tensor_from_f32(std::span<const float> values, Shape shape, DType dtype = DType::f32);
std::vector<float> to_f32(const Tensor& tensor);  // all elements as float

}  // namespace qg
