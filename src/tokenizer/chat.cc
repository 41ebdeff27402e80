#include "tokenizer/chat.h"

#include <initializer_list>

#include "core/error.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

[[noreturn]] void refuse(const Tokenizer& tokenizer, const std::string& what) {
  throw Error("chat template: " + what, tokenizer.where(),
              "known are ChatML, Llama 3, Mistral v0.3 and Llama 2; others can be used without --chat, as plain text");
}

// Python's str.strip(), which is what Jinja's trim does.
std::string_view trimmed(std::string_view text) {
  const auto space = [](char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); };
  while (!text.empty()) {
    const CodePoint first = code_point_at(text, 0);
    if (!space(first.value)) break;
    text.remove_prefix(first.bytes);
  }
  while (!text.empty()) {
    const size_t last = previous_character(text, text.size());
    if (!space(code_point_at(text, last).value)) break;
    text = text.substr(0, last);
  }
  return text;
}

std::string token_text(const Tokenizer& tokenizer, std::optional<TokenId> id) {
  return id ? tokenizer.id_to_token(*id) : std::string();
}

std::string bos_text(const Tokenizer& tokenizer) {
  return token_text(tokenizer, tokenizer.bos());
}

std::string eos_text(const Tokenizer& tokenizer) {
  if (tokenizer.eos().empty()) refuse(tokenizer, "it ends answers with the eos token, and the tokenizer names none");
  return token_text(tokenizer, tokenizer.eos().front());
}

// The system message if the conversation begins with one.
const ChatMessage* leading_system(std::span<const ChatMessage> messages) {
  return !messages.empty() && messages[0].role == "system" ? &messages[0] : nullptr;
}

void require_alternating(const Tokenizer& tokenizer, std::span<const ChatMessage> turns) {
  for (size_t i = 0; i < turns.size(); ++i) {
    const char* wanted = i % 2 == 0 ? "user" : "assistant";
    if (turns[i].role != wanted)
      throw Error("after an optional system message the roles must be user, assistant, user, …; message " +
                      std::to_string(i) + " of these is from \"" + turns[i].role + "\" instead of \"" + wanted + "\"",
                  tokenizer.where());
  }
}

// "\n" as Jinja writes it in a string.
std::string unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool line = text[i] == '\\' && i + 1 < text.size() && text[i + 1] == 'n';
    out += line ? '\n' : text[i];
    if (line) ++i;
  }
  return out;
}

// The system prompt that a ChatML template writes when the conversation has none: the literal text between the markers.
std::optional<std::string> chatml_default_system(std::string_view jinja) {
  constexpr std::string_view kBegin = "<|im_start|>system", kEnd = "<|im_end|>";
  for (size_t at = jinja.find(kBegin); at != std::string_view::npos; at = jinja.find(kBegin, at + 1)) {
    std::string_view text = jinja.substr(at + kBegin.size());
    const size_t end = text.find(kEnd);
    if (end == std::string_view::npos) return {};
    text = text.substr(0, end);
    if (text.find_first_of("{}'\"") != std::string_view::npos) continue;  // not a literal but parts put together
    const std::string content = unescaped(text);
    if (content.starts_with('\n')) return content.substr(1);
  }
  return {};
}

std::string render_chatml(const Tokenizer& tokenizer, std::span<const ChatMessage> messages, bool prompt) {
  const std::string& jinja = tokenizer.chat_template();
  std::string out = contains(jinja, "bos_token") ? bos_text(tokenizer) : std::string();
  const auto put = [&](const std::string& role, const std::string& content) {
    out += "<|im_start|>" + role + "\n" + content + "<|im_end|>\n";
  };
  if (const auto system = chatml_default_system(jinja); system && leading_system(messages) == nullptr)
    put("system", *system);
  for (const ChatMessage& message : messages) put(message.role, message.content);
  if (prompt) out += "<|im_start|>assistant\n";
  return out;
}

std::string render_llama3(const Tokenizer& tokenizer, std::span<const ChatMessage> messages, bool prompt,
                          const ChatOptions& options) {
  std::string out = bos_text(tokenizer);
  const auto put = [&](const std::string& role, const std::string& content) {
    out += "<|start_header_id|>" + role + "<|end_header_id|>\n\n" + content + "<|eot_id|>";
  };
  // Llama 3.1 and 3.2 always write a system message, which begins with two dates; Llama 3 does not.
  if (contains(tokenizer.chat_template(), "Cutting Knowledge Date")) {
    const ChatMessage* system = leading_system(messages);
    put("system", "Cutting Knowledge Date: December 2023\nToday Date: " + options.date + "\n\n" +
                      (system ? std::string(trimmed(system->content)) : ""));
    if (system) messages = messages.subspan(1);
  }
  for (const ChatMessage& message : messages) put(message.role, std::string(trimmed(message.content)));
  if (prompt) out += "<|start_header_id|>assistant<|end_header_id|>\n\n";
  return out;
}

// The answer begins right after [/INST]: there is nothing to add for a generation prompt. Llama 2 is the same there.
std::string render_mistral(const Tokenizer& tokenizer, std::span<const ChatMessage> messages) {
  const ChatMessage* system = leading_system(messages);
  const auto turns = system ? messages.subspan(1) : messages;
  require_alternating(tokenizer, turns);
  std::string out = bos_text(tokenizer);
  for (size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role == "assistant") {
      ((out += ' ') += trimmed(turns[i].content)) += eos_text(tokenizer);
      continue;
    }
    const bool last = i + 1 == turns.size();  // the system message goes into the last question only
    out += "[INST] " + (system && last ? system->content + "\n\n" : "") + turns[i].content + "[/INST]";
  }
  return out;
}

std::string render_llama2(const Tokenizer& tokenizer, std::span<const ChatMessage> messages) {
  const ChatMessage* system = leading_system(messages);
  const auto turns = system ? messages.subspan(1) : messages;
  require_alternating(tokenizer, turns);
  std::string out;
  for (size_t i = 0; i < turns.size(); ++i) {
    std::string content = turns[i].content;
    if (i == 0 && system) content = "<<SYS>>\n" + system->content + "\n<</SYS>>\n\n" + content;
    const std::string text(trimmed(content));
    out += turns[i].role == "user" ? bos_text(tokenizer) + "[INST] " + text + " [/INST]"
                                   : " " + text + " " + eos_text(tokenizer);
  }
  return out;
}

void require_tokens(const Tokenizer& tokenizer, std::initializer_list<std::string_view> tokens) {
  for (const std::string_view token : tokens)
    if (!tokenizer.token_to_id(token))
      refuse(tokenizer, "it writes " + std::string(token) + ", which is no token of this tokenizer");
}

}  // namespace

std::string_view to_string(ChatFamily family) {
  switch (family) {
    case ChatFamily::chatml:
      return "chatml";
    case ChatFamily::llama3:
      return "llama3";
    case ChatFamily::mistral:
      return "mistral";
    case ChatFamily::llama2:
      return "llama2";
  }
  return "?";
}

ChatFamily chat_family(const Tokenizer& tokenizer) {
  const std::string_view jinja = tokenizer.chat_template();
  if (jinja.empty()) refuse(tokenizer, "the model has none; is it a base model?");
  if (contains(jinja, "<|im_start|>") && !contains(jinja, "<|im_sep|>")) {  // Phi-4 puts that in place of the line end
    require_tokens(tokenizer, {"<|im_start|>", "<|im_end|>"});
    return ChatFamily::chatml;
  }
  if (contains(jinja, "<|start_header_id|>")) {
    require_tokens(tokenizer, {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"});
    return ChatFamily::llama3;
  }
  if (contains(jinja, "<<SYS>>")) return ChatFamily::llama2;
  // Templates before v0.3 write " [/INST]", those of the Tekken models "[INST]" without a space.
  if ((contains(jinja, "\"[INST] \"") && contains(jinja, "\"[/INST]\"")) ||
      (contains(jinja, "'[INST] '") && contains(jinja, "'[/INST]'"))) {
    require_tokens(tokenizer, {"[INST]", "[/INST]"});
    return ChatFamily::mistral;
  }
  refuse(tokenizer, "not one of the known families; it begins \"" + std::string(jinja.substr(0, 60)) + "\"");
}

std::string render_chat(const Tokenizer& tokenizer, std::span<const ChatMessage> messages, bool add_generation_prompt,
                        const ChatOptions& options) {
  const ChatFamily family = chat_family(tokenizer);
  if (messages.empty()) throw Error("a conversation needs at least one message", tokenizer.where());
  for (const ChatMessage& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      throw Error("the role \"" + message.role + "\" is not supported", tokenizer.where(),
                  "use system, user or assistant");
    if (!is_utf8(message.content)) throw Error("a message is not UTF-8", tokenizer.where());
  }
  switch (family) {
    case ChatFamily::chatml:
      return render_chatml(tokenizer, messages, add_generation_prompt);
    case ChatFamily::llama3:
      return render_llama3(tokenizer, messages, add_generation_prompt, options);
    case ChatFamily::mistral:
      return render_mistral(tokenizer, messages);
    case ChatFamily::llama2:
      return render_llama2(tokenizer, messages);
  }
  throw Error("unknown chat family", tokenizer.where());
}

}  // namespace qg
