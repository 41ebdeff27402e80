#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

// Longer pieces are rare and hardly ever come twice.
constexpr size_t kMaxRememberedBytes = 64;

uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

std::string byte_token(int byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + '>';
}

// "a b" or ["a", "b"]. Throws Error.
std::pair<std::string, std::string> read_pair(const SortedJson& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  throw Error("a merge should be \"left right\" or [\"left\", \"right\"]", where);
}

}  // namespace

Bpe::Merges::Merges(size_t count)
    : slots_(std::bit_ceil(2 * count + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

// Multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4), then linear probing.
size_t Bpe::Merges::slot(uint64_t pair) const {
  size_t at = (pair * 0x9E3779B97F4A7C15u) >> shift_;
  while (slots_[at].pair != pair && slots_[at].pair != UINT64_MAX) at = (at + 1) & (slots_.size() - 1);
  return at;
}

void Bpe::Merges::put(TokenId left, TokenId right, uint32_t rank, TokenId joined) {
  const uint64_t pair = pair_key(left, right);
  slots_[slot(pair)] = {pair, rank, joined};
}

const Bpe::Merges::Merge* Bpe::Merges::find(TokenId left, TokenId right) const {
  const Merge& merge = slots_[slot(pair_key(left, right))];
  return merge.joined == kNoToken ? nullptr : &merge;
}

Bpe::Bpe(const SortedJson& model, const std::string& where) {
  if (!model.is_object()) throw Error("\"model\" should be a JSON object", where);
  Json settings = Json::object();
  for (const auto& [key, value] : model.items())
    if (key != "vocab" && key != "merges") settings[key] = value;
  const std::string here = where + ": model";
  const JsonReader reader(settings, here);
  if (const std::string type = reader.get_string("type", "BPE"); type != "BPE")
    throw Error("tokenizer model \"" + type + "\" is not supported", here, "only BPE is");
  if (reader.get_double("dropout", 0.0) != 0.0)
    throw Error("\"dropout\" makes tokens random and is not supported", here);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!reader.get_string(key, "").empty()) throw Error("\"" + std::string(key) + "\" is not supported", here);
  byte_fallback_ = reader.get_bool("byte_fallback", false);
  fuse_unknown_ = reader.get_bool("fuse_unk", false);
  ignore_merges_ = reader.get_bool("ignore_merges", false);
  if (!model.contains("vocab") || !model.contains("merges")) throw Error("\"vocab\" or \"merges\" is missing", here);
  read_vocabulary(model["vocab"], here + ".vocab");
  read_merges(model["merges"], here + ".merges");
  if (const std::string unknown = reader.get_string("unk_token", ""); !unknown.empty()) {
    const auto found = vocabulary_.find(unknown);
    if (found == vocabulary_.end()) throw Error("\"unk_token\" " + unknown + " is not in the vocabulary", here);
    unknown_ = found->second;
  }
}

void Bpe::read_vocabulary(const SortedJson& vocab, const std::string& where) {
  if (!vocab.is_object() || vocab.empty()) throw Error("should be an object of tokens and ids", where);
  vocabulary_.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer() || id < 0 || id > kMaxTokenId)
      throw Error("the id of \"" + token + "\" should be a number from 0 to " + std::to_string(kMaxTokenId) + ", is " +
                      id.dump(-1, ' ', false, SortedJson::error_handler_t::replace).substr(0, 40),
                  where);
    vocabulary_.emplace(token, id.get<TokenId>());
  }
  short_characters_.fill(kNoToken);
  for (const auto& [token, id] : vocabulary_) {
    if (token.empty() || token.size() > 2) continue;
    if (const CodePoint c = code_point_at(token, 0); c.bytes == token.size()) short_characters_[c.value] = id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary_.find(byte_token(byte));
    byte_tokens_[byte] = found == vocabulary_.end() ? kNoToken : found->second;
  }
}

void Bpe::read_merges(const SortedJson& merges, const std::string& where) {
  if (!merges.is_array()) throw Error("should be a list of merges", where);
  merges_ = Merges(merges.size());
  joined_of_rank_.reserve(merges.size());
  for (const SortedJson& merge : merges) {
    // A file that was made from merges.txt may still carry its first line.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const size_t rank = joined_of_rank_.size();
    const std::string here = where + "[" + std::to_string(rank) + "]";
    const auto [left, right] = read_pair(merge, here);
    const auto a = vocabulary_.find(left), b = vocabulary_.find(right), joined = vocabulary_.find(left + right);
    for (const auto& [found, token] : {std::pair(a, left), std::pair(b, right), std::pair(joined, left + right)})
      if (found == vocabulary_.end()) throw Error("\"" + token + "\" is not in the vocabulary", here);
    merges_.put(a->second, b->second, static_cast<uint32_t>(rank), joined->second);
    joined_of_rank_.push_back(joined->second);
  }
}

TokenId Bpe::find_character(std::string_view character) const {
  if (character.size() <= 2) return short_characters_[code_point_at(character, 0).value];
  const auto found = vocabulary_.find(character);
  return found == vocabulary_.end() ? kNoToken : found->second;
}

bool Bpe::add_byte_symbols(std::string_view character, std::vector<Symbol>& symbols) const {
  const auto token = [&](char byte) { return byte_tokens_[static_cast<unsigned char>(byte)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char byte) { return token(byte) != kNoToken; }))
    return false;
  for (const char byte : character) symbols.push_back({token(byte), 0, 0, false});
  return true;
}

// One symbol per character. A character without a token becomes its bytes' tokens, else the unknown token (one for a
// run of them if the file says so), else nothing.
void Bpe::cut_into_symbols(std::string_view piece, std::vector<Symbol>& symbols) const {
  symbols.clear();
  bool unknown_waits = false;  // written only before the next known character: more unknown ones may join it
  const auto flush = [&] {
    if (unknown_waits) symbols.push_back({unknown_, 0, 0, false});
    unknown_waits = false;
  };
  for (size_t at = 0; at < piece.size();) {
    const std::string_view character = piece.substr(at, code_point_at(piece, at).bytes);
    at += character.size();
    if (const TokenId id = find_character(character); id != kNoToken) {
      flush();
      symbols.push_back({id, 0, 0, false});
    } else if ((!byte_fallback_ || !add_byte_symbols(character, symbols)) && unknown_ != kNoToken) {
      if (!fuse_unknown_) flush();
      unknown_waits = true;
    }
  }
  flush();
  const auto count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].previous = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : -1;
  }
}

// A heap entry is rank << 32 | place: the earliest learned merge first, the leftmost among equals.
void Bpe::push_merge(Work& work, int32_t left) const {
  const Symbol& symbol = work.symbols[left];
  if (symbol.next < 0) return;
  if (const auto* merge = merges_.find(symbol.id, work.symbols[symbol.next].id))
    work.heap.push_back(static_cast<uint64_t>(merge->rank) << 32 | static_cast<uint32_t>(left));
}

void Bpe::merge(Work& work) const {
  auto& [symbols, heap] = work;
  heap.clear();
  for (size_t i = 0; i < symbols.size(); ++i) push_merge(work, static_cast<int32_t>(i));
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t left) {
    const size_t before = heap.size();
    push_merge(work, left);
    if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t entry = heap.back();
    heap.pop_back();
    const auto at = static_cast<int32_t>(entry & UINT32_MAX);
    Symbol& left = symbols[at];
    if (left.merged_away || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // Neighbours may have changed since the entry was made: it holds while they still join to the same token.
    const TokenId joined = joined_of_rank_[entry >> 32];
    const auto* now = merges_.find(left.id, right.id);
    if (now == nullptr || now->joined != joined) continue;
    left.id = joined;
    left.next = right.next;
    right.merged_away = true;
    if (left.next >= 0) symbols[left.next].previous = at;
    if (left.previous >= 0) push(left.previous);
    push(at);
  }
}

void Bpe::tokenize_piece(std::string_view piece, Work& work, std::vector<TokenId>& out) const {
  if (ignore_merges_) {
    if (const auto found = vocabulary_.find(piece); found != vocabulary_.end()) return out.push_back(found->second);
  }
  cut_into_symbols(piece, work.symbols);
  merge(work);
  for (const Symbol& symbol : work.symbols)
    if (!symbol.merged_away) out.push_back(symbol.id);
}

void Bpe::tokenize(const Pieces& pieces, std::vector<TokenId>& out) const {
  struct Place {
    size_t begin, count;
  };
  std::unordered_map<std::string_view, Place> seen;  // words come again and again: where in `out` their tokens are
  Work work;
  for (const Piece& piece : pieces.list) {
    if (piece.token != kNoToken) {
      out.push_back(piece.token);
      continue;
    }
    const std::string_view text = pieces.view(piece);
    const size_t begin = out.size();
    if (text.size() > kMaxRememberedBytes) {
      tokenize_piece(text, work, out);
      continue;
    }
    const auto [place, is_new] = seen.try_emplace(text);
    if (is_new) {
      tokenize_piece(text, work, out);
      place->second = {begin, out.size() - begin};
    } else {
      for (size_t i = 0; i < place->second.count; ++i) out.push_back(out[place->second.begin + i]);
    }
  }
}

}  // namespace qg
