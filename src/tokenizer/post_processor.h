#pragma once
// The "post_processor" part of tokenizer.json: the special tokens around a text.
#include <vector>

#include "core/json.h"
#include "tokenizer/tokenizer.h"

namespace qg {

struct TextFrame {
  std::vector<TokenId> before, after;
};

// TemplateProcessing (its template for one text), ByteLevel (which concerns offsets only), Sequence of these.
// Ids must be below vocab_size. Throws Error on anything else.
TextFrame read_post_processor(const JsonReader& json, int64_t vocab_size);

}  // namespace qg
