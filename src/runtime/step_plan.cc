#include "runtime/step_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace qg {

int64_t row_bucket(int64_t rows) {
  if (rows <= 8) return rows;
  const int64_t step = rows <= 64 ? 8 : rows <= 256 ? 32 : 64;
  return (rows + step - 1) / step * step;
}

int64_t context_bucket(int64_t tokens) {
  int64_t bucket = 256;
  while (bucket < tokens) bucket *= 2;
  return bucket;
}

std::vector<size_t> step_order(std::span<const SequencePiece> pieces, bool keep_order) {
  std::vector<size_t> order(pieces.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (!keep_order)
    std::stable_partition(order.begin(), order.end(), [&](size_t i) { return pieces[i].num_tokens == 1; });
  return order;
}

PlannedStep plan_step(std::span<const SequencePiece* const> pieces, LogitsWanted logits, bool tapped,
                      const StepPlanLimits& limits) {
  PlannedStep planned;
  StepShape& shape = planned.shape;
  const auto one_token = [](const SequencePiece* piece) { return piece->num_tokens == 1; };
  const auto decode_end = std::find_if_not(pieces.begin(), pieces.end(), one_token);
  // Pieces that keep the caller's order may be mixed: then all are computed as prefill pieces.
  const bool mixed = std::any_of(decode_end, pieces.end(), one_token);
  shape.decode_pieces = mixed ? 0 : decode_end - pieces.begin();
  shape.prefill = shape.decode_pieces < static_cast<int64_t>(pieces.size());
  bool all_sample = true;
  for (const SequencePiece* piece : pieces) {
    shape.rows += piece->num_tokens;
    shape.last_rows += piece->sample ? 1 : 0;
    all_sample &= piece->sample;
  }
  const bool alike = limits.deterministic && shape.last_rows > 0;
  if (tapped || alike || logits == LogitsWanted::all) shape.last_rows = shape.rows;
  for (const SequencePiece* piece : pieces.first(static_cast<size_t>(shape.decode_pieces)))
    shape.max_context = std::max(shape.max_context, piece->context_tokens + 1);
  shape.max_context = context_bucket(shape.max_context);

  const int64_t padded = row_bucket(shape.rows);
  planned.graph = limits.graphs && !tapped && !shape.prefill && all_sample && logits != LogitsWanted::all &&
                  padded <= std::min(limits.max_pieces, limits.max_rows) &&
                  (padded <= limits.logit_rows || logits == LogitsWanted::none);
  if (planned.graph) shape.rows = shape.last_rows = shape.decode_pieces = padded;
  return planned;
}

int64_t pages_that_fit(const KvBudget& b) {
  int64_t left = b.free_bytes - b.reserved_bytes;
  if (b.limit_bytes > 0) {
    const int64_t used = b.card_bytes - b.free_bytes;
    left = std::min(left, b.limit_bytes - used - b.reserved_bytes);
  }
  const int64_t fitting = std::max<int64_t>(left, 0) / b.page_bytes;
  const int64_t asked = b.wanted_pages > 0   ? b.wanted_pages
                        : b.wanted_bytes > 0 ? b.wanted_bytes / b.page_bytes
                                             : fitting;
  const int64_t wanted = b.less_will_do ? std::min(asked, std::max<int64_t>(fitting, 1)) : asked;
  if (wanted > 0 && wanted <= fitting) return wanted;
  const int64_t pages = std::max<int64_t>(wanted, 1);
  throw Error(
      fmt::format(
          "the KV cache does not fit: {} pages of {} tokens take {:.0f} bytes; of {} bytes on the card{} weights "
          "take {}, buffers {}, {} are kept free and {} are left",
          pages, b.page_tokens, static_cast<double>(pages) * static_cast<double>(b.page_bytes), b.card_bytes,
          b.limit_bytes > 0 ? fmt::format(", of which {} may be used,", b.limit_bytes) : "", b.weight_bytes,
          b.buffer_bytes, b.reserved_bytes, std::max<int64_t>(left, 0)),
      "", "take a smaller batch or context, an 8-bit KV cache, or a smaller weight format", ExitCode::cannot_here);
}

}  // namespace qg
