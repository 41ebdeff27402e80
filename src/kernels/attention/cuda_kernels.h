#pragma once
// Arguments and launches of the attention kernels; CudaAttention chooses among them.
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/attention/cuda_batch.h"
#include "kernels/common/activation.h"
#include "kernels/common/cuda.h"
#include "kernels/kvcache/cuda.h"

namespace qg::attention {

// What a kernel is compiled for. native_fp8: with the conversion instruction of sm_89 and later.
struct Variant {
  KvFormat format = KvFormat::fp16;
  int head_dim = 128;
  bool native_fp8 = false;
};

// Where results go: [rows, width] f16, or codes of x * prequant * multiplier.
struct Output {
  ActivationForm form = ActivationForm::f16;
  void* values = nullptr;
  const float* prequant = nullptr;
  float multiplier = 1;
  int width = 0;  // heads * head_dim
};

// What all kernels read.
struct Inputs {
  CudaBatch batch;
  const __half* q = nullptr;        // [rows, heads, head_dim]
  const std::byte* pool = nullptr;  // KvLayout
  int heads = 0, kv_heads = 0, group = 0;
  int page_shift = 0;     // page_tokens = 1 << page_shift, at least 16
  int window = 0;         // tokens that a query sees; INT32_MAX: all
  float score_scale = 0;  // of q * stored K, in units of log2: score_scale * k_scale * log2(e)
  float value_scale = 0;  // of stored V
};

constexpr int kHeadTile = 8;  // query heads of one KV head that a decode block takes

// Newest tokens that a decode kernel brings into the cache itself: row i of the QKV product is piece i's.
struct NewTokens {
  CudaQkv qkv;
  const float2* rope_table = nullptr;
  std::byte* pool = nullptr;  // Inputs::pool, to write
  float k_multiplier = 1, v_multiplier = 1;
  CudaKvShaping shaping;  // and what follows: with shaped keys only
  // [units, 32], zero before and after: codes of the newest key in the low word, 1 in the high one, a lane's elements
  // each, from the block that shapes the key to the one that attends to it.
  uint64_t* mail = nullptr;
  int keys_per_block = 1, key_layers = 0;  // layers of the grid along z, before the pieces', whose blocks shape keys
};
constexpr int kMostKeysPerBlock = 4;
constexpr int64_t kMostMail = 1056;  // (piece, KV head) pairs of a step whose keys are shaped so

// Where a decode kernel finds q and the newest token: as rope_and_append left them; or, to be rotated and stored by
// itself, in the QKV product's rows, with keys as they are or shaped.
enum class Newest { stored, plain, shaped };

// splits blocks share the tokens of a (piece, KV head, head tile) = unit.
struct DecodeArguments {
  Inputs in;
  NewTokens newest;
  Output out;
  int head_tiles = 1;          // blocks a KV head's query heads are dealt to
  float* partial = nullptr;    // [units, splits, kHeadTile, head_dim + 4], where splits > 1
  int32_t* arrived = nullptr;  // [units], zero before and after
};

// Tokens that a block takes at a time; its shares are multiples of it.
int decode_step_tokens(KvFormat format, int head_dim);
constexpr int kDecodeBlocksPerMultiprocessor = 2;
void launch_decode(const CudaQueue& queue, const Variant& variant, int pieces, int splits, const DecodeArguments& args);
// With args.newest, and without in.q.
void launch_decode_append(const CudaQueue& queue, const Variant& variant, bool shaped, int pieces, int splits,
                          const DecodeArguments& args);

constexpr int kPrefillRows = 128;  // (token, head of the group) pairs that a prefill block takes

struct PrefillTile {
  int32_t piece, tile;  // rows tile * kPrefillRows ... of the piece
};

struct PrefillArguments {
  Inputs in;
  Output out;
  const PrefillTile* tiles = nullptr;
};

void launch_prefill(const CudaQueue& queue, const Variant& variant, int tiles, const PrefillArguments& args);

// The Hopper kernel takes 128 queries of one head at a time, from a list that the host makes for each multiprocessor.
constexpr int kSm90PrefillRows = 128;
constexpr int kSm90WorkFields = 7;  // tile, first row, first page entry, new tokens, all tokens, head, piece

struct PrefillPage {
  int32_t piece, index;  // page `index` of a piece
};

struct Sm90PrefillArguments {
  Inputs in;
  void* out = nullptr;  // f16 [rows, heads, head_dim]
  int64_t end_row = 0;
  const int32_t* work_begin = nullptr;         // [multiprocessors + 1]
  const int32_t* works[kSm90WorkFields] = {};  // [works] each
  // 8-bit caches: an f16 copy of the pieces' pages, one after the other, and the numbers 0, 1, 2 ... for its page
  // table.
  int64_t expanded_pages = 0;
  const PrefillPage* pages = nullptr;
  __half* expanded = nullptr;
  const int32_t* identity = nullptr;
};

bool has_sm90_prefill();  // built in
void launch_prefill_sm90(const CudaQueue& queue, const Variant& variant, const Sm90PrefillArguments& args);

// Rows [first, first + rows) of f16 to codes with one scale a row (row_scales not null) or with out.multiplier.
void launch_quantize(const CudaQueue& queue, int64_t first, int64_t rows, const __half* from, const Output& out,
                     float* row_scales);

}  // namespace qg::attention
