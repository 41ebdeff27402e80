// Any bytes as tokenizer.json: loading and using it either works or throws qg::Error.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "tokenizer/chat.h"
#include "tokenizer/tokenizer.h"

namespace {

constexpr std::string_view kTexts[] = {"", "Hello, world! It's 2026.\n\n  indented\ttext",
                                       "na\xC3\xAFve \xE9\x87\x8F\xE5\x8C\x96 \xF0\x9F\x98\x80 \xFF\xC3",
                                       "<s>[INST] a b[/INST] \xE2\x96\x81\xE2\x96\x81<|im_end|>  <a><ab>",
                                       "                \r\n aaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

constexpr std::string_view kConfig =
    R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ '<|im_start|>' }}"})";

void use(const qg::Tokenizer& tokenizer) {
  for (const std::string_view text : kTexts) {
    const auto ids = tokenizer.encode(text, true);
    for (const qg::TokenId id : ids)
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    qg::StreamDecoder stream(tokenizer, false);
    std::string streamed;
    for (const qg::TokenId id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    if (streamed != tokenizer.decode(ids, false)) std::abort();
  }
  const qg::ChatMessage message{"user", "hello"};
  (void)qg::render_chat(tokenizer, {&message, 1}, true);
}

void load_and_use(std::string_view json, std::string_view config) {
  try {
    use(qg::Tokenizer::from_json(json, config, "fuzz"));
  } catch (const qg::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  load_and_use(json, "");
  load_and_use(json, kConfig);
  return 0;
}
