#pragma once
// What an opened checkpoint holds, and whether its numbers are sound. (That every tensor is there, with the right shape
// and dtype, and no other, is checked by opening it.)
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qg {

struct Inspection {
  // Bytes of tensors by kind; files are larger by their headers.
  int64_t embedding_bytes = 0, lm_head_bytes = 0, norm_bytes = 0, linear_bytes = 0, scale_bytes = 0;
  int64_t tensors = 0;
  std::vector<std::string> problems;  // one sentence each; empty: sound

  bool sound() const { return problems.empty(); }
};

// Reads all scales, and a sample of each weight: at most 64 pieces of 1,024 elements, the first and the last among
// them.
Inspection inspect_checkpoint(const Checkpoint& checkpoint);

// What `quantgrid inspect --json` prints.
Json to_json(const Checkpoint& checkpoint, const Inspection& inspection);

}  // namespace qg
