// Files, special tokens, odd texts, errors and speed. What encodings must be is in golden_test.cc.
#include "tokenizer/tokenizer.h"
#include "tests/sanitized.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <array>
#include <ctime>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const std::string kGolden = QG_SOURCE_DIR "/tests/golden/tokenizer/";

std::string golden_json(const std::string& kind) {
  return read_file(kGolden + kind + "/tokenizer.json");
}
Tokenizer load(const std::string& kind) {
  return Tokenizer::from_json(golden_json(kind), "", kind);
}

// A folder that goes away with the test.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("qg_tokenizer_" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  void put(const std::string& name, const std::string& text) const { write_file(path_ / name, text); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

TEST(Tokenizer, ReadsAFolder) {
  const Folder folder;
  const std::string json = golden_json("llama3");
  folder.put("tokenizer.json", json);
  folder.put("tokenizer_config.json",
             R"({"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>", "lstrip": false},
                 "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  folder.put("special_tokens_map.json", R"({"eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>"})");
  const auto id = [&](const char* token) { return load("llama3").token_to_id(token).value(); };
  folder.put("generation_config.json", "{\"eos_token_id\": [" + std::to_string(id("<|end_of_text|>")) + ", " +
                                           std::to_string(id("<|eot_id|>")) + "]}");
  const Tokenizer tokenizer = Tokenizer::from_folder(folder.path());
  EXPECT_EQ(tokenizer.bos(), id("<|begin_of_text|>"));
  EXPECT_EQ(tokenizer.eos(), (std::vector<TokenId>{id("<|eot_id|>"), id("<|end_of_text|>")}));
  EXPECT_EQ(tokenizer.pad(), id("<|end_of_text|>"));
  EXPECT_EQ(tokenizer.chat_template(), "D");
  EXPECT_EQ(tokenizer.hash(), sha256_hex(json));
  EXPECT_EQ(tokenizer.vocab_size(), 1205);
  folder.put("chat_template.jinja", "J");
  EXPECT_EQ(Tokenizer::from_folder(folder.path()).chat_template(), "J");
}

TEST(Tokenizer, MissingFileSaysWhatToDo) {
  const Folder folder;
  EXPECT_THROW(Tokenizer::from_folder(folder.path()), Error);
  folder.put("tokenizer.model", "x");
  try {
    Tokenizer::from_folder(folder.path());
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(e.problem().find("tokenizer.model"), std::string::npos);
    EXPECT_NE(e.fix().find("transformers"), std::string::npos);
  }
}

TEST(Tokenizer, NamesAndIds) {
  const Tokenizer tokenizer = load("llama3");
  const TokenId eot = tokenizer.token_to_id("<|eot_id|>").value();
  EXPECT_EQ(tokenizer.id_to_token(eot), "<|eot_id|>");
  EXPECT_TRUE(tokenizer.is_special(eot));
  EXPECT_FALSE(tokenizer.is_special(0));
  EXPECT_EQ(tokenizer.id_to_token(-1), "");
  EXPECT_EQ(tokenizer.id_to_token(1 << 30), "");
  EXPECT_FALSE(tokenizer.token_to_id("no such token").has_value());
  const std::vector<TokenId> ids{-7, tokenizer.encode("a", false)[0], eot, 1 << 30};
  EXPECT_EQ(tokenizer.decode(ids), "a");
  EXPECT_EQ(tokenizer.decode(ids, false), "a<|eot_id|>");
}

TEST(Tokenizer, SpecialTokensAroundAndInsideATextAreTwoThings) {
  const Tokenizer tokenizer = load("llama3");
  const TokenId begin = tokenizer.token_to_id("<|begin_of_text|>").value();
  EXPECT_EQ(tokenizer.encode("", true), std::vector<TokenId>{begin});
  EXPECT_TRUE(tokenizer.encode("", false).empty());
  EXPECT_EQ(tokenizer.encode("<|begin_of_text|>", false), std::vector<TokenId>{begin});
  auto framed = tokenizer.encode("Hello", false);
  framed.insert(framed.begin(), begin);
  EXPECT_EQ(tokenizer.encode("Hello", true), framed);
}

TEST(Tokenizer, BytesThatAreNotUtf8CountAsReplacementCharacters) {
  const Tokenizer tokenizer = load("smollm2");
  const auto decoded = [&](std::string_view text) { return tokenizer.decode(tokenizer.encode(text, false)); };
  EXPECT_EQ(decoded("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(decoded("\xE2\x82"), "\uFFFD");                            // the beginning of a character: one
  EXPECT_EQ(decoded("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");            // a surrogate: one for each byte
  EXPECT_EQ(decoded("\xF0\x9F\x98z\xC0\x80"), "\uFFFDz\uFFFD\uFFFD");  // cut off; too long a form
  EXPECT_EQ(decoded(std::string_view("\0a\0", 3)), std::string_view("\0a\0", 3));
}

TEST(StreamDecoder, StartsAnewAfterFinish) {
  for (const char* kind : {"legacy", "odd", "joined"}) {
    const Tokenizer tokenizer = load(kind);
    const auto ids = tokenizer.encode("one two", false);
    StreamDecoder decoder(tokenizer);
    for (int round = 0; round < 2; ++round) {
      std::string text;
      for (const TokenId id : ids) text += decoder.push(id);
      EXPECT_EQ(text + decoder.finish(), tokenizer.decode(ids)) << kind;
    }
  }
}

// Stages after Fuse see one long token in pieces: a match or an end to strip may be spread over several of them.
TEST(StreamDecoder, HoldsBackWhatLaterTokensMayChange) {
  const Tokenizer tokenizer = Tokenizer::from_json(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "x": 2},
    "merges": []}, "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"},
    {"type": "Replace", "pattern": {"String": "ab"}, "content": "-"},
    {"type": "Strip", "content": "x", "start": 1, "stop": 2}]}})",
                                                   "", "x");
  const auto pieces = [&](std::string_view text) {
    StreamDecoder decoder(tokenizer);
    std::vector<std::string> out;
    for (const TokenId id : tokenizer.encode(text, false)) out.push_back(decoder.push(id));
    out.push_back(decoder.finish());
    return out;
  };
  using Strings = std::vector<std::string>;
  EXPECT_EQ(pieces("xaba"), (Strings{"", "", "-", "", "a"}));
  EXPECT_EQ(pieces("aab"), (Strings{"", "a", "-", ""}));
  EXPECT_EQ(pieces("xxbxxx"), (Strings{"", "", "xb", "", "", "x", ""}));
  EXPECT_EQ(pieces("xx"), (Strings{"", "", ""}));
}

TEST(StreamDecoder, OutlivesItsTokenizer) {
  std::optional<Tokenizer> tokenizer = load("smollm2");
  const auto ids = tokenizer->encode("still here", false);
  StreamDecoder decoder(*tokenizer);
  tokenizer.reset();
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  EXPECT_EQ(text + decoder.finish(), "still here");
}

TEST(Tokenizer, IsUsedByManyThreadsAtOnce) {
  const Tokenizer tokenizer = load("llama3");
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "word" + std::to_string(i) + " and 'others' 量化\n";
  const auto expected = tokenizer.encode(text, true);
  std::array<bool, 4> equal{};
  std::vector<std::thread> threads;
  for (bool& same : equal)
    threads.emplace_back([&] {
      same = true;
      for (int i = 0; i < 10; ++i) same &= tokenizer.encode(text, true) == expected;
    });
  for (std::thread& thread : threads) thread.join();
  for (const bool same : equal) EXPECT_TRUE(same);
}

// 1 MB of many kinds of text, each in under a second; some 0.2 s at most were measured. Quadratic time would be hours.
class Speed : public testing::TestWithParam<std::string> {};

TEST_P(Speed, OneMegabyteInUnderASecond) {
  const Tokenizer tokenizer = load(GetParam());
  constexpr size_t kBytes = 1'000'000;
  const auto repeated = [](std::string_view part) {
    std::string text;
    while (text.size() < kBytes) text += part;
    return text;
  };
  std::string varied;
  for (uint32_t i = 0, state = 1; varied.size() < kBytes; ++i) {
    state = state * 1664525 + 1013904223;
    varied += static_cast<char>((state >> 24) % 6 == 0 ? ' ' : 'a' + (state >> 16) % 26);
  }
  const std::vector<std::pair<const char*, std::string>> texts = {
      {"English", repeated("The quick brown fox doesn't jump over the lazy dog, 3141 times.\n")},
      {"ever new words", varied},
      {"one word", repeated("a")},
      {"one word of several letters", repeated("quantization")},
      {"spaces", repeated(" ")},
      {"line feeds", repeated("\n")},
      {"no spaces", repeated("天地玄黃宇宙洪荒")},
      {"unknown characters", repeated("😀")},
      {"nearly special tokens", repeated("<|begin_of_tex")},
      {"special tokens", repeated("<|begin_of_text|><s>")},
      {"broken bytes", repeated("\xFF\xF0\x9F")},
  };
  for (const auto& [name, text] : texts) {
    const std::clock_t begin = std::clock();  // processor time: other programs on the machine do not count
    const auto ids = tokenizer.encode(text, false);
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, kSlowdown * 1.0) << name;
    EXPECT_FALSE(ids.empty()) << name;
    RecordProperty(std::string("seconds ") + name, std::to_string(seconds));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Speed, testing::Values("llama3", "smollm2", "legacy", "metaspace", "odd"),
                         [](const auto& param) { return param.param; });

struct Broken {
  const char* name;
  std::string tokenizer_json, config_json;
  const char* message;  // part of what the error must say
};

std::string small(const std::string& parts, const std::string& model = R"("vocab": {"a": 0, "b": 1}, "merges": [])") {
  return "{" + parts + (parts.empty() ? "" : ", ") + "\"model\": {\"type\": \"BPE\", " + model + "}}";
}

std::string split_at(const std::string& regex) {
  const Json step{{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", regex}}}};
  return small("\"pre_tokenizer\": " + step.dump());
}

class BrokenFile : public testing::TestWithParam<Broken> {};

TEST_P(BrokenFile, IsRefusedByName) {
  try {
    Tokenizer::from_json(GetParam().tokenizer_json, GetParam().config_json, "somewhere/tokenizer.json");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE((e.problem() + " " + e.where()).find(GetParam().message), std::string::npos)
        << e.problem() << " / " << e.where();
    EXPECT_NE(e.where().find("somewhere/tokenizer.json"), std::string::npos) << e.where();
  }
}

std::vector<Broken> broken_files() {
  return {
      {"not_json", "{", "", "not valid JSON"},
      {"not_an_object", "[1]", "", "JSON object"},
      {"no_model", "{}", "", "\"model\" is missing"},
      {"no_vocabulary", R"({"model": {"type": "BPE"}})", "", "\"vocab\""},
      {"other_model", R"({"model": {"type": "Unigram", "vocab": []}})", "", "Unigram"},
      {"normalizer", small(R"("normalizer": {"type": "NFC"})"), "", "NFC"},
      {"nested_normalizer", small(R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})"), "",
       "normalizers[0]"},
      {"pre_tokenizer", small(R"("pre_tokenizer": {"type": "BertPreTokenizer"})"), "", "BertPreTokenizer"},
      {"decoder", small(R"("decoder": {"type": "WordPiece"})"), "", "WordPiece"},
      {"post_processor", small(R"("post_processor": {"type": "RobertaProcessing"})"), "", "RobertaProcessing"},
      {"behavior", small(R"("pre_tokenizer": {"type": "Split", "behavior": "Odd", "pattern": {"String": "a"}})"), "",
       "Odd"},
      {"regex_syntax", split_at("(a"), "", "regular expression"},
      {"regex_escape", split_at("\\G"), "", "\\G"},
      {"regex_class", split_at("[a&&b]"), "", "&&"},
      {"regex_group", split_at("(?~a)"), "", "(?~"},
      {"regex_verb", split_at("(*ACCEPT)"), "", "(*"},
      {"regex_script", split_at("\\p{Klingon}"), "", "regular expression"},
      {"regex_range", split_at("[\\s-x]"), "", "- beside a set"},
      {"regex_nested", split_at("[a[b]]"), "", "[ inside []"},
      {"regex_possessive", split_at("a{2}+"), "", "+ after {"},
      {"regex_reference", split_at("(a)\\1"), "", "\\1"},
      {"empty_pattern", small(R"("normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"})"), "",
       "empty"},
      {"metaspace", small(R"("pre_tokenizer": {"type": "Metaspace", "replacement": "_", "add_prefix_space": false,
         "prepend_scheme": "always"})"),
       "", "contradicts"},
      {"merge_of_three", small("", R"("vocab": {"a": 0}, "merges": ["a a a"])"), "", "merges[0]"},
      {"merge_unknown", small("", R"("vocab": {"a": 0}, "merges": [["a", "a"]])"), "",
       "\"aa\" is not in the vocabulary"},
      {"id_negative", small("", R"("vocab": {"a": -1}, "merges": [])"), "", "-1"},
      {"id_huge", small("", R"("vocab": {"a": 4000000000}, "merges": [])"), "", "4000000000"},
      {"id_twice", small("", R"("vocab": {"a": 0, "b": 0}, "merges": [])"), "", "id 0 belongs to"},
      {"unknown_token", small("", R"("vocab": {"a": 0}, "merges": [], "unk_token": "<unk>")"), "", "<unk>"},
      {"dropout", small("", R"("vocab": {"a": 0}, "merges": [], "dropout": 0.1)"), "", "dropout"},
      {"suffix", small("", R"("vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>")"), "",
       "end_of_word_suffix"},
      {"added_id_huge", small(R"("added_tokens": [{"id": 99999999999, "content": "x"}])"), "", "added_tokens[0]"},
      {"added_id_taken", small(R"("added_tokens": [{"id": 1, "content": "x"}])"), "", "id 1 belongs to"},
      {"added_id_two", small(R"("added_tokens": [{"id": 7, "content": "b"}])"), "", "has the ids 1 and 7"},
      {"template_id",
       small(R"("post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}},
         {"Sequence": {"id": "A"}}], "special_tokens": {"x": {"ids": [2]}}})"),
       "", "from 0 to 1"},
      {"template_without_text", small(R"("post_processor": {"type": "TemplateProcessing", "single": []})"), "",
       "0 times"},
      {"strip_of_two", small(R"("decoder": {"type": "Strip", "content": "ab", "start": 1, "stop": 0})"), "",
       "one character"},
      {"strip_negative", small(R"("decoder": {"type": "Strip", "content": "a", "start": -1, "stop": 0})"), "", "start"},
      {"deep", small("\"normalizer\": " + std::string(100, '[') + std::string(100, ']')), "", "nested"},
      {"eos_unknown", small(""), R"({"eos_token": "</s>"})", "</s>"},
      {"eos_number", small(""), R"({"eos_token": 2})", "eos_token"},
  };
}

INSTANTIATE_TEST_SUITE_P(Files, BrokenFile, testing::ValuesIn(broken_files()),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(Tokenizer, RegexWithoutEndIsAnError) {
  const Tokenizer tokenizer = Tokenizer::from_json(split_at("(a|aa)+$"), "", "x");
  EXPECT_EQ(tokenizer.encode("aaaa", false).size(), 4u);
  EXPECT_THROW(tokenizer.encode(std::string(60, 'a') + "b", false), Error);
}

}  // namespace
}  // namespace qg
