// Any bytes as a safetensors file: an Error or a header whose tensors lie inside the file.
#include <cstdint>
#include <cstdlib>

#include "checkpoint/safetensors.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const qg::SafetensorsHeader header = qg::parse_safetensors_header({reinterpret_cast<const std::byte*>(data), size},
                                                                      static_cast<int64_t>(size), "input");
    int64_t end = header.data_begin;
    for (const qg::StoredTensor& tensor : header.tensors) {
      const int64_t bytes = qg::num_elements(tensor.shape) * static_cast<int64_t>(qg::size_bytes(tensor.dtype));
      if (tensor.offset != end || tensor.bytes != bytes) std::abort();
      end += bytes;
    }
    if (end != static_cast<int64_t>(size)) std::abort();
  } catch (const qg::Error&) {
  }
  return 0;
}
