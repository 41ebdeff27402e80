#include "tokenizer/tokenizer.h"

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "tokenizer/tokenizer_state.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;  // places in a piece are 32-bit numbers
constexpr int64_t kMaxTemplateBytes = 1 << 20;

std::shared_ptr<Tokenizer::State> make_state(std::string_view json, const std::string& where) {
  auto state = std::make_shared<Tokenizer::State>(parse_sorted_json(json, where), where);
  state->hash = sha256_hex(json);
  return state;
}

std::string read_tokenizer_json(const std::filesystem::path& dir) {
  const auto path = dir / "tokenizer.json";
  if (std::filesystem::exists(path)) return read_file(path, kMaxJsonBytes);
  const bool sentencepiece = std::filesystem::exists(dir / "tokenizer.model");
  throw Error(sentencepiece ? "the folder has tokenizer.model but no tokenizer.json" : "tokenizer.json is missing",
              dir.string(),
              sentencepiece ? "save the tokenizer with transformers, whose fast tokenizers write tokenizer.json"
                            : "copy it from the model's Hugging Face folder, or name its folder with --tokenizer");
}

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                               const std::string& where) {
  auto state = make_state(tokenizer_json, where);
  if (!tokenizer_config_json.empty()) {
    const std::string source = where + " (tokenizer_config.json)";
    state->read_config(parse_json(tokenizer_config_json, source), source);
  }
  return Tokenizer(std::move(state));
}

Tokenizer Tokenizer::from_folder(const std::filesystem::path& dir) {
  auto state = make_state(read_tokenizer_json(dir), (dir / "tokenizer.json").string());
  const auto read = [&](const char* name, auto method) {
    const auto path = dir / name;
    if (std::filesystem::exists(path)) ((*state).*method)(read_json(path), path.string());
  };
  if (const auto path = dir / "chat_template.jinja"; std::filesystem::exists(path))
    state->chat_template = read_file(path, kMaxTemplateBytes);
  read("tokenizer_config.json", &State::read_config);
  read("special_tokens_map.json", &State::read_config);
  read("generation_config.json", &State::read_generation_config);
  return Tokenizer(std::move(state));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes)
    throw Error("a text of " + std::to_string(text.size()) + " bytes is too long to tokenize at once", where(),
                "cut it into parts of at most 1 GiB");
  std::string repaired;
  if (!is_utf8(text)) text = repaired = repaired_utf8(text);
  std::vector<TokenId> out;
  if (add_special_tokens) out = state_->frame.before;
  Pieces pieces = state_->added.extract(text, state_->normalizer);
  state_->pre_tokenizer.apply(pieces);
  state_->bpe.tokenize(pieces, out);
  if (add_special_tokens) out.insert(out.end(), state_->frame.after.begin(), state_->frame.after.end());
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  StreamDecoder decoder(*this, skip_special_tokens);
  std::string out;
  for (const TokenId id : ids) out += decoder.push(id);
  return out += decoder.finish();
}

std::string Tokenizer::token_bytes(TokenId id) const {
  return state_->has_token(id) ? state_->decoder.token_bytes(std::string(state_->tokens[id])) : std::string();
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(state_->tokens.size());
}
std::optional<TokenId> Tokenizer::bos() const {
  return state_->bos;
}
const std::vector<TokenId>& Tokenizer::eos() const {
  return state_->eos;
}
std::optional<TokenId> Tokenizer::pad() const {
  return state_->pad;
}
std::optional<TokenId> Tokenizer::token_to_id(std::string_view token) const {
  return state_->find(token);
}
bool Tokenizer::is_special(TokenId id) const {
  return state_->added.is_special(id);
}
const std::string& Tokenizer::hash() const {
  return state_->hash;
}
const std::string& Tokenizer::chat_template() const {
  return state_->chat_template;
}
const std::string& Tokenizer::where() const {
  return state_->where;
}

std::string Tokenizer::id_to_token(TokenId id) const {
  return state_->has_token(id) ? std::string(state_->tokens[id]) : std::string();
}

struct StreamDecoder::Chain {
  DecoderChain stages;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : state_(tokenizer.state_),
      skip_special_tokens_(skip_special_tokens),
      chain_(std::make_unique<Chain>(Chain{state_->decoder.start()})) {}

StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

// One token is enough, and of several the last parts of a character would be held back and come out with the reply.
void StreamDecoder::go_on_after(std::span<const TokenId> before) {
  for (size_t i = before.size(); i-- > 0;) {
    if (!push(before[i]).empty()) return;
    chain_->stages = state_->decoder.start();
  }
}

std::string StreamDecoder::push(TokenId id) {
  std::string out;
  if (!state_->has_token(id) || (skip_special_tokens_ && state_->added.is_special(id))) return out;
  chain_->stages.push(state_->tokens[id], out);
  return out;
}

std::string StreamDecoder::finish() {
  std::string out;
  chain_->stages.finish(out);
  chain_->stages = state_->decoder.start();
  return out;
}

}  // namespace qg
