#include "runtime/step_check.h"

#include <fmt/format.h>

#include "core/error.h"

namespace qg {

void check_page(int64_t page, const StepLimits& limits) {
  if (page < 0 || page >= limits.num_pages)
    throw Error(fmt::format("page {} is not one of the KV cache's {} pages", page, limits.num_pages));
}

namespace {

void check_tokens(const StepInput& input, const SequencePiece& piece, const ModelShape& shape,
                  const StepLimits& limits) {
  if (piece.token_of_piece >= 0) {
    if (!limits.runs_ahead) throw Error("a token that is not known yet was given to an executor that needs it now");
    if (piece.num_tokens != 1)
      throw Error(fmt::format("a piece of {} tokens, of which none is known; one can be", piece.num_tokens));
    return;
  }
  for (int64_t row = piece.first_row; row < piece.first_row + piece.num_tokens; ++row) {
    const int32_t token = input.tokens[static_cast<size_t>(row)];
    if (token < 0 || token >= shape.vocab)
      throw Error(fmt::format("token {} is not in the vocabulary of {} tokens", token, shape.vocab), "",
                  "use the tokenizer of this model");
  }
}

}  // namespace

void check_step(const StepInput& input, const ModelShape& shape, const StepLimits& limits) {
  const int64_t rows = static_cast<int64_t>(input.tokens.size());
  if (rows > limits.max_rows)
    throw Error(fmt::format("a step of {} tokens is over the limit of {}", rows, limits.max_rows));
  int64_t next = 0;
  for (const SequencePiece& piece : input.pieces) {
    if (piece.first_row != next || piece.num_tokens <= 0 || piece.context_tokens < 0)
      throw Error(fmt::format("a piece of {} tokens at row {} after {} tokens of context; row {} was expected",
                              piece.num_tokens, piece.first_row, piece.context_tokens, next));
    if (next + piece.num_tokens > rows) throw Error(fmt::format("the pieces cover more than the step's {} rows", rows));
    check_tokens(input, piece, shape, limits);
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
