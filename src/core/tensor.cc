#include "core/tensor.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/float.h"

namespace qg {

int64_t num_elements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t d : shape) {
    if (d < 0 || __builtin_mul_overflow(count, d, &count))
      throw Error("shape " + to_string(shape) + " is negative or too large");
  }
  return count;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

HostBuffer::HostBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  // Large ones in pages of 2 MB where the system gives them: filled by many threads, small pages cost more than the
  // work.
  constexpr size_t kLargePage = size_t{2} << 20, kManyPages = 8 * kLargePage;
  const size_t unit = bytes >= kManyPages ? kLargePage : 64;
  const size_t rounded = (bytes + unit - 1) / unit * unit;
  if (rounded < bytes) throw Error("buffer of " + std::to_string(bytes) + " bytes is too large");
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(unit, rounded)));
  if (data_ && unit == kLargePage) madvise(data_.get(), rounded, MADV_HUGEPAGE);
  if (!data_)
    throw Error("no memory for " + std::to_string(bytes) + " bytes", "", "free memory or use a smaller model",
                ExitCode::cannot_here);
}

void HostBuffer::Free::operator()(std::byte* p) const {
  std::free(p);
}

void Tensor::check_element_size(size_t bytes) const {
  if (size_bytes(dtype) != bytes)
    throw Error("tensor of " + std::string(to_string(dtype)) + " read as elements of " + std::to_string(bytes) +
                " bytes");
}

NewTensor new_tensor(DType dtype, Shape shape) {
  auto buffer = std::make_shared<HostBuffer>(static_cast<size_t>(num_elements(shape)) * size_bytes(dtype));
  std::byte* data = buffer->data();
  return {Tensor{dtype, std::move(shape), data, std::move(buffer)}, data};
}

Tensor tensor_from_f32(std::span<const float> values, Shape shape, DType dtype) {
  NewTensor made = new_tensor(dtype, std::move(shape));
  if (made.tensor.elements() != static_cast<int64_t>(values.size()))
    throw Error("shape " + to_string(made.tensor.shape) + " does not hold " + std::to_string(values.size()) +
                " values");
  any_from_f32(dtype, values.data(), made.data, values.size());
  return made.tensor;
}

std::vector<float> to_f32(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  f32_from_any(tensor.dtype, tensor.data, values.data(), values.size());
  return values;
}

}  // namespace qg
