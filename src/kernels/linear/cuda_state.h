#pragma once
// What CudaLinearContext and CudaLinear hold.
#include <map>
#include <optional>
#include <vector>

#include "kernels/common/cuda_cublaslt.h"
#include "kernels/common/cuda_upload.h"
#include "kernels/linear/cuda.h"
#include "kernels/linear/cuda_ahead.h"
#include "kernels/linear/cuda_bulk.h"
#include "kernels/linear/cuda_repack.h"
#include "kernels/linear/cuda_skinny.h"
#include "kernels/linear/cuda_wide.h"
#include "kernels/linear/tuning.h"

namespace qg {

// How m rows go through the layer.
enum class LinearRoute {
  skinny,          // 32 rows at a time
  bulk,            // the same on Hopper
  wide,            // Hopper's own kernel
  library,         // cuBLASLt on the stored weights
  library_parts,   // the same, a call per part with its own scale
  library_scaled,  // the same, cuBLASLt applies row and column scales
  library_sums,    // cuBLASLt to sums in scratch, scaled by scale_sums
  expand,          // weights to halves in scratch, then cuBLASLt
};

struct LinearState;

struct LinearContextState {
  DeviceCapabilities device;
  int64_t max_rows = 0;
  DType type = DType::f16;  // of 16-bit weights and activations
  CublasLt library;
  CudaUpload upload;  // of weights, while layers are made
  // Both grow while layers are made and are one after the other's: a kernel uses them only between the end of the
  // kernel before it and its own.
  DeviceBuffer scratch;               // split sums, integer or float sums, expanded weights
  DeviceBuffer tickets;               // zero between kernels
  TuningTable tuning;                 // of this card; measured routes go before the built-in ones
  bool measures = false;              // layers keep scratch for every route, to be measured
  LinearState* latest = nullptr;      // the layer made last
  int64_t ahead_bytes = kAheadBytes;  // 0: nothing is asked for ahead. Another value to measure it
  int wanted_wide = -1;               // the kernel of the wide ones' list that is to run, to test it
  std::optional<LinearRoute> wanted;  // taken wherever it can run, instead of what should be fastest: to measure it

  LinearContextState(const DeviceCapabilities& capabilities, int64_t rows, DType of_16_bits)
      : device(capabilities), max_rows(rows), type(of_16_bits), library(capabilities) {}
  void reserve(int64_t scratch_bytes, int64_t ticket_count);
};

struct LinearPart {
  int64_t begin = 0, n = 0;  // rows of the joined weights
  float scale = 1;           // of a per-tensor part
};

struct LinearState {
  explicit LinearState(LinearContextState& of) : context(&of), previous(of.latest) {
    if (previous) previous->next = this;
    of.latest = this;
  }
  ~LinearState() {
    if (previous) previous->next = next;
    (next ? next->previous : context->latest) = previous;
  }
  LinearState(const LinearState&) = delete;
  LinearState& operator=(const LinearState&) = delete;

  LinearContextState* context;
  LinearState *previous, *next = nullptr;  // in the order in which they were made, which is the one they run in
  ComputePath path = ComputePath::w16a16;
  SkinnyFormat skinny = SkinnyFormat::f16;
  std::optional<WideFormat> wide;  // where Hopper's kernel can run
  bool hopper = false;             // the bulk kernel can
  bool alternating = false;        // PartOrder
  int64_t n = 0, k = 0;
  int64_t pitch = 0;  // elements from row to row of row-major weights: k rounded up to 64
  std::vector<LinearPart> parts;
  bool tensor_scales = false;  // 8-bit: each part has one scale
  bool uniform = false;        // and all parts the same
  bool per_token = false;      // scales of x come with x
  float static_scale = 1;      // of x otherwise
  int64_t room = 0;            // CudaLinear::set_room
  float weight_scale = 1;      // uniform scale of 8-bit weights; what undoes the multiplier of int4 scales
  Int4Layout int4;
  DeviceBuffer weight;                 // row-major [n rounded up to 16, pitch], zeros outside; or Int4Layout
  DeviceBuffer group_scales;           // Int4Layout
  DeviceBuffer channel_scales;         // [n rounded up to 16] floats, 8-bit
  DeviceBuffer prequant;               // [k] floats
  DeviceBuffer static_scales;          // [max_rows] floats, all static_scale, where the library wants a scale a row
  TensorMap weight_map;                // of row-major weights on Hopper: BulkArguments
  mutable std::vector<int8_t> routes;  // LinearRoute by m; -1: not asked yet
  mutable std::map<int64_t, WidePlan> plans;  // by m
};

inline bool is_w16(ComputePath path) {
  return path == ComputePath::w16a16 || path == ComputePath::w16a16_bf16;
}
// Of x and y, where they have 16 bits.
inline DType type_16(const LinearState& layer) {
  return layer.path == ComputePath::w16a16_bf16 ? DType::bf16 : DType::f16;
}

inline bool runs_few_rows(LinearRoute route) {
  return route == LinearRoute::skinny || route == LinearRoute::bulk;
}

// Copies and repacks; throws Error for what no kernel can do. cuda_load.cc
std::unique_ptr<LinearState> load_linear(std::span<const LinearWeights* const> parts, ActivationScaling activations,
                                         LinearContextState& context, PartOrder order);

// cuda_tuning.cc. A layer in the table's words, the route that was measured for m rows, and whether any m takes a
// route.
std::string tuning_name(const LinearState& layer);
std::optional<LinearRoute> tuned_route(const LinearState& layer, int64_t m);
bool is_tuned_to(const LinearState& layer, LinearRoute route);

// m rows that begin at `first` of the buffers, or more, up to a multiple of `tile`, as far as there is room.
int64_t whole_tiles(const LinearState& layer, int64_t first, int64_t m, int64_t tile);
// Rows that the library is asked for instead of m, and that Hopper's kernel with tiles of so many reads.
int64_t library_rows(const LinearState& layer, int64_t first, int64_t m);
int64_t read_rows(const LinearState& layer, int64_t m, int64_t tile);
int64_t most_rows_read(const LinearState& layer, int64_t m);  // by any kernel
// Of the layer after this one, for `parts` to ask for.
WeightsAhead weights_ahead(const LinearState& layer, int64_t parts);
BulkPlan bulk_plan(const LinearState& layer, int64_t m);
std::vector<LinearRoute> possible_routes(const LinearState& layer, int64_t m);
LinearRoute choose_route(const LinearState& layer, int64_t m);
// The library call of a route for m rows (of the whole layer; parts change n).
GemmShape library_shape(const LinearState& layer, LinearRoute route, int64_t m, DType y_type);
int64_t rows_a_piece(const LinearState& layer, LinearRoute route, int64_t m);
int64_t scratch_bytes(const LinearState& layer);  // for every m up to the context's max_rows

}  // namespace qg
