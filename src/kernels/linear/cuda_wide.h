#pragma once
// Linear layers for many tokens on Hopper: wgmma with the weights as the A operand (features are rows of D) and the
// tokens as its columns, so that one kernel serves 17 tokens and 8192. int4 weights become halves in registers while
// the tensor cores work on those before; others go from memory to shared memory to the tensor cores. One warp keeps a
// ring of stages of wide_step of k full (its first weights before the kernel ahead has ended). Tiles that do not fill
// the card's multiprocessors evenly are split along k; the last block to finish a tile adds up the parts in order.
#include <cstdint>

#include "kernels/common/cuda.h"
#include "kernels/linear/cuda_ahead.h"
#include "kernels/linear/cuda_gate.h"

namespace qg {

enum class WideFormat { w4, w4_zeros, int8, e4m3, f16 };

// Of k a stage: what goes to the tensor cores as it is stored comes in boxes of 128 bytes.
constexpr int wide_step(WideFormat format) {
  return format == WideFormat::f16 ? 64 : 128;
}
// Token tiles that are worked on together. Blocks that run at the same time then cover about as many tokens as
// features, and so read the least of both.
inline constexpr int kTokenBand = 8;

// A tile: tokens (32 to 256) x features (each of `groups` warpgroups multiplies `halves` times 64). A warp more copies.
struct WideTile {
  int tokens = 0, groups = 0, halves = 0;
  int stages = 0;   // of the ring
  int blocks = 0;   // that fit on a multiprocessor: with 2, the next kernel's first loads overlap this one's end
  int cluster = 1;  // blocks of a team: neighbouring features of the same tokens, whose x is read once for all of them

  // With 128 sums a thread and two warpgroups the copying warp becomes a warpgroup that gives most of its registers
  // away.
  constexpr bool trades_registers() const { return groups == 2 && tokens * halves >= 256; }
  constexpr int threads() const { return 128 * groups + (trades_registers() ? 128 : 32); }
  constexpr int features() const { return 64 * groups * halves; }
};

struct alignas(64) TensorMap {
  uint64_t words[16] = {};
};

struct WideArguments {
  TensorMap x, weight;
  TensorMap scales;                       // of int4
  const float* channel_scales = nullptr;  // [n], 8-bit
  const float* row_scales = nullptr;      // [m] or null
  void* y = nullptr;                      // [m, n]
  float* partials = nullptr;              // [2 * blocks of split_teams][tile]
  int* tickets = nullptr;                 // [split_tiles][cluster], zero before and after
  WeightsAhead ahead;                     // a part a block
  float scale = 1;                        // of everything
  GateForm gate = GateForm::none;         // then y is [m, n / 2]
  const float* gate_prequant = nullptr;   // [n / 2] or null
  float gate_inverse = 1;                 // of the static scale
  int m = 0, n = 0;
  int steps = 0, token_tiles = 0;  // steps of k
  // Tiles of teams (WideTile::cluster). The first whole_tiles (bands of kTokenBand; in them tokens vary first) are a
  // team's own: team, team + teams, ... The rest, split_tiles (features vary first), are dealt out evenly to
  // split_teams, step by step. Both are multiples of token_tiles.
  int whole_tiles = 0, split_tiles = 0, split_teams = 0;
  int group_shift = 0;                       // Int4Layout
  bool y_f32 = false, keep_weights = false;  // keep: other token tiles read them again
};

struct WidePlan {
  WideTile tile;
  int kernel = 0;  // of its format's list
  int grid = 0, whole_tiles = 0, split_tiles = 0, split_teams = 0;
  int steps = 0, token_tiles = 0;
  int64_t partial_bytes = 0;
  double us = 0;  // expected
};

// The tile and the split that should take least time. n is a multiple of 8, k of 16. only: the one kernel of the
// format's list to consider; -1: all.
WidePlan plan_wide(WideFormat format, int64_t m, int64_t n, int64_t k, const DeviceCapabilities& device, int only = -1);
int wide_kernel_count(WideFormat format);
const WideTile& wide_tile(WideFormat format, int kernel);
// Whether a tile may serve m rows at all: others multiply mostly nothing.
inline bool fits_rows(const WideTile& tile, int64_t m) {
  return tile.tokens < 2 * (m > 32 ? m : 32);
}
// Of scratch, whatever the plan.
int64_t wide_partial_bytes(WideFormat format, const DeviceCapabilities& device);
inline constexpr int64_t kWideTickets = 1024;

// Columns of 8 bytes of a copied box: int4 weights of a step's chunks, and the scales of as many groups.
inline constexpr int kInt4Box = 128;
constexpr int int4_scale_box(WideFormat format) {
  return format == WideFormat::w4_zeros ? 16 : 8;
}

// A [rows, columns] matrix whose boxes the copy engine moves: elements of 1, 2 or 8 bytes; of 8 they lie in shared
// memory as they are, others with the 128-byte swizzle. Throws Error where the driver refuses.
TensorMap tensor_map(const void* data, int64_t rows, int64_t columns, int64_t pitch_bytes, int element_bytes,
                     int box_rows, int box_columns);

// Once a device, before the first launch.
void configure_wide();
void launch_wide(WideFormat format, const WidePlan& plan, const WideArguments& arguments, const CudaQueue& queue);

struct WideKernel {
  WideTile tile;
  int shared_bytes = 0;
  void (*kernel)(WideArguments) = nullptr;
};
// One list per source file; of `count` kernels.
const WideKernel* wide_kernels_w4(int& count);
const WideKernel* wide_kernels_w4_zeros(int& count);
const WideKernel* wide_kernels_int8(int& count);
const WideKernel* wide_kernels_e4m3(int& count);
const WideKernel* wide_kernels_f16(int& count);

}  // namespace qg
