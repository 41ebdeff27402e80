#pragma once
#include "runtime/cuda_forward.h"
#include "runtime/executor.h"

namespace qg {

// Gives a step's intermediates to `tap` as floats, under the executor's names: embedding, attention_in, q,
// attention_out, mlp_in, mlp_act, out, final_norm (of rows whose logits are computed, CudaActivations::logit_rows at a
// time). What a linear layer reads quantized is given dequantized, prequant multipliers taken out again. Beside them
// what the linear layers wrote, which only this executor tells: qkv (before RoPE), attention_projected, gate_up (rows
// of gate and up alternating by eight; only where no kernel applies the gate at once), mlp_projected. Waits for the
// stream at every one of them. `forward` and `tap` must outlive it.
std::function<void(const char* name, int layer, int64_t rows)> make_cuda_observer(const CudaForward& forward,
                                                                                  const Tap& tap, cudaStream_t stream);

}  // namespace qg
