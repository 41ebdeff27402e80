#pragma once
// How an executor on a GPU lays out a step: which pieces come first, how many rows it is padded to, whether a captured
// graph serves it. No CUDA here.
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/executor.h"

namespace qg {

// Rows that graphs are made for: each number up to 8, then multiples of 8, of 32 from 64 on, of 64 from 256 on.
int64_t row_bucket(int64_t rows);
// Tokens of context that graphs are made for: powers of two from 256 on.
int64_t context_bucket(int64_t tokens);

struct StepShape {
  int64_t rows = 0;           // all, padding included
  int64_t last_rows = 0;      // of the last layer's MLP: those that sample, unless others are looked at too
  int64_t decode_pieces = 0;  // padding included; they come first, one row each
  bool prefill = false;       // there are other pieces
  int64_t max_context = 0;    // bucket of the decode pieces' longest
};

struct StepPlanLimits {
  int64_t max_rows = 0, max_pieces = 0;
  int64_t logit_rows = 0;  // rows of logits that are there at once
  bool graphs = false;
  bool deterministic = false;  // ExecutorOptions::deterministic: the shape is that of the pieces, whoever wants logits
};

struct PlannedStep {
  StepShape shape;
  bool graph = false;
};

// Numbers of the input's pieces in the order in which they are computed: those of one token first, so that decoding
// kernels serve them. keep_order: as they are (where rows are given out).
std::vector<size_t> step_order(std::span<const SequencePiece> pieces, bool keep_order);

// pieces in that order. A graph serves a step of decode pieces that all sample, when nothing looks between its kernels
// (tapped) and, if logits are wanted, those of all its rows are there at the end.
PlannedStep plan_step(std::span<const SequencePiece* const> pieces, LogitsWanted logits, bool tapped,
                      const StepPlanLimits& limits);

// What the KV cache may take of a card's memory.
struct KvBudget {
  int64_t card_bytes = 0, free_bytes = 0;
  int64_t limit_bytes = 0;                     // use no more of the card than this; 0: all of it
  int64_t reserved_bytes = 0;                  // kept free
  int64_t weight_bytes = 0, buffer_bytes = 0;  // for the message
  int64_t page_bytes = 0, page_tokens = 0;
  int64_t wanted_pages = 0, wanted_bytes = 0;  // both 0: all that is left
  bool less_will_do = false;                   // than what is wanted, but for one page
};
// Throws Error (exit code 4) with the whole budget when it does not fit.
int64_t pages_that_fit(const KvBudget& budget);

}  // namespace qg
