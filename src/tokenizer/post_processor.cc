#include "tokenizer/post_processor.h"

#include "core/error.h"
#include "tokenizer/pattern.h"

namespace qg {
namespace {

// The ids that a template's special token stands for.
std::vector<TokenId> read_special(const JsonReader& json, const std::string& name, int64_t vocab_size) {
  const JsonReader token = json.get_object("special_tokens").get_object(name);
  const Json& ids = token.get("ids");
  if (!ids.is_array()) throw Error("\"ids\" should be a list", token.where());
  std::vector<TokenId> out;
  for (const Json& id : ids) {
    if (!id.is_number_integer() || id < 0 || id >= vocab_size)
      throw Error("\"ids\" should be from 0 to " + std::to_string(vocab_size - 1), token.where());
    out.push_back(id.get<TokenId>());
  }
  return out;
}

TextFrame read_template(const JsonReader& json, int64_t vocab_size) {
  TextFrame frame;
  int texts = 0;
  for (const JsonReader& item : read_components(json, "single")) {
    if (item.has("Sequence")) {
      ++texts;
      continue;
    }
    auto& side = texts == 0 ? frame.before : frame.after;
    const auto ids = read_special(json, item.get_object("SpecialToken").get_string("id"), vocab_size);
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (texts != 1)
    throw Error("the template \"single\" should hold the text once, holds it " + std::to_string(texts) + " times",
                json.where());
  return frame;
}

}  // namespace

TextFrame read_post_processor(const JsonReader& json, int64_t vocab_size) {
  const std::string type = json.get_string("type");
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return read_template(json, vocab_size);
  if (type == "Sequence") {
    TextFrame frame;
    for (const JsonReader& step : read_components(json, "processors")) {
      TextFrame next = read_post_processor(step, vocab_size);
      if (next.before.empty() && next.after.empty()) continue;
      if (!frame.before.empty() || !frame.after.empty()) throw Error("more than one template", json.where());
      frame = std::move(next);
    }
    return frame;
  }
  throw Error("post-processor \"" + type + "\" is not supported", json.where(),
              "TemplateProcessing, ByteLevel and Sequence are");
}

}  // namespace qg
