#pragma once
// Conversations to text: one plain function per family of chat templates, chosen by what the model's own Jinja template
// writes. Jinja itself is not interpreted; a template of another family is an Error.
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace qg {

struct ChatMessage {
  std::string role;  // system, user or assistant
  std::string content;
};

enum class ChatFamily {
  chatml,   // <|im_start|>role … <|im_end|>: SmolLM2, Qwen
  llama3,   // <|start_header_id|>role<|end_header_id|> … <|eot_id|>
  mistral,  // [INST] …[/INST] with the control tokens of Mistral v0.3
  llama2,   // <s>[INST] <<SYS>> … [/INST]
};

std::string_view to_string(ChatFamily family);

// Throws Error (with the reason) when the tokenizer has no chat template or one of another family.
ChatFamily chat_family(const Tokenizer& tokenizer);

struct ChatOptions {
  // "Today Date" of the Llama 3.1 and 3.2 templates, as "26 Jul 2024", the day those templates fall back to. It is not
  // read from the clock, so that the same conversation always gives the same tokens.
  std::string date = "26 Jul 2024";
};

// The conversation as the model's template writes it, special tokens included: encode it with
// add_special_tokens = false. With add_generation_prompt it ends where the assistant's answer begins.
// Throws Error when roles are in an order or of a kind that the template refuses.
std::string render_chat(const Tokenizer& tokenizer, std::span<const ChatMessage> messages, bool add_generation_prompt,
                        const ChatOptions& options = {});

}  // namespace qg
