#include "runtime/step_check.h"

#include <fmt/format.h>

#include "core/error.h"

namespace qg {

void check_page(int64_t page, const StepLimits& limits) {
  if (page < 0 || page >= limits.num_pages)
    throw Error(fmt::format("page {} is not one of the KV cache's {} pages", page, limits.num_pages));
}

void check_step(const StepInput& input, const ModelShape& shape, const StepLimits& limits) {
  const int64_t rows = static_cast<int64_t>(input.tokens.size());
  if (rows > limits.max_rows)
    throw Error(fmt::format("a step of {} tokens is over the limit of {}", rows, limits.max_rows));
  for (const int32_t token : input.tokens)
    if (token < 0 || token >= shape.vocab)
      throw Error(fmt::format("token {} is not in the vocabulary of {} tokens", token, shape.vocab), "",
                  "use the tokenizer of this model");
  int64_t next = 0;
  for (const SequencePiece& piece : input.pieces) {
    if (piece.first_row != next || piece.num_tokens <= 0 || piece.context_tokens < 0)
      throw Error(fmt::format("a piece of {} tokens at row {} after {} tokens of context; row {} was expected",
                              piece.num_tokens, piece.first_row, piece.context_tokens, next));
    next += piece.num_tokens;
    const int64_t tokens = piece.context_tokens + piece.num_tokens;
    if (static_cast<int64_t>(piece.pages.size()) * limits.page_tokens < tokens)
      throw Error(
          fmt::format("{} pages of {} tokens do not hold {} tokens", piece.pages.size(), limits.page_tokens, tokens));
    for (const int32_t page : piece.pages) check_page(page, limits);
  }
  if (next != rows) throw Error(fmt::format("the pieces cover {} of {} rows", next, rows));
}

}  // namespace qg
