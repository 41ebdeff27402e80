#pragma once
// The "pre_tokenizer" part of tokenizer.json: cuts a text into the pieces that are merged one by one.
#include <functional>
#include <vector>

#include "core/json.h"
#include "tokenizer/pieces.h"

namespace qg {

class PreTokenizer {
 public:
  PreTokenizer() = default;              // one piece
  PreTokenizer(const JsonReader& json);  // Sequence, Split, Digits, ByteLevel, Metaspace; throws Error on any other

  void apply(Pieces& pieces) const;

 private:
  void read(const JsonReader& json);
  std::vector<std::function<void(Pieces&)>> steps_;
};

}  // namespace qg
