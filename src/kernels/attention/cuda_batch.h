#pragma once
#include <cstdint>

namespace qg {

// One step's batch in device memory, the same for every layer; the addresses never change, so that graphs can hold
// them. Written before the first kernel of a chain starts (a copy on the stream, or an unchained kernel), not within
// the chain.
struct CudaBatch {
  const int32_t* first_row = nullptr;     // [pieces] of the piece in q
  const int32_t* num_tokens = nullptr;    // [pieces] new tokens (1 while decoding)
  const int32_t* kv_tokens = nullptr;     // [pieces] in the cache when this step's are in it; 0: padding
  const int32_t* page_table = nullptr;    // [pieces, max_pages] page numbers; those behind the last token are not read
  const int32_t* row_piece = nullptr;     // [rows] the piece that a row belongs to
  const int32_t* row_position = nullptr;  // [rows] position in its sequence; -1: padding, nothing is stored for it
  int32_t max_pages = 0;
};

}  // namespace qg
