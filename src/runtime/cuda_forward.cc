#include "runtime/cuda_forward.h"

#include <algorithm>

#include "kernels/pointwise/cuda.h"

namespace qg {
namespace {

size_t bytes_of(int64_t elements, size_t element_size) {
  return static_cast<size_t>(elements) * element_size;
}

// One layer's launches.
class LayerLaunches {
 public:
  LayerLaunches(const CudaForward& forward, const CudaQueue& queue, const CudaStepBatch& batch, const StepShape& step,
                int layer)
      : f_(forward),
        b_(forward.buffers),
        queue_(queue),
        batch_(batch),
        step_(step),
        index_(layer),
        layer_(forward.model.layers[static_cast<size_t>(layer)]),
        mlp_rows_(layer + 1 == forward.shape.layers ? step.last_rows : step.rows) {}

  void run() {
    norm(layer_.attention_norm, *layer_.qkv, "attention_in");
    layer_.qkv->run(queue_, step_.rows, input(), b_.qkv.data(),
                    DType::f16);  // which attention reads, whatever the type
    observe("qkv");
    attend();
    if (mlp_rows_ == 0) return;
    layer_.attention_output->run(queue_, step_.rows, input(), b_.projected.data(), f_.model.type);
    observe("attention_projected");
    norm(layer_.mlp_norm, *layer_.gate_up, "mlp_in");
    const ActivationBuffer gated = gate();
    observe("mlp_act");
    layer_.down->run(queue_, mlp_rows_, gated, b_.projected.data(), f_.model.type);
    observe("mlp_projected");
    observe("out");
  }

 private:
  void observe(const char* name) {
    if (f_.observe) f_.observe(name, index_, step_.rows);
  }
  ActivationBuffer input() const { return {b_.input.data(), b_.row_scales.as<float>()}; }

  void norm(const DeviceBuffer& weight, const CudaLinear& next, const char* name) {
    AddRmsNormParams params;
    params.rows = step_.rows;
    params.width = f_.shape.hidden;
    params.epsilon = static_cast<float>(f_.shape.norm_epsilon);
    params.residual = b_.residual.as<float>();
    const bool first = index_ == 0 && &weight == &layer_.attention_norm;
    if (&weight == &layer_.mlp_norm && mlp_rows_ < step_.rows) {
      params.rows = mlp_rows_;
      params.source_rows = batch_.sample_rows();
    }
    CudaQueue queue = queue_;
    if (first) {
      queue.chained = false;
      params.tokens = batch_.tokens();
      params.sampled = f_.sampled;
      params.embedding = f_.model.embedding.data();
    } else {
      params.delta = b_.projected.data();
    }
    params.weight = weight.as<float>();
    params.request = next.input();
    params.out = input();
    add_rms_norm(queue, params);
    if (first) observe("embedding");
    observe(name);
  }

  // silu(gate) * up in the form that down wants, and where it lies.
  ActivationBuffer gate() {
    const ActivationRequest wanted = layer_.down->input();
    if (!layer_.gate_up->can_gate(mlp_rows_, wanted)) {
      layer_.gate_up->run(queue_, mlp_rows_, input(), b_.gate_up.data(), f_.model.type);
      observe("gate_up");
      silu_mul(queue_, mlp_rows_, f_.shape.ffn, b_.gate_up.data(), wanted, input());
      return input();
    }
    const ActivationBuffer gated = {b_.gate_up.data(), b_.row_scales.as<float>()};
    layer_.gate_up->run_gated(queue_, mlp_rows_, input(), wanted, gated.values);
    if (f_.observe) {  // observers look for what a layer reads in one place
      const auto bytes = static_cast<size_t>(step_.rows * f_.shape.ffn * qg::bytes_of(wanted.form));
      QG_CUDA(cudaMemcpyAsync(b_.input.data(), gated.values, bytes, cudaMemcpyDeviceToDevice, queue_.stream));
    }
    return gated;
  }

  void attend() {
    const size_t layer = static_cast<size_t>(index_);
    std::byte* pool = f_.pool + index_ * f_.layer_pool_bytes;
    const KvScale scale = f_.kv_scales[layer];
    const CudaQkv qkv = {b_.qkv.as<__half>(), f_.shape.qkv_rows(), f_.shape.heads};
    const CudaKvShaping* shaping = f_.kv_shaping.empty() ? nullptr : &f_.kv_shaping[layer];
    ActivationRequest request = layer_.attention_output->input();
    if (request.form == ActivationForm::bf16) request.form = ActivationForm::f16;  // bring_into_type() does the rest
    if (!step_.prefill && !f_.observe && f_.attention.appends(step_.decode_pieces, shaping != nullptr)) {
      f_.attention.append_and_decode(queue_, batch_.view(), step_.decode_pieces, step_.max_context, qkv, f_.rope_table,
                                     pool, scale, shaping, request, input());
      return bring_into_type();
    }
    rope_and_append(queue_, f_.kv, batch_.view(), step_.rows, qkv, f_.rope_table, scale, b_.q.as<__half>(), pool,
                    shaping, f_.shared_bytes);
    observe("q");
    if (mlp_rows_ == 0) return;
    if (step_.decode_pieces > 0)
      f_.attention.decode(queue_, batch_.view(), step_.decode_pieces, step_.max_context, b_.q.as<__half>(), pool, scale,
                          request, input());
    if (step_.prefill) f_.attention.prefill(queue_, batch_.view(), b_.q.as<__half>(), pool, scale, request, input());
    bring_into_type();
    observe("attention_out");
  }

  // Attention's halves to what the output layer reads.
  void bring_into_type() {
    if (f_.model.type == DType::bf16)
      convert_in_place(queue_, step_.rows * f_.shape.q_rows(), b_.input.data(), DType::bf16);
  }

  const CudaForward& f_;
  CudaActivations& b_;
  const CudaQueue& queue_;
  const CudaStepBatch& batch_;
  const StepShape& step_;
  int index_;
  const CudaLayer& layer_;
  int64_t mlp_rows_;
};

}  // namespace

int64_t logit_rows(int64_t rows, int64_t pieces) {
  return std::min(rows, std::clamp(pieces, kFewLogitRows, kMostLogitRows));
}

CudaActivations::CudaActivations(const ModelShape& shape, int64_t rows, int64_t pieces)
    : logit_rows(qg::logit_rows(rows, pieces)),
      residual(bytes_of(rows * shape.hidden, sizeof(float))),
      input(bytes_of(rows * std::max({shape.hidden, shape.ffn, shape.q_rows()}), sizeof(__half))),
      row_scales(bytes_of(rows, sizeof(float))),
      qkv(bytes_of(rows * shape.qkv_rows(), sizeof(__half))),
      q(bytes_of(rows * shape.q_rows(), sizeof(__half))),
      projected(bytes_of(rows * shape.hidden, sizeof(__half))),
      gate_up(bytes_of(rows * 2 * shape.ffn, sizeof(__half))),
      logits(bytes_of(logit_rows * shape.vocab, sizeof(float))),
      argmax(static_cast<size_t>(argmax_scratch_bytes(logit_rows))) {
  QG_CUDA(cudaMemset(argmax.data(), 0, argmax.bytes()));
}

int64_t CudaActivations::bytes() const {
  size_t total = 0;
  for (const DeviceBuffer* buffer : {&residual, &input, &row_scales, &qkv, &q, &projected, &gate_up, &logits, &argmax})
    total += buffer->bytes();
  return static_cast<int64_t>(total);
}

void run_cuda_layers(const CudaForward& forward, const CudaQueue& queue, const CudaStepBatch& batch,
                     const StepShape& step) {
  for (int layer = 0; layer < forward.shape.layers; ++layer) LayerLaunches(forward, queue, batch, step, layer).run();
}

void run_cuda_head(const CudaForward& forward, const CudaQueue& queue, const int32_t* source_rows, int64_t count,
                   int64_t first_projected) {
  CudaActivations& b = forward.buffers;
  AddRmsNormParams params;
  params.rows = count;
  params.width = forward.shape.hidden;
  params.epsilon = static_cast<float>(forward.shape.norm_epsilon);
  params.residual = b.residual.as<float>();
  // Of 16 bits an element, whichever type it is.
  params.delta = b.projected.data() + std::max<int64_t>(first_projected, 0) * forward.shape.hidden * 2;
  params.delta_in_order = first_projected >= 0;
  params.source_rows = source_rows;
  params.keeps_sum = false;
  params.weight = forward.model.final_norm.as<float>();
  params.request = forward.model.lm_head->input();
  params.out = {b.input.data(), b.row_scales.as<float>()};
  add_rms_norm(queue, params);
  if (forward.observe) forward.observe("final_norm", -1, count);
  forward.model.lm_head->run(queue, count, params.out, b.logits.data(), DType::f32);
}

void run_cuda_sampling(const CudaForward& forward, const CudaQueue& queue, const CudaStepBatch& batch,
                       const StepShape& step, const TokenTarget& to,
                       const std::function<void(int64_t count)>& after_each) {
  const int64_t vocab = forward.shape.vocab;
  const float* logits = forward.buffers.logits.as<float>();
  const int64_t most = forward.buffers.logit_rows;
  for (int64_t first = 0; first < batch.samples(); first += most) {
    const int64_t count = std::min(most, batch.samples() - first);
    run_cuda_head(forward, queue, batch.sample_rows() + first, count, step.last_rows < step.rows ? first : -1);
    const TokenTarget part = {to.device + first, to.host + first, batch.first_sample()};
    // The host may take a token as soon as it is there, so it gets those of the last kernel alone.
    TokenTarget largest = part;
    if (batch.draws()) largest.host = nullptr;
    argmax_rows(queue, count, vocab, logits, largest, forward.buffers.argmax.data());
    if (batch.draws()) sample_rows(queue, count, vocab, logits, batch.asked() + first, part);
    if (after_each) after_each(count);
  }
}

std::set<std::string> cuda_kernel_names(const CudaForward& forward, const StepShape& step) {
  std::set<std::string> names;
  const CudaLayer& layer = forward.model.layers.front();
  for (const CudaLinear* linear :
       {layer.qkv.get(), layer.attention_output.get(), layer.gate_up.get(), layer.down.get()})
    names.insert(linear->kernel_name(step.rows));
  if (step.last_rows > 0)
    for (const CudaLinear* linear : {layer.gate_up.get(), layer.down.get()})
      names.insert(linear->kernel_name(step.last_rows));
  if (step.decode_pieces > 0) names.insert(forward.attention.kernel_name(true));
  if (step.prefill) names.insert(forward.attention.kernel_name(false));
  return names;
}

}  // namespace qg
