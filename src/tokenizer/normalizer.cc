#include "tokenizer/normalizer.h"

#include "core/error.h"
#include "tokenizer/pattern.h"

namespace qg {

Normalizer::Normalizer(const JsonReader& json) {
  read(json);
}

void Normalizer::read(const JsonReader& json) {
  const std::string type = json.get_string("type");
  if (type == "Sequence") {
    for (const JsonReader& step : read_components(json, "normalizers")) read(step);
  } else if (type == "Prepend") {
    steps_.push_back(
        [prefix = json.get_string("prepend")](std::string text) { return text.empty() ? text : prefix + text; });
  } else if (type == "Replace") {
    steps_.push_back([pattern = Pattern::from_json(json, "pattern"), content = json.get_string("content")](
                         const std::string& text) { return pattern.replaced(text, content); });
  } else {
    throw Error("normalizer \"" + type + "\" is not supported", json.where(), "Sequence, Prepend and Replace are");
  }
}

std::string Normalizer::apply(std::string text) const {
  for (const auto& step : steps_) text = step(std::move(text));
  return text;
}

}  // namespace qg
