#include "runtime/cuda_tap.h"

#include <fmt/format.h>

#include <string_view>

#include "core/float.h"

namespace qg {
namespace {

class Observer {
 public:
  Observer(const CudaForward& forward, const Tap& tap, cudaStream_t stream, int64_t rows)
      : shape_(forward.shape),
        model_(forward.model),
        buffers_(forward.buffers),
        tap_(tap),
        stream_(stream),
        rows_(rows) {}

  void operator()(const char* name, int layer) const {
    const std::string_view what = name;
    if (what == "embedding") return tap_("embedding", floats(buffers_.residual, shape_.hidden), rows_, shape_.hidden);
    const std::string full = fmt::format("layers.{}.{}", layer, name);
    const CudaLayer& l = model_.layers[static_cast<size_t>(layer)];
    if (what == "q") return tap_(full, halves(buffers_.q, shape_.q_rows()), rows_, shape_.q_rows());
    if (what == "out") {
      std::vector<float> sum = floats(buffers_.residual, shape_.hidden);
      const std::vector<float> last = halves(buffers_.projected, shape_.hidden);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += last[i];
      return tap_(full, sum, rows_, shape_.hidden);
    }
    const CudaLinear& reader = what == "attention_in"    ? *l.qkv
                               : what == "attention_out" ? *l.attention_output
                               : what == "mlp_in"        ? *l.gate_up
                                                         : *l.down;
    tap_(full, linear_input(reader), rows_, reader.k());
  }

 private:
  template <class T>
  std::vector<T> read(const void* from, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    QG_CUDA(cudaMemcpyAsync(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost, stream_));
    QG_CUDA(cudaStreamSynchronize(stream_));
    return values;
  }
  std::vector<float> floats(const DeviceBuffer& buffer, int64_t width) const {
    return read<float>(buffer.data(), rows_ * width);
  }
  std::vector<float> halves(const DeviceBuffer& buffer, int64_t width) const {
    const std::vector<uint16_t> bits = read<uint16_t>(buffer.data(), rows_ * width);
    std::vector<float> values(bits.size());
    f32_from_f16(bits.data(), values.data(), bits.size());
    return values;
  }

  std::vector<float> linear_input(const CudaLinear& reader) const {
    const ActivationRequest request = reader.input();
    const int64_t width = reader.k();
    if (request.form == ActivationForm::f16 && !request.prequant) return halves(buffers_.input, width);
    std::vector<float> values;
    if (request.form == ActivationForm::f16) {
      values = halves(buffers_.input, width);
    } else {
      for (const uint8_t code : read<uint8_t>(buffers_.input.data(), rows_ * width))
        values.push_back(request.form == ActivationForm::fp8 ? f32_from_e4m3(code)
                                                             : static_cast<float>(static_cast<int8_t>(code)));
      std::vector<float> scales(static_cast<size_t>(rows_), request.static_scale);
      if (request.per_token) scales = read<float>(buffers_.row_scales.data(), rows_);
      for (size_t i = 0; i < values.size(); ++i) values[i] *= scales[i / static_cast<size_t>(width)];
    }
    if (request.prequant) {
      const std::vector<float> prequant = read<float>(request.prequant, width);
      for (size_t i = 0; i < values.size(); ++i) values[i] /= prequant[i % static_cast<size_t>(width)];
    }
    return values;
  }

  const ModelShape& shape_;
  const CudaModel& model_;
  const CudaActivations& buffers_;
  const Tap& tap_;
  cudaStream_t stream_;
  int64_t rows_;
};

}  // namespace

std::function<void(const char* name, int layer)> make_cuda_observer(const CudaForward& forward, const Tap& tap,
                                                                    cudaStream_t stream, int64_t rows) {
  return Observer(forward, tap, stream, rows);
}

}  // namespace qg
