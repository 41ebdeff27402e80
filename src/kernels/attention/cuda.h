#pragma once
// Paged attention on a GPU: which kernel serves a desc on a card, its scratch memory, and the calls of one layer.
#include <cuda_fp16.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/quant_spec.h"
#include "kernels/attention/cuda_batch.h"
#include "kernels/attention/desc.h"
#include "kernels/common/activation.h"
#include "kernels/common/cuda.h"
#include "kernels/kvcache/cuda.h"

namespace qg {

// The host's view of one prefill piece, for planning.
struct CudaPrefillPiece {
  int32_t first_row = 0;
  int32_t num_tokens = 0;  // new ones
  int32_t kv_tokens = 0;   // in the cache when this step's are in it
};

// A step's pieces: decode pieces 0 .. D-1, whose only row is row D, then prefill pieces D, D+1, ... One object serves
// all layers of an executor, on one stream. Nothing allocates or waits after the constructor.
class CudaAttention {
 public:
  // Throws Error when no kernel of the card's family serves the desc. quantized_output: some call will ask for fp8 or
  // int8 (then there is scratch for the rows in f16). f16_copy_bytes: at most so much for f16 copies of an 8-bit
  // cache's pages, which Hopper's prefill kernel reads; a piece that is larger goes to the portable kernel.
  CudaAttention(const AttentionDesc& desc, const DeviceCapabilities& device, int64_t max_rows, int64_t max_pieces,
                int64_t max_pages_per_piece, bool quantized_output = true, int64_t f16_copy_bytes = int64_t{256} << 20);
  ~CudaAttention();

  std::string kernel_name(bool decode) const;  // "sm80_decode_kv_fp8"; for the record
  std::string reason(bool decode) const;       // why this one and not a faster one
  int64_t scratch_bytes() const;               // device memory that it holds

  // Pieces 0 .. pieces-1 of one row each: row i is piece i. q and out as below. max_context >= every kv_tokens; it
  // fixes the grid, so a graph that was captured with it serves every shorter context. A piece with kv_tokens = 0
  // (padding of a batch) reads nothing and gives zeros. In a chain: reads q and the newest token after
  // wait_for_previous(), older tokens and the batch before it.
  void decode(const CudaQueue& queue, const CudaBatch& batch, int64_t pieces, int64_t max_context, const __half* q,
              const std::byte* layer_pool, KvScale scale, const ActivationRequest& request,
              const ActivationBuffer& out);

  // rope_and_append for those rows and decode, in one launch: q, K and V are read from the QKV product's rows, and what
  // is stored is the same, bit by bit; results are too, except that with shaped keys the tokens may be cut among blocks
  // in another way. Rows of qkv start at multiples of 16 bytes, and so do the matrices of shaping (null: keys are
  // stored as they are). In a chain: reads qkv after wait_for_previous(), stored tokens and the batch before it.
  void append_and_decode(const CudaQueue& queue, const CudaBatch& batch, int64_t pieces, int64_t max_context,
                         const CudaQkv& qkv, const float2* rope_table, std::byte* layer_pool, KvScale scale,
                         const CudaKvShaping* shaping, const ActivationRequest& request, const ActivationBuffer& out);
  // Whether append_and_decode serves so many pieces: with shaped keys, only as many as it has advantages for.
  bool appends(int64_t pieces, bool shaped) const;

  // Once a step, before the first layer and outside of graphs: makes the work list of the prefill pieces, the first of
  // which is piece number first_piece of the batch, and sends it off.
  void plan_prefill(const CudaQueue& queue, const CudaBatch& batch, int64_t first_piece,
                    std::span<const CudaPrefillPiece> pieces);
  // The pieces of the last plan_prefill. q [rows, heads, head_dim] f16 after RoPE, dense; out [rows, heads * head_dim]
  // in the form asked for; both start at row 0 of the step, and only the pieces' rows are touched.
  void prefill(const CudaQueue& queue, const CudaBatch& batch, const __half* q, const std::byte* layer_pool,
               KvScale scale, const ActivationRequest& request, const ActivationBuffer& out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qg
