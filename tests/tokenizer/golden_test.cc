// Against Hugging Face `tokenizers`: files made by scripts/golden/make_tokenizer_golden.py.
#include <gtest/gtest.h>

#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"
#include "tokenizer/tokenizer.h"

namespace qg {
namespace {

const std::string kGolden = QG_SOURCE_DIR "/tests/golden/tokenizer/";

std::vector<std::string> read_lines(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

const std::vector<std::string>& strings() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> out;
    for (const std::string& line : read_lines(kGolden + "strings.jsonl"))
      out.push_back(parse_json(line, "strings.jsonl").get<std::string>());
    return out;
  }();
  return all;
}

Tokenizer load(const std::string& kind) {
  const std::string path = kGolden + kind + "/tokenizer.json";
  return Tokenizer::from_json(read_file(path), "", path);
}

std::string digest(const std::vector<TokenId>& ids, const std::string& decoded) {
  std::string text;
  for (const TokenId id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return sha256_hex(text + "\n" + decoded).substr(0, 8);
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string out;
  for (const TokenId id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_NO_THROW(Json(piece).dump()) << "a piece is not UTF-8";  // dump() is strict about UTF-8
    out += piece;
  }
  return out + decoder.finish();
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, FullAnswers) {
  const Tokenizer tokenizer = load(GetParam());
  const auto lines = read_lines(kGolden + GetParam() + "/full.jsonl");
  ASSERT_GE(lines.size(), 200u);
  for (const std::string& line : lines) {
    const Json expected = parse_json(line, "full.jsonl");
    const std::string& text = strings().at(expected[0].get<size_t>());
    const auto ids = tokenizer.encode(text, true);
    EXPECT_EQ(ids, expected[1].get<std::vector<TokenId>>()) << Json(text).dump();
    EXPECT_EQ(tokenizer.decode(ids), expected[2].get<std::string>()) << Json(text).dump();
  }
}

TEST_P(Golden, AllStrings) {
  const Tokenizer tokenizer = load(GetParam());
  const auto hashes = read_lines(kGolden + GetParam() + "/hashes.txt");
  ASSERT_GE(strings().size(), 10'000u);
  ASSERT_EQ(hashes.size(), strings().size());
  int wrong = 0;
  for (size_t i = 0; i < strings().size() && wrong < 20; ++i) {
    const auto ids = tokenizer.encode(strings()[i], true);
    const std::string decoded = tokenizer.decode(ids);
    if (digest(ids, decoded) == hashes[i]) continue;
    ++wrong;
    ADD_FAILURE() << "string " << i << ": " << Json(strings()[i]).dump() << "\nids " << Json(ids).dump() << "\ndecoded "
                  << Json(decoded).dump() << "\nexpected: make_tokenizer_golden.py --explain " << GetParam() << " "
                  << i;
  }
}

TEST_P(Golden, DecodedRandomIds) {
  const Tokenizer tokenizer = load(GetParam());
  const auto lines = read_lines(kGolden + GetParam() + "/decoded.jsonl");
  ASSERT_GE(lines.size(), 100u);
  for (const std::string& line : lines) {
    const Json expected = parse_json(line, "decoded.jsonl");
    EXPECT_EQ(tokenizer.decode(expected[0].get<std::vector<TokenId>>(), false), expected[1].get<std::string>()) << line;
  }
}

TEST_P(Golden, StreamedTextIsDecodedText) {
  const Tokenizer tokenizer = load(GetParam());
  for (size_t i = 0; i < strings().size(); i += 3) {
    const auto ids = tokenizer.encode(strings()[i], true);
    for (const bool skip : {true, false}) ASSERT_EQ(streamed(tokenizer, ids, skip), tokenizer.decode(ids, skip)) << i;
  }
}

// What a model may really emit: any ids, characters broken anywhere.
TEST_P(Golden, StreamedTextOfRandomIdsIsDecodedText) {
  const Tokenizer tokenizer = load(GetParam());
  uint32_t state = 12345;
  for (int round = 0; round < 500; ++round) {
    std::vector<TokenId> ids;
    for (int i = 0; i < 30; ++i) {
      state = state * 1664525 + 1013904223;
      ids.push_back(static_cast<TokenId>((state >> 8) % (tokenizer.vocab_size() + 5)));
    }
    ASSERT_EQ(streamed(tokenizer, ids, false), tokenizer.decode(ids, false)) << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Golden, testing::Values("llama3", "smollm2", "legacy", "metaspace", "odd", "joined"),
                         [](const auto& param) { return param.param; });

class ByteLevel : public testing::TestWithParam<std::string> {};

TEST_P(ByteLevel, DecodingGivesTheTextBack) {
  const Tokenizer tokenizer = load(GetParam());
  for (const std::string& text : strings())
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text, false), false), text) << Json(text).dump();
}

std::string joined_bytes(const Tokenizer& tokenizer, const std::string& text) {
  std::string bytes;
  for (const TokenId id : tokenizer.encode(text, false)) bytes += tokenizer.token_bytes(id);
  return bytes;
}

TEST_P(ByteLevel, BytesOfTheTokensAreTheText) {
  const Tokenizer tokenizer = load(GetParam());
  for (const std::string& text : strings()) ASSERT_EQ(joined_bytes(tokenizer, text), text) << Json(text).dump();
}

TEST(ByteFallback, BytesOfTheTokensAreTheTextWithTheSpaceBeforeIt) {
  for (const char* kind : {"legacy", "metaspace"})
    EXPECT_EQ(joined_bytes(load(kind), "two  words, 量化 😀"), " two  words, 量化 😀") << kind;
}

TEST_P(ByteLevel, NoPrefixOfTheTokensEndsInsideACharacter) {
  const Tokenizer tokenizer = load(GetParam());
  const std::string text = "naïve 量化 😀👩‍👩‍👧‍👦 ok";
  StreamDecoder decoder(tokenizer);
  std::string sofar;
  for (const TokenId id : tokenizer.encode(text, false)) {
    sofar += decoder.push(id);
    ASSERT_TRUE(text.starts_with(sofar)) << sofar;
  }
  EXPECT_EQ(sofar + decoder.finish(), text);
}

// Cut into a prompt and what follows, wherever that is: the two texts put together are the whole.
class Continued : public testing::TestWithParam<std::string> {};

TEST_P(Continued, AReplyGoesOnWhereThePromptEnds) {
  const Tokenizer tokenizer = load(GetParam());
  const std::string text = "The capital of France is Paris, they say.";
  const std::vector<TokenId> ids = tokenizer.encode(text, false);
  ASSERT_EQ(tokenizer.decode(ids, true), text);
  for (size_t cut = 1; cut < ids.size(); ++cut) {
    const std::span<const TokenId> all(ids), prompt = all.first(cut);
    StreamDecoder decoder(tokenizer);
    decoder.go_on_after(prompt);
    std::string reply;
    for (const TokenId id : all.subspan(cut)) reply += decoder.push(id);
    EXPECT_EQ(tokenizer.decode(prompt, true) + reply + decoder.finish(), text) << cut;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Continued, testing::Values("llama3", "smollm2", "legacy", "metaspace"),
                         [](const auto& param) { return param.param; });

// The rest of a character whose first bytes are the prompt's does not bring these again.
TEST(ContinuedCharacter, ThePromptsBytesDoNotComeAgain) {
  for (const char* kind : {"smollm2", "metaspace"}) {
    const Tokenizer tokenizer = load(kind);
    const std::vector<TokenId> ids = tokenizer.encode("a 😀", false);
    ASSERT_GT(ids.size(), 2u) << kind;
    StreamDecoder decoder(tokenizer);
    decoder.go_on_after(std::span(ids).first(ids.size() - 1));
    std::string reply = decoder.push(ids.back());
    reply += decoder.finish();
    EXPECT_EQ(reply.find("😀"), std::string::npos) << kind;
    EXPECT_EQ(reply.find('a'), std::string::npos) << kind;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ByteLevel, testing::Values("llama3", "smollm2"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace qg
