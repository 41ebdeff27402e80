#include "tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pattern.h"

namespace qg {
namespace {

// What becomes of the text that a Split pattern matches.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

Behavior read_behavior(const JsonReader& json) {
  const std::string name = json.get_string("behavior");
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  throw Error("split behavior \"" + name + "\" is not supported", json.where());
}

struct Span {
  size_t begin, end;
  bool matched;
};

// The whole text as spans that match and spans between them.
std::vector<Span> find_spans(std::string_view text, const Pattern& pattern, bool invert) {
  std::vector<Span> spans;
  size_t done = 0;
  pattern.each_match(text, [&](size_t begin, size_t end) {
    if (done != begin) spans.push_back({done, begin, invert});
    spans.push_back({begin, end, !invert});
    done = end;
  });
  if (done != text.size()) spans.push_back({done, text.size(), invert});
  return spans;
}

std::vector<Span> join_spans(const std::vector<Span>& spans, Behavior behavior) {
  std::vector<Span> out;
  bool before = false;  // whether the span beside, on the side that is joined to, matched
  switch (behavior) {
    case Behavior::isolated:
      return spans;
    case Behavior::removed:
      std::copy_if(spans.begin(), spans.end(), std::back_inserter(out), [](const Span& s) { return !s.matched; });
      return out;
    case Behavior::contiguous:
      for (const Span& span : spans) {
        if (span.matched == before && !out.empty())
          out.back().end = span.end;
        else
          out.push_back(span);
        before = span.matched;
      }
      return out;
    case Behavior::merged_with_previous:
      for (const Span& span : spans) {
        if (span.matched && !before && !out.empty())
          out.back().end = span.end;
        else
          out.push_back(span);
        before = span.matched;
      }
      return out;
    case Behavior::merged_with_next:
      for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
        if (span->matched && !before && !out.empty())
          out.back().begin = span->begin;
        else
          out.push_back(*span);
        before = span->matched;
      }
      std::reverse(out.begin(), out.end());
      return out;
  }
  return out;
}

void split(Pieces& pieces, const Pattern& pattern, Behavior behavior, bool invert) {
  std::vector<Piece> out;
  for (const Piece& piece : pieces.list) {
    if (piece.token != kNoToken) {
      out.push_back(piece);
      continue;
    }
    for (const Span& span : join_spans(find_spans(pieces.view(piece), pattern, invert), behavior))
      if (span.begin != span.end)
        out.push_back({piece.begin + span.begin, piece.begin + span.end, piece.starts_text && span.begin == 0});
  }
  pieces.list = std::move(out);
}

// Replaces the text of each piece that is not a token yet: rewrite(text, piece, out) appends the new text to out.
template <typename Rewrite>
void rewrite_pieces(Pieces& pieces, const Rewrite& rewrite) {
  std::string out;
  out.reserve(pieces.text.size() + pieces.text.size() / 4);
  for (Piece& piece : pieces.list) {
    const size_t begin = out.size();
    if (piece.token != kNoToken)
      out += pieces.view(piece);
    else
      rewrite(pieces.view(piece), piece, out);
    piece.begin = begin;
    piece.end = out.size();
  }
  pieces.text = std::move(out);
}

void write_bytes_as_characters(Pieces& pieces) {
  const auto& characters = byte_characters();
  rewrite_pieces(pieces, [&](std::string_view text, const Piece&, std::string& out) {
    for (const char byte : text) out += characters[static_cast<unsigned char>(byte)];
  });
}

void prefix_space(Pieces& pieces) {
  rewrite_pieces(pieces, [](std::string_view text, const Piece&, std::string& out) {
    if (!text.starts_with(' ')) out += ' ';
    out += text;
  });
}

// GPT-2's words: English contractions, then letters, numbers or other characters with the space before them.
constexpr std::string_view kGpt2Words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::function<void(Pieces&)> read_byte_level(const JsonReader& json) {
  const bool add_prefix_space = json.get_bool("add_prefix_space", true);
  std::optional<Pattern> words;
  if (json.get_bool("use_regex", true)) words = Pattern(Regex(kGpt2Words, json.where()));
  return [=](Pieces& pieces) {
    if (add_prefix_space) prefix_space(pieces);
    if (words) split(pieces, *words, Behavior::isolated, false);
    write_bytes_as_characters(pieces);
  };
}

enum class Prepend { always, first, never };

Prepend read_prepend(const JsonReader& json) {
  const bool add_prefix_space = json.get_bool("add_prefix_space", true);  // the older word for the same
  const std::string scheme = json.get_string("prepend_scheme", add_prefix_space ? "always" : "never");
  if (!add_prefix_space && scheme != "never")
    throw Error("\"add_prefix_space\" false contradicts \"prepend_scheme\" \"" + scheme + "\"", json.where());
  if (scheme == "always") return Prepend::always;
  if (scheme == "first") return Prepend::first;
  if (scheme == "never") return Prepend::never;
  throw Error("\"prepend_scheme\" should be always, first or never, is \"" + scheme + "\"", json.where());
}

std::function<void(Pieces&)> read_metaspace(const JsonReader& json) {
  const std::string mark = json.get_string("replacement");
  if (mark.empty()) throw Error("\"replacement\" should not be empty", json.where());
  const Prepend prepend = read_prepend(json);
  const bool cut = json.get_bool("split", true);
  return [=, pattern = Pattern(mark), space = Pattern(std::string(" "))](Pieces& pieces) {
    rewrite_pieces(pieces, [&](std::string_view text, const Piece& piece, std::string& out) {
      const std::string marked = space.replaced(text, mark);
      const bool wanted = prepend == Prepend::always || (prepend == Prepend::first && piece.starts_text);
      if (wanted && !marked.starts_with(mark)) out += mark;
      out += marked;
    });
    if (cut) split(pieces, pattern, Behavior::merged_with_next, false);
  };
}

std::function<void(Pieces&)> read_split(const JsonReader& json) {
  return [pattern = Pattern::from_json(json, "pattern"), behavior = read_behavior(json),
          invert = json.get_bool("invert", false)](Pieces& pieces) { split(pieces, pattern, behavior, invert); };
}

std::function<void(Pieces&)> read_digits(const JsonReader& json) {
  const bool one_by_one = json.get_bool("individual_digits", false);
  return [pattern = Pattern(Regex(one_by_one ? "\\p{N}" : "\\p{N}+", json.where()))](Pieces& pieces) {
    split(pieces, pattern, Behavior::isolated, false);
  };
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonReader& json) {
  read(json);
}

void PreTokenizer::read(const JsonReader& json) {
  const std::string type = json.get_string("type");
  if (type == "Sequence") {
    for (const JsonReader& step : read_components(json, "pretokenizers")) read(step);
  } else if (type == "Split") {
    steps_.push_back(read_split(json));
  } else if (type == "Digits") {
    steps_.push_back(read_digits(json));
  } else if (type == "ByteLevel") {
    steps_.push_back(read_byte_level(json));
  } else if (type == "Metaspace") {
    steps_.push_back(read_metaspace(json));
  } else {
    throw Error("pre-tokenizer \"" + type + "\" is not supported", json.where(),
                "Sequence, Split, Digits, ByteLevel and Metaspace are");
  }
}

void PreTokenizer::apply(Pieces& pieces) const {
  for (const auto& step : steps_) step(pieces);
}

}  // namespace qg
