#pragma once
// The launches of one forward step, in order; the same calls run a step directly and while a graph is captured.
#include <cuda_fp16.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "kernels/attention/cuda.h"
#include "kernels/kvcache/cuda.h"
#include "kernels/pointwise/cuda.h"
#include "runtime/cuda_batch.h"
#include "runtime/cuda_model.h"
#include "runtime/step_plan.h"

namespace qg {

// Rows of logits computed at a time: as many as sequences run, so that a step reads the lm_head once, within these
// bounds (scoring wants those of every row), and no more than a step has.
inline constexpr int64_t kFewLogitRows = 256, kMostLogitRows = 1024;

int64_t logit_rows(int64_t rows, int64_t pieces);

// Intermediates of a step, at fixed addresses. rows: most tokens of a step; pieces: most sequences. wide: of the
// model's 16-bit type.
struct CudaActivations {
  CudaActivations(const ModelShape& shape, int64_t rows, int64_t pieces);
  int64_t bytes() const;

  int64_t logit_rows;  // as the function says

  DeviceBuffer residual;    // float [rows, hidden]
  DeviceBuffer input;       // of a linear layer, in the form it asks for [rows, max(hidden, ffn, q_rows)]
  DeviceBuffer row_scales;  // float [rows]
  DeviceBuffer qkv;         // half [rows, qkv_rows]
  DeviceBuffer q;           // half [rows, q_rows]
  DeviceBuffer projected;   // wide [rows, hidden]
  DeviceBuffer gate_up;     // wide [rows, 2 * ffn]
  DeviceBuffer logits;      // float [logit_rows, vocab]
  DeviceBuffer argmax;      // scratch
};

// What a step computes with: all pointers outlive the step.
struct CudaForward {
  const ModelShape& shape;
  const CudaModel& model;
  CudaActivations& buffers;
  CudaAttention& attention;
  const KvLayout& kv;
  const std::vector<KvScale>& kv_scales;
  const std::vector<CudaKvShaping>& kv_shaping;  // one a layer, or empty: keys are stored as they are
  const float2* rope_table;
  const int32_t* sampled;  // tokens of earlier steps, as AddRmsNormParams takes them
  std::byte* pool;         // [layers][pages]
  int64_t layer_pool_bytes;
  int64_t shared_bytes;  // of a block's shared memory, what the card or the target has
  // Called between launches with the name of what has just been computed, under the executor's tap names, and how many
  // rows of it there are. May be empty.
  std::function<void(const char* name, int layer, int64_t rows)> observe;
};

// All layers: from tokens to the residual stream. The last layer's output is left in buffers.projected, for the norm
// that follows. Where only some rows' output is wanted (StepShape::last_rows), the last layer computes the K and V of
// all, and from its second norm on those rows alone: they lie in batch.sample_rows() in the residual stream, one after
// the other in buffers.projected. The first kernel waits for everything before it on the stream, whether or not the
// queue is chained: later ones read old pages and the batch without waiting.
void run_cuda_layers(const CudaForward& forward, const CudaQueue& queue, const CudaStepBatch& batch,
                     const StepShape& step);
// Final norm of `count` rows named in `source_rows` (device), and their logits into buffers.logits.
// count <= buffers.logit_rows. first_projected: where the rows' last outputs begin in buffers.projected; -1: at the
// same rows.
void run_cuda_head(const CudaForward& forward, const CudaQueue& queue, const int32_t* source_rows, int64_t count,
                   int64_t first_projected = -1);
// The same for all rows of the batch that sample, in parts of buffers.logit_rows, and their tokens: row i's to `to`, at
// batch.first_sample() + i. after_each (may be empty) is called after each part, whose logits are still there.
void run_cuda_sampling(const CudaForward& forward, const CudaQueue& queue, const CudaStepBatch& batch,
                       const StepShape& step, const TokenTarget& to,
                       const std::function<void(int64_t count)>& after_each);
// Names of the kernels that such a step runs.
std::set<std::string> cuda_kernel_names(const CudaForward& forward, const StepShape& step);

}  // namespace qg
