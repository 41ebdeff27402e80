#include "checkpoint/byte_tokenizer.h"

#include "core/json.h"

namespace qg {
namespace {

constexpr int kBos = 256, kEos = 257, kPad = 258, kTokens = 259;

std::string utf8(int code) {  // of a code point below 2048
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

// The character that byte-level tokenizers (GPT-2) write for a byte: itself where it prints, else from 256 upwards in
// the order of bytes.
std::string byte_character(int byte) {
  const auto prints = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  if (prints(byte)) return utf8(byte);
  int code = 256;
  for (int b = 0; b < byte; ++b) code += !prints(b);
  return utf8(code);
}

Json special(int id, const char* text) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

Json tokenizer() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_character(byte)] = byte;
  const Json byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {special(kBos, "<|bos|>"), special(kEos, "<|eos|>"), special(kPad, "<|pad|>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

}  // namespace

std::map<std::string, std::string> byte_tokenizer_files(int64_t vocab) {
  if (vocab < kTokens) return {};
  const Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
                    {"bos_token", "<|bos|>"},
                    {"eos_token", "<|eos|>"},
                    {"pad_token", "<|pad|>"},
                    {"add_bos_token", false},
                    {"clean_up_tokenization_spaces", false}};
  const Json generation{{"bos_token_id", kBos}, {"eos_token_id", kEos}, {"pad_token_id", kPad}};
  return {{"tokenizer.json", tokenizer().dump(1) + "\n"},
          {"tokenizer_config.json", config.dump(2) + "\n"},
          {"generation_config.json", generation.dump(2) + "\n"}};
}

}  // namespace qg
