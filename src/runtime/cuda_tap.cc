#include "runtime/cuda_tap.h"

#include <fmt/format.h>

#include <string_view>

#include "core/float.h"

namespace qg {
namespace {

class Observer {
 public:
  Observer(const CudaForward& forward, const Tap& tap, cudaStream_t stream)
      : shape_(forward.shape), model_(forward.model), buffers_(forward.buffers), tap_(tap), stream_(stream) {}

  void operator()(const char* name, int layer, int64_t rows) const {
    const std::string_view what = name;
    const int64_t hidden = shape_.hidden;
    if (what == "embedding")
      return tap_("embedding", read<float>(buffers_.residual.data(), rows * hidden), rows, hidden);
    if (what == "final_norm") return tap_("final_norm", linear_input(*model_.lm_head, rows), rows, hidden);
    const std::string full = fmt::format("layers.{}.{}", layer, name);
    const CudaLayer& l = model_.layers[static_cast<size_t>(layer)];
    if (what == "q") return tap_(full, wide(buffers_.q, rows * shape_.q_rows()), rows, shape_.q_rows());
    if (what == "qkv") return tap_(full, wide(buffers_.qkv, rows * shape_.qkv_rows()), rows, shape_.qkv_rows());
    if (what == "gate_up")
      return tap_(full, wide(buffers_.gate_up, rows * 2 * shape_.ffn, model_.type), rows, 2 * shape_.ffn);
    if (what == "attention_projected" || what == "mlp_projected")
      return tap_(full, wide(buffers_.projected, rows * hidden, model_.type), rows, hidden);
    if (what == "out") {
      std::vector<float> sum = read<float>(buffers_.residual.data(), rows * hidden);
      const std::vector<float> last = wide(buffers_.projected, rows * hidden, model_.type);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += last[i];
      return tap_(full, sum, rows, hidden);
    }
    const CudaLinear& reader = what == "attention_in"    ? *l.qkv
                               : what == "attention_out" ? *l.attention_output
                               : what == "mlp_in"        ? *l.gate_up
                                                         : *l.down;
    tap_(full, linear_input(reader, rows), rows, reader.k());
  }

 private:
  template <class T>
  std::vector<T> read(const void* from, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    QG_CUDA(cudaMemcpyAsync(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost, stream_));
    QG_CUDA(cudaStreamSynchronize(stream_));
    return values;
  }
  std::vector<float> wide(const DeviceBuffer& buffer, int64_t count, DType type = DType::f16) const {
    const std::vector<uint16_t> bits = read<uint16_t>(buffer.data(), count);
    std::vector<float> values(bits.size());
    f32_from_any(type, bits.data(), values.data(), bits.size());
    return values;
  }

  std::vector<float> linear_input(const CudaLinear& reader, int64_t rows) const {
    const ActivationRequest request = reader.input();
    const int64_t width = reader.k();
    std::vector<float> values;
    if (is_16_bit(request.form)) {
      values = wide(buffers_.input, rows * width, reader.output_type());
    } else {
      for (const uint8_t code : read<uint8_t>(buffers_.input.data(), rows * width))
        values.push_back(request.form == ActivationForm::fp8 ? f32_from_e4m3(code)
                                                             : static_cast<float>(static_cast<int8_t>(code)));
      std::vector<float> scales(static_cast<size_t>(rows), request.static_scale);
      if (request.per_token) scales = read<float>(buffers_.row_scales.data(), rows);
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
};

}  // namespace

std::function<void(const char* name, int layer, int64_t rows)> make_cuda_observer(const CudaForward& forward,
                                                                                  const Tap& tap, cudaStream_t stream) {
  return Observer(forward, tap, stream);
}

}  // namespace qg
