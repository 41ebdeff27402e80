#pragma once
// A text on its way to tokens: cut into pieces, some of which are already tokens.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace qg {

inline constexpr TokenId kNoToken = -1;

struct Piece {
  size_t begin = 0, end = 0;  // bytes of Pieces::text; never empty
  bool starts_text = false;   // begins where the whole text begins
  TokenId token = kNoToken;   // an added token: its text is not looked at again
};

struct Pieces {
  std::string text;  // valid UTF-8
  std::vector<Piece> list;

  std::string_view view(const Piece& piece) const {
    return std::string_view(text).substr(piece.begin, piece.end - piece.begin);
  }
};

}  // namespace qg
