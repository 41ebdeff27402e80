#pragma once
// Quantized linear layers on a GPU: y[m, n] = x[m, k] W[n, k]^T, all scales applied. docs/engine.md has the kernels.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/format.h"
#include "core/quant_spec.h"
#include "kernels/common/activation.h"
#include "kernels/common/cuda.h"
#include "kernels/common/cuda_upload.h"
#include "kernels/common/device.h"
#include "kernels/linear/tuning.h"

namespace qg {

struct LinearContextState;  // kernels/linear/cuda_state.h
struct LinearState;

// What all linear layers of one executor share: the cuBLASLt handle, the algorithms found for each shape, and a
// workspace for split sums, integer sums and expanded weights. Layers that share a context must run on one stream.
// Kernels for few rows ask L2 for the first weights of the layer that was made after theirs, so make layers in the
// order in which they run (another order costs time only). Must outlive its layers.
class CudaLinearContext {
 public:
  // max_rows: the largest m that any layer will run. type: F16 or BF16, in which layers of 16-bit weights keep and
  // multiply them; BF16 serves no others. Throws Error (cannot_here) when cuBLASLt is missing.
  CudaLinearContext(const DeviceCapabilities& device, int64_t max_rows, DType type = DType::f16);
  ~CudaLinearContext();
  CudaLinearContext(const CudaLinearContext&) = delete;
  CudaLinearContext& operator=(const CudaLinearContext&) = delete;

  DType type() const;
  int64_t bytes() const;  // workspace on the device; grows while layers are made, never in run()
  CudaUpload& upload();   // what weights go to the device through; release() it when all layers are made
  // What was measured on this card earlier; before layers are made. measures: what is missing will be measured by
  // CudaLinear::tune, for which layers keep more scratch. Entries that the library refuses are left out.
  void set_tuning(const TuningTable& table, bool measures);
  TuningTable tuning() const;  // what was set, and what has been measured since
  LinearContextState& state() { return *state_; }

 private:
  std::unique_ptr<LinearContextState> state_;
};

// How the rows of several parts lie: one part after the other, or 8 of a gate, then 8 of its up, and so on (two parts
// of as many rows, a multiple of 8): a kernel then meets both where it ends. y's columns follow.
enum class PartOrder { joined, alternating };

inline constexpr int64_t kTunedFromRows = 24;

class CudaLinear {
 public:
  // parts: layers that read the same input, laid one after the other along n (gate and up; usually one). Format, k,
  // group size, activation scaling, static input scale and prequant scale are the same for all; weight scales may
  // differ. Copies, and where the format asks for it repacks, on the device. Throws Error for what no kernel can do.
  CudaLinear(std::span<const LinearWeights* const> parts, ActivationScaling activations, CudaLinearContext& context,
             PartOrder order = PartOrder::joined);
  ~CudaLinear();
  CudaLinear(CudaLinear&&) noexcept;
  CudaLinear& operator=(CudaLinear&&) noexcept;

  int64_t n() const;
  int64_t k() const;
  int64_t bytes() const;  // resident on the device
  ComputePath path() const;
  ActivationRequest input() const;           // what form x must have; the producer kernel quantizes
  DType output_type() const;                 // of y, where it has 16 bits: BF16 where the path is w16a16_bf16, else F16
  std::string kernel_name(int64_t m) const;  // "sm90a_skinny_w8a8_fp8_m8", "cublaslt_w16a16_bf16", ...
  // Times cuBLASLt's algorithms for this m now, where it is what runs and has not been timed yet. Without it the
  // heuristic's first is taken. Never inside a graph capture.
  void prepare(int64_t m, std::optional<DType> y_type = {});  // empty: output_type()
  // Measures every way that m rows can go, where the table does not say it yet, and takes the fastest from then on.
  // Built-in choices stay where they are within 5 % of it. For rows from kTunedFromRows on: below, what counts is how
  // kernels overlap in their chain, which no kernel alone shows.
  void tune(int64_t m);
  // How many rows x, its scales and y of every later call have room for: at least that call's m and at most max_rows;
  // 0: m. Where there is room the kernels for many rows read, and the library writes, their last tile as a whole: the
  // copy engine takes longer for rows outside of a tensor than for as many inside (docs/kernels.md).
  void set_room(int64_t rows);
  // x [m, k] as input() says, 16-byte aligned; y [m, n] dense, F32, output_type() or F16 (from BF16 products: for who
  // reads halves; what is beyond 65504 becomes infinite). Allocates nothing and waits for nothing, so it can be
  // captured in a graph. 1 <= m <= max_rows.
  void run(const CudaQueue& queue, int64_t m, const ActivationBuffer& x, void* y, DType y_type) const;
  // CudaQueue::shared_percent that suits the layer's kernel for m rows, for the chain that it runs in.
  int shared_percent(int64_t m) const;
  // Whether run_gated can do for m rows what run and silu_mul do: not where a scale per token is wanted, which takes a
  // whole row, nor where one of the two layers is BF16 and the other not.
  bool can_gate(int64_t m, const ActivationRequest& wanted) const;
  // out [m, n / 2] = silu(gate) * up in the wanted form, of an alternating layer; the same bits as run and silu_mul
  // give. out must not be x.
  void run_gated(const CudaQueue& queue, int64_t m, const ActivationBuffer& x, const ActivationRequest& wanted,
                 void* out) const;

  const LinearState& state() const { return *state_; }  // for the rest of kernels/linear, and tests

 private:
  std::unique_ptr<LinearState> state_;
};

// Rows that tables are measured for, up to `most`; others go as the next of these.
std::vector<int64_t> tuned_rows(int64_t most);

}  // namespace qg
