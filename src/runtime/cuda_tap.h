#pragma once
#include "runtime/cuda_forward.h"
#include "runtime/executor.h"

namespace qg {

// Gives a step's intermediates to `tap` as floats, under the executor's names: embedding, attention_in, q,
// attention_out, mlp_in, mlp_act, out. What a linear layer reads quantized is given dequantized, prequant multipliers
// taken out again. Waits for the stream at every one of them. `forward` and `tap` must outlive it.
std::function<void(const char* name, int layer)> make_cuda_observer(const CudaForward& forward, const Tap& tap,
                                                                    cudaStream_t stream, int64_t rows);

}  // namespace qg
