#include "kernels/attention/cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "kernels/attention/cuda_choice.h"
#include "kernels/attention/cuda_kernels.h"
#include "kernels/attention/cuda_plan.h"
#include "kernels/attention/run.h"

namespace qg {
namespace {

using attention::Inputs;
using attention::Output;
using attention::PrefillTile;

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

void check(bool condition, std::string what, const AttentionDesc& desc, std::string fix) {
  if (!condition) throw Error(std::move(what), to_string(desc), std::move(fix), ExitCode::cannot_here);
}

// Why the Hopper prefill kernel does not serve a desc; empty when it does.
std::string why_not_sm90_prefill(const AttentionDesc& desc, const DeviceCapabilities& device) {
  if (device.family != KernelFamily::sm90a)
    return fmt::format("the kernels of {} are asked for", to_string(device.family));
  if (!attention::has_sm90_prefill()) return "the program was built without FlashInfer's headers";
  if (desc.kv.head_dim != 128) return "the Hopper kernel is built for head size 128";
  if (desc.sliding_window) return "the Hopper kernel multiplies pages before the window, which may hold anything";
  return {};
}

}  // namespace

struct CudaAttention::State {
  AttentionDesc desc;
  DeviceCapabilities device;
  attention::Variant variant;
  int64_t max_rows, max_pieces, max_tiles, head_tiles, max_split_blocks;
  DeviceBuffer partial, arrived, mail, f16_rows;
  attention::PlanBuffer tiles;
  std::string sm90_prefill_reason;
  std::unique_ptr<attention::Sm90Prefill> sm90_prefill;
  int64_t planned_tiles = 0, first_row = 0, end_row = 0;
  bool planned_sm90 = false;

  State(const AttentionDesc& d, const DeviceCapabilities& card, int64_t rows, int64_t pieces, int64_t max_pages,
        bool quantized_output, int64_t f16_copy_bytes)
      : desc(d),
        device(card),
        variant{d.kv.format, static_cast<int>(d.kv.head_dim), card.family >= KernelFamily::sm89},
        max_rows(rows),
        max_pieces(pieces),
        max_tiles(divide_up(rows * group(), attention::kPrefillRows) + pieces),
        head_tiles(divide_up(group(), attention::kHeadTile)),
        max_split_blocks(attention::kMaxWaves * attention::kDecodeBlocksPerMultiprocessor * card.multiprocessors),
        partial(static_cast<size_t>(max_split_blocks * attention::kHeadTile * (d.kv.head_dim + 4)) * sizeof(float)),
        arrived(static_cast<size_t>(pieces * d.kv.kv_heads * head_tiles) * sizeof(int32_t)),
        mail(d.kv.format == KvFormat::fp16
                 ? 0
                 : static_cast<size_t>(std::min(pieces * d.kv.kv_heads, attention::kMostMail) * head_tiles * 32) *
                       sizeof(uint64_t)),
        f16_rows(quantized_output ? static_cast<size_t>(rows * d.heads * d.kv.head_dim) * 2 : 0),
        tiles(2 * max_tiles),
        sm90_prefill_reason(why_not_sm90_prefill(d, card)) {
    if (sm90_prefill_reason.empty())
      sm90_prefill = std::make_unique<attention::Sm90Prefill>(d, card, rows, pieces, max_pages, f16_copy_bytes);
    QG_CUDA(cudaMemset(arrived.data(), 0, arrived.bytes()));
    if (mail.bytes() > 0) QG_CUDA(cudaMemset(mail.data(), 0, mail.bytes()));
  }

  int64_t group() const { return desc.heads / desc.kv.kv_heads; }

  Inputs inputs(const CudaBatch& batch, const __half* q, const std::byte* pool, KvScale scale) const {
    Inputs in;
    in.batch = batch;
    in.q = q;
    in.pool = pool;
    in.heads = static_cast<int>(desc.heads);
    in.kv_heads = static_cast<int>(desc.kv.kv_heads);
    in.group = static_cast<int>(group());
    in.page_shift = std::countr_zero(static_cast<uint64_t>(desc.kv.page_tokens));
    constexpr int64_t kAll = std::numeric_limits<int32_t>::max();
    in.window = static_cast<int>(std::min(desc.sliding_window.value_or(kAll), kAll));
    const bool coded = desc.kv.format != KvFormat::fp16;
    in.score_scale = static_cast<float>(desc.score_scale * (coded ? scale.k : 1.0f) * 1.4426950408889634);
    in.value_scale = coded ? scale.v : 1.0f;
    return in;
  }

  Output form_asked(const ActivationRequest& request, const ActivationBuffer& out) const {
    return {request.form, out.values, request.prequant, 1.0f / request.static_scale,
            static_cast<int>(desc.heads * desc.kv.head_dim)};
  }
  // Where a kernel stores: the caller's buffer, or f16 rows that a second pass brings into form.
  Output output(bool pass, const ActivationRequest& request, const ActivationBuffer& out) const {
    if (request.form == ActivationForm::bf16)
      throw Error("Attention has no BF16 results", to_string(desc), "ask for F16 and call convert_in_place");
    Output asked = form_asked(request, out);
    if (!pass) return asked;
    if (f16_rows.bytes() == 0)
      throw Error("Attention was made without quantized output and is asked for it", to_string(desc));
    return {ActivationForm::f16, f16_rows.data(), nullptr, 1.0f, asked.width};
  }
  static bool quantizes_after_decode(const ActivationRequest& request) {
    return request.form != ActivationForm::f16 && request.per_token;
  }
  attention::DecodeArguments decode_arguments(const Inputs& in, const ActivationRequest& request,
                                              const ActivationBuffer& out) const {
    attention::DecodeArguments args;
    args.in = in;
    args.out = output(quantizes_after_decode(request), request, out);
    args.head_tiles = static_cast<int>(head_tiles);
    args.partial = partial.as<float>();
    args.arrived = arrived.as<int32_t>();
    return args;
  }
  // Blocks that the tokens of a piece and KV head are cut for; other_blocks of the grid run beside them.
  int64_t splits(int64_t pieces, int64_t max_context, int64_t other_blocks) const {
    const int64_t seen = std::min(max_context, desc.sliding_window.value_or(max_context));
    const int64_t slots = attention::kDecodeBlocksPerMultiprocessor * device.multiprocessors;
    const int64_t units = pieces * desc.kv.kv_heads * head_tiles;
    const int64_t step = attention::decode_step_tokens(variant.format, variant.head_dim);
    // Fewer than two steps are not worth their combining, unless much of the card has nothing to do.
    const bool idle = units * divide_up(seen, step) + other_blocks <= slots * 3 / 4;
    return attention::decode_splits(units, std::max(slots / 2, slots - other_blocks), seen, idle ? step : 2 * step);
  }
  void bring_into_form(const CudaQueue& queue, int64_t first, int64_t rows, const ActivationRequest& request,
                       const ActivationBuffer& out) const {
    attention::launch_quantize(queue, first, rows, f16_rows.as<__half>(), form_asked(request, out),
                               request.per_token ? out.row_scales : nullptr);
  }
};

CudaAttention::CudaAttention(const AttentionDesc& desc, const DeviceCapabilities& device, int64_t max_rows,
                             int64_t max_pieces, int64_t max_pages_per_piece, bool quantized_output,
                             int64_t f16_copy_bytes) {
  const KvLayout& kv = desc.kv;
  check(kv.kv_heads > 0 && desc.heads % kv.kv_heads == 0, "Query heads are not a multiple of KV heads", desc, "");
  check(kv.head_dim == 64 || kv.head_dim == 128, "No GPU attention kernel has this head size", desc,
        "head sizes are 64 and 128");
  check(kv.page_tokens >= 16 && std::has_single_bit(static_cast<uint64_t>(kv.page_tokens)),
        fmt::format("No GPU attention kernel has pages of {} tokens", kv.page_tokens), desc, "take 16, 32 or 64");
  check(!desc.sliding_window || *desc.sliding_window > 0, "The sliding window is empty", desc, "");
  check(max_pages_per_piece * kv.page_tokens <= std::numeric_limits<int32_t>::max(), "The context is too long", desc,
        "");
  state_ = std::make_unique<State>(desc, device, max_rows, max_pieces, max_pages_per_piece, quantized_output,
                                   f16_copy_bytes);
}

CudaAttention::~CudaAttention() = default;

std::string CudaAttention::kernel_name(bool decode) const {
  if (!decode && state_->sm90_prefill) return fmt::format("sm90a_fa3_prefill_kv_{}", to_string(state_->desc.kv.format));
  const bool native = state_->variant.native_fp8 && state_->desc.kv.format == KvFormat::fp8;
  return fmt::format("{}_{}_kv_{}", native ? "sm89" : "sm80", decode ? "decode" : "prefill",
                     to_string(state_->desc.kv.format));
}

std::string CudaAttention::reason(bool decode) const {
  if (decode) return "reads every cache with 16-bit queries; a Hopper kernel would round the queries to 8 bits";
  return state_->sm90_prefill ? "the fastest prefill kernel of the card" : state_->sm90_prefill_reason;
}

int64_t CudaAttention::scratch_bytes() const {
  const State& s = *state_;
  return static_cast<int64_t>(s.partial.bytes() + s.arrived.bytes() + s.mail.bytes() + s.f16_rows.bytes()) +
         s.tiles.bytes() + (s.sm90_prefill ? s.sm90_prefill->bytes() : 0);
}

void CudaAttention::decode(const CudaQueue& queue, const CudaBatch& batch, int64_t pieces, int64_t max_context,
                           const __half* q, const std::byte* layer_pool, KvScale scale,
                           const ActivationRequest& request, const ActivationBuffer& out) {
  if (pieces == 0) return;
  const State& s = *state_;
  const bool pass = s.quantizes_after_decode(request);
  const attention::DecodeArguments args = s.decode_arguments(s.inputs(batch, q, layer_pool, scale), request, out);
  attention::launch_decode(queue, s.variant, static_cast<int>(pieces),
                           static_cast<int>(s.splits(pieces, max_context, 0)), args);
  if (pass) s.bring_into_form(queue, 0, pieces, request, out);
}

bool CudaAttention::appends(int64_t pieces, bool shaped) const {
  return !shaped || pieces * state_->desc.kv.kv_heads <= attention::kMostMail;
}

void CudaAttention::append_and_decode(const CudaQueue& queue, const CudaBatch& batch, int64_t pieces,
                                      int64_t max_context, const CudaQkv& qkv, const float2* rope_table,
                                      std::byte* layer_pool, KvScale scale, const CudaKvShaping* shaping,
                                      const ActivationRequest& request, const ActivationBuffer& out) {
  if (pieces == 0) return;
  const State& s = *state_;
  const bool pass = s.quantizes_after_decode(request), shaped = shaping != nullptr;
  if (!appends(pieces, shaped))
    throw Error(fmt::format("Attention stores at most {} shaped keys by itself, a step has {}", attention::kMostMail,
                            pieces * s.desc.kv.kv_heads),
                to_string(s.desc), "call rope_and_append and decode");
  if (shaped && s.desc.kv.format == KvFormat::fp16) throw Error("A cache of fp16 is never shaped", to_string(s.desc));
  attention::DecodeArguments args = s.decode_arguments(s.inputs(batch, nullptr, layer_pool, scale), request, out);
  args.newest.qkv = qkv;
  args.newest.rope_table = rope_table;
  args.newest.pool = layer_pool;
  args.newest.k_multiplier = 1.0f / scale.k;
  args.newest.v_multiplier = 1.0f / scale.v;
  int64_t key_blocks = 0;
  if (shaped) {
    args.newest.shaping = *shaping;
    args.newest.mail = s.mail.as<uint64_t>();
    // Several keys a block once they would take a quarter of the card: each block reads two matrices.
    const bool few = pieces * s.desc.kv.kv_heads <= s.device.multiprocessors / 2;
    args.newest.keys_per_block = few ? 1 : attention::kMostKeysPerBlock;
    args.newest.key_layers = static_cast<int>(divide_up(pieces, args.newest.keys_per_block));
    key_blocks = args.newest.key_layers * s.desc.kv.kv_heads;
  }
  attention::launch_decode_append(queue, s.variant, shaped, static_cast<int>(pieces),
                                  static_cast<int>(s.splits(pieces, max_context, key_blocks)), args);
  if (pass) s.bring_into_form(queue, 0, pieces, request, out);
}

void CudaAttention::plan_prefill(const CudaQueue& queue, const CudaBatch& batch, int64_t first_piece,
                                 std::span<const CudaPrefillPiece> pieces) {
  State& s = *state_;
  s.first_row = std::numeric_limits<int64_t>::max();
  s.end_row = 0;
  for (const CudaPrefillPiece& piece : pieces) {
    s.first_row = std::min<int64_t>(s.first_row, piece.first_row);
    s.end_row = std::max<int64_t>(s.end_row, piece.first_row + piece.num_tokens);
  }
  std::vector<size_t> portable(pieces.size());
  std::iota(portable.begin(), portable.end(), size_t{0});
  if (s.sm90_prefill) portable = s.sm90_prefill->plan(queue, batch.max_pages, first_piece, pieces);
  s.planned_sm90 = portable.size() < pieces.size();

  struct Sized {
    PrefillTile tile;
    int64_t keys;
  };
  std::vector<Sized> tiles;
  const int64_t group = s.group(), window = s.desc.sliding_window.value_or(std::numeric_limits<int32_t>::max());
  for (const size_t i : portable) {
    const CudaPrefillPiece& piece = pieces[i];
    const int64_t count = divide_up(piece.num_tokens * group, attention::kPrefillRows);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t end = std::min<int64_t>(piece.num_tokens, divide_up((t + 1) * attention::kPrefillRows, group));
      tiles.push_back({{static_cast<int32_t>(first_piece) + static_cast<int32_t>(i), static_cast<int32_t>(t)},
                       std::min(piece.kv_tokens - piece.num_tokens + end, window)});
    }
  }
  // The longest first, so that the last blocks to start are short.
  std::stable_sort(tiles.begin(), tiles.end(), [](const Sized& a, const Sized& b) { return a.keys > b.keys; });
  std::vector<int32_t> values;
  for (const Sized& sized : tiles) values.insert(values.end(), {sized.tile.piece, sized.tile.tile});
  s.tiles.send(queue, values);
  s.planned_tiles = static_cast<int64_t>(tiles.size());
}

void CudaAttention::prefill(const CudaQueue& queue, const CudaBatch& batch, const __half* q,
                            const std::byte* layer_pool, KvScale scale, const ActivationRequest& request,
                            const ActivationBuffer& out) {
  const State& s = *state_;
  if (s.planned_tiles == 0 && !s.planned_sm90) return;
  const bool plain = request.form == ActivationForm::f16 && request.prequant == nullptr;
  const bool pass = s.planned_sm90 ? !plain : request.form != ActivationForm::f16 && request.per_token;
  const Inputs in = s.inputs(batch, q, layer_pool, scale);
  const Output to = s.output(pass, request, out);
  if (s.planned_sm90) s.sm90_prefill->run(queue, s.variant, in, to.values);
  if (s.planned_tiles > 0) {
    const attention::PrefillArguments args = {in, to, reinterpret_cast<const PrefillTile*>(s.tiles.device())};
    attention::launch_prefill(queue, s.variant, static_cast<int>(s.planned_tiles), args);
  }
  if (pass) s.bring_into_form(queue, s.first_row, s.end_row - s.first_row, request, out);
}

}  // namespace qg
