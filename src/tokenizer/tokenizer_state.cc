#include "tokenizer/tokenizer_state.h"

#include <algorithm>

#include "core/error.h"

namespace qg {
namespace {

// Reads a component that may be absent or null; `none` stands for it then.
template <typename Component>
Component read_part(const SortedJson& json, const char* key, const std::string& source) {
  if (!json.is_object()) throw Error("should be a JSON object", source);
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return Component();
  const Json part = *found;
  return Component(JsonReader(part, source + ": " + key));
}

const SortedJson& required(const SortedJson& json, const char* key, const std::string& source) {
  const auto found = json.find(key);
  if (found == json.end()) throw Error("key \"" + std::string(key) + "\" is missing", source);
  return *found;
}

SortedJson optional_value(const SortedJson& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() ? SortedJson() : *found;
}

// "</s>" or {"content": "</s>", …}; nothing when absent.
std::optional<std::string> token_setting(const JsonReader& config, const std::string& key) {
  if (!config.has(key)) return {};
  if (config.get(key).is_object()) return config.get_object(key).get_string("content");
  return config.get_string(key);
}

// One text, or a list of named ones of which "default" is taken.
std::string read_chat_template(const JsonReader& config) {
  if (!config.has("chat_template")) return {};
  const Json& value = config.get("chat_template");
  if (!value.is_array()) return config.get_string("chat_template");
  for (size_t i = 0; i < value.size(); ++i) {
    const JsonReader entry(value[i], config.where() + ": chat_template[" + std::to_string(i) + "]");
    if (entry.get_string("name") == "default") return entry.get_string("template");
  }
  return {};
}

}  // namespace

Tokenizer::State::State(const SortedJson& json, const std::string& source)
    : where(source),
      normalizer(read_part<Normalizer>(json, "normalizer", source)),
      pre_tokenizer(read_part<PreTokenizer>(json, "pre_tokenizer", source)),
      bpe(required(json, "model", source), source),
      added(optional_value(json, "added_tokens"), normalizer, source),
      decoder(read_part<Decoder>(json, "decoder", source)) {
  index_tokens();
  if (const SortedJson found = optional_value(json, "post_processor"); !found.is_null()) {
    const Json part = found;
    frame = read_post_processor(JsonReader(part, source + ": post_processor"), static_cast<int64_t>(tokens.size()));
  }
}

void Tokenizer::State::put_token(TokenId id, std::string_view token) {
  if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(id + 1);
  if (tokens[id].data() != nullptr && tokens[id] != token)
    throw Error("id " + std::to_string(id) + " belongs to \"" + std::string(tokens[id]) + "\" and to \"" +
                    std::string(token) + "\"",
                where);
  tokens[id] = token;
}

void Tokenizer::State::index_tokens() {
  for (const auto& [token, id] : bpe.vocabulary()) put_token(id, token);
  for (const AddedToken& token : added.list()) {
    if (const auto known = find(token.content); known && *known != token.id)
      throw Error("added token \"" + token.content + "\" has the ids " + std::to_string(*known) + " and " +
                      std::to_string(token.id),
                  where);
    put_token(token.id, token.content);
    added_ids.emplace(token.content, token.id);
  }
}

std::optional<TokenId> Tokenizer::State::find(std::string_view token) const {
  if (const auto found = added_ids.find(token); found != added_ids.end()) return found->second;
  if (const auto found = bpe.vocabulary().find(token); found != bpe.vocabulary().end()) return found->second;
  return {};
}

bool Tokenizer::State::has_token(TokenId id) const {
  return id >= 0 && static_cast<size_t>(id) < tokens.size() && tokens[id].data() != nullptr;
}

void Tokenizer::State::add_eos(TokenId id) {
  if (std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
}

void Tokenizer::State::read_config(const Json& config, const std::string& source) {
  const JsonReader reader(config, source);
  const auto read = [&](const std::string& key) -> std::optional<TokenId> {
    const auto token = token_setting(reader, key);
    if (!token) return {};
    const auto id = find(*token);
    if (!id) throw Error("\"" + key + "\" is \"" + *token + "\", which is no token of tokenizer.json", source);
    return id;
  };
  if (!bos) bos = read("bos_token");
  if (!pad) pad = read("pad_token");
  if (eos.empty())
    if (const auto id = read("eos_token")) add_eos(*id);
  if (chat_template.empty()) chat_template = read_chat_template(reader);
}

TokenId Tokenizer::State::checked_id(const Json& value, const std::string& key, const std::string& source) const {
  if (!value.is_number_integer() || value < 0 || value > kMaxTokenId || !has_token(value.get<TokenId>()))
    throw Error("\"" + key + "\" should be an id of tokenizer.json, below " + std::to_string(tokens.size()) + ", is " +
                    value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60),
                source);
  return value.get<TokenId>();
}

void Tokenizer::State::read_generation_config(const Json& config, const std::string& source) {
  const JsonReader reader(config, source);
  if (!bos && reader.has("bos_token_id")) bos = checked_id(reader.get("bos_token_id"), "bos_token_id", source);
  if (!pad && reader.has("pad_token_id")) pad = checked_id(reader.get("pad_token_id"), "pad_token_id", source);
  if (!reader.has("eos_token_id")) return;
  const Json& ids = reader.get("eos_token_id");
  if (!ids.is_array()) return add_eos(checked_id(ids, "eos_token_id", source));
  for (const Json& id : ids) add_eos(checked_id(id, "eos_token_id", source));
}

}  // namespace qg
