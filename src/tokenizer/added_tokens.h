#pragma once
// Tokens that were added beside the learned vocabulary, special ones above all: they are found in the text before
// anything else looks at it.
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/json.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pieces.h"

namespace qg {

struct AddedToken {
  TokenId id;
  std::string content;
  bool special;         // left out of decoded text when asked
  bool single_word;     // only between non-word characters
  bool lstrip, rstrip;  // takes the white space on that side with it
  bool normalized;      // looked for in the normalized text instead of the original
};

class AddedTokens {
 public:
  AddedTokens(const SortedJson& list, const Normalizer& normalizer, const std::string& where);  // throws Error

  const std::vector<AddedToken>& list() const { return list_; }
  bool is_special(TokenId id) const { return special_.contains(id); }

  // Cuts the text at added tokens and normalizes what lies between them.
  Pieces extract(std::string_view text, const Normalizer& normalizer) const;

 private:
  // Finds the leftmost and there the longest of many strings: a tree of bytes, children as linked lists.
  class Finder {
   public:
    Finder();
    void add(std::string_view content, size_t index, const std::string& where);
    struct Match {
      size_t begin, end, index;
    };
    std::optional<Match> find(std::string_view text, size_t from) const;

   private:
    struct Node {
      int32_t child = -1, sibling = -1;
      int32_t index = -1;  // into AddedTokens::list_; -1 where no content ends
      unsigned char byte = 0;
    };
    int32_t child_of(int32_t node, unsigned char byte) const;
    std::vector<Node> nodes_;
    std::array<int32_t, 256> first_;  // node of each first byte, -1 if none begins so
  };

  void cut(std::string_view text, const Finder& finder, bool starts_text, std::vector<Piece>& out) const;

  std::vector<AddedToken> list_;
  std::unordered_set<TokenId> special_;
  Finder in_original_, in_normalized_;
};

}  // namespace qg
