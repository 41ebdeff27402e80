#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/regex.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

constexpr size_t kMaxNodes = 4 << 20;  // bytes of all added tokens together

AddedToken read_added_token(const JsonReader& json) {
  AddedToken token;
  token.id = static_cast<TokenId>(json.get_int("id", {}, 0, kMaxTokenId));
  token.content = json.get_string("content");
  token.special = json.get_bool("special", false);
  token.single_word = json.get_bool("single_word", false);
  token.lstrip = json.get_bool("lstrip", false);
  token.rstrip = json.get_bool("rstrip", false);
  token.normalized = json.get_bool("normalized", !token.special);
  return token;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    const size_t before = previous_character(text, begin);
    if (is_word_character(text.substr(before, begin - before))) return false;
  }
  return end == text.size() || !is_word_character(text.substr(end, code_point_at(text, end).bytes));
}

size_t skip_space_left(std::string_view text, size_t at, size_t stop) {
  while (at > stop) {
    const size_t before = previous_character(text, at);
    if (!is_white_space(code_point_at(text, before).value)) break;
    at = before;
  }
  return at;
}

size_t skip_space_right(std::string_view text, size_t at) {
  while (at < text.size()) {
    const CodePoint c = code_point_at(text, at);
    if (!is_white_space(c.value)) break;
    at += c.bytes;
  }
  return at;
}

}  // namespace

AddedTokens::Finder::Finder() {
  first_.fill(-1);
}

int32_t AddedTokens::Finder::child_of(int32_t node, unsigned char byte) const {
  int32_t child = nodes_[node].child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

void AddedTokens::Finder::add(std::string_view content, size_t index, const std::string& where) {
  if (nodes_.size() + content.size() > kMaxNodes)
    throw Error("added tokens of more than " + std::to_string(kMaxNodes) + " bytes together", where);
  int32_t node = -1;
  for (const char c : content) {
    const auto byte = static_cast<unsigned char>(c);
    int32_t next = node < 0 ? first_[byte] : child_of(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({-1, node < 0 ? -1 : nodes_[node].child, -1, byte});
      (node < 0 ? first_[byte] : nodes_[node].child) = next;
    }
    node = next;
  }
  if (node >= 0 && nodes_[node].index < 0) nodes_[node].index = static_cast<int32_t>(index);
}

std::optional<AddedTokens::Finder::Match> AddedTokens::Finder::find(std::string_view text, size_t from) const {
  if (nodes_.empty()) return {};
  for (size_t begin = from; begin < text.size(); ++begin) {
    std::optional<Match> longest;
    int32_t node = first_[static_cast<unsigned char>(text[begin])];
    for (size_t end = begin + 1; node >= 0; ++end) {
      if (nodes_[node].index >= 0) longest = Match{begin, end, static_cast<size_t>(nodes_[node].index)};
      if (end == text.size()) break;
      node = child_of(node, static_cast<unsigned char>(text[end]));
    }
    if (longest) return longest;
  }
  return {};
}

AddedTokens::AddedTokens(const SortedJson& list, const Normalizer& normalizer, const std::string& where) {
  const std::string here = where + ": added_tokens";
  if (list.is_null()) return;
  if (!list.is_array()) throw Error("should be a list", here);
  for (const SortedJson& entry : list) {
    const std::string place = here + "[" + std::to_string(list_.size()) + "]";
    const Json json = entry;
    AddedToken token = read_added_token(JsonReader(json, place));
    if (token.special) special_.insert(token.id);
    Finder& finder = token.normalized ? in_normalized_ : in_original_;
    finder.add(token.normalized ? normalizer.apply(token.content) : token.content, list_.size(), place);
    list_.push_back(std::move(token));
  }
}

// Appends the pieces of one text, with places relative to it.
void AddedTokens::cut(std::string_view text, const Finder& finder, bool starts_text, std::vector<Piece>& out) const {
  size_t done = 0;
  const auto put = [&](size_t begin, size_t end, TokenId token) {
    if (begin < end) out.push_back({begin, end, starts_text && begin == 0, token});
  };
  size_t from = 0;
  while (const auto match = finder.find(text, from)) {
    from = match->end;
    const AddedToken& token = list_[match->index];
    if (token.single_word && !stands_alone(text, match->begin, match->end)) continue;
    size_t begin = match->begin, end = match->end;
    // White space that the token before took is not taken again.
    if (token.lstrip) begin = std::max(skip_space_left(text, begin, done), done);
    if (token.rstrip) end = skip_space_right(text, end);
    if (done < begin) put(done, begin, kNoToken);
    put(begin, end, token.id);
    done = end;
  }
  put(done, text.size(), kNoToken);
}

Pieces AddedTokens::extract(std::string_view text, const Normalizer& normalizer) const {
  std::vector<Piece> originals;
  cut(text, in_original_, true, originals);
  Pieces out;
  out.text.reserve(text.size());
  std::vector<Piece> parts;
  for (const Piece& original : originals) {
    const std::string_view content = text.substr(original.begin, original.end - original.begin);
    if (original.token != kNoToken) {
      out.list.push_back({out.text.size(), out.text.size() + content.size(), original.starts_text, original.token});
      out.text += content;
      continue;
    }
    const std::string normal = normalizer.apply(std::string(content));
    parts.clear();
    cut(normal, in_normalized_, original.starts_text, parts);
    for (const Piece& part : parts)
      out.list.push_back({out.text.size() + part.begin, out.text.size() + part.end, part.starts_text, part.token});
    out.text += normal;
  }
  return out;
}

}  // namespace qg
