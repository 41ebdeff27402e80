#pragma once
#include "runtime/executor.h"

namespace qg {

struct StepLimits {
  int64_t max_rows = 0, page_tokens = 0, num_pages = 0;
  bool runs_ahead = false;  // pieces may have a token that is not known yet
};

// What every executor takes for granted. Throws Error naming both values: too many rows, a token outside the
// vocabulary, pieces that do not cover the rows, pages that do not hold the tokens or do not exist. Whether
// token_of_piece names a piece that samples is left to the executor.
void check_step(const StepInput& input, const ModelShape& shape, const StepLimits& limits);
void check_page(int64_t page, const StepLimits& limits);

}  // namespace qg
