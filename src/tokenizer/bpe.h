#pragma once
// Byte-pair encoding: a piece of text is cut into characters, then the pair of neighbours that was learned first is
// merged, again and again. O(n log n) in the length of the piece.
#include <array>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/json.h"
#include "tokenizer/pieces.h"

namespace qg {

// Ids above this are refused: tables are indexed by id, and a broken file must not ask for gigabytes.
inline constexpr TokenId kMaxTokenId = (1 << 21) - 1;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using Vocabulary = std::unordered_map<std::string, TokenId, StringHash, std::equal_to<>>;

// The "model" part of tokenizer.json, type BPE.
class Bpe {
 public:
  Bpe(const SortedJson& model, const std::string& where);  // throws Error

  const Vocabulary& vocabulary() const { return vocabulary_; }
  // Appends the tokens of each piece; pieces that are tokens already are appended as they are.
  void tokenize(const Pieces& pieces, std::vector<TokenId>& out) const;

 private:
  struct Symbol {
    TokenId id;
    int32_t previous, next;  // neighbours; -1 where there is none
    bool merged_away;
  };
  struct Work {  // reused from piece to piece
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;
  };
  // Which merge joins two tokens: a hash table with open addressing, the hottest lookup of all.
  class Merges {
   public:
    explicit Merges(size_t count);
    void put(TokenId left, TokenId right, uint32_t rank, TokenId joined);  // a later put replaces an earlier one
    struct Merge {
      uint64_t pair = UINT64_MAX;
      uint32_t rank = 0;
      TokenId joined = kNoToken;
    };
    const Merge* find(TokenId left, TokenId right) const;

   private:
    size_t slot(uint64_t pair) const;
    std::vector<Merge> slots_;
    int shift_;
  };

  void read_vocabulary(const SortedJson& vocab, const std::string& where);
  void read_merges(const SortedJson& merges, const std::string& where);
  void tokenize_piece(std::string_view piece, Work& work, std::vector<TokenId>& out) const;
  void cut_into_symbols(std::string_view piece, std::vector<Symbol>& symbols) const;
  bool add_byte_symbols(std::string_view character, std::vector<Symbol>& symbols) const;
  void merge(Work& work) const;
  void push_merge(Work& work, int32_t left) const;
  TokenId find_character(std::string_view character) const;

  Vocabulary vocabulary_;
  Merges merges_{0};
  std::vector<TokenId> joined_of_rank_;
  std::array<TokenId, 0x800> short_characters_;  // tokens of the characters of one and two bytes
  std::array<TokenId, 256> byte_tokens_;         // "<0x00>" … "<0xFF>"
  TokenId unknown_ = kNoToken;
  bool byte_fallback_ = false, fuse_unknown_ = false, ignore_merges_ = false;
};

}  // namespace qg
