#pragma once
// The "normalizer" part of tokenizer.json: what is done to a text before it is cut.
#include <functional>
#include <string>
#include <vector>

#include "core/json.h"

namespace qg {

class Normalizer {
 public:
  Normalizer() = default;              // leaves every text as it is
  Normalizer(const JsonReader& json);  // Sequence, Prepend, Replace; throws Error on any other

  bool empty() const { return steps_.empty(); }
  std::string apply(std::string text) const;

 private:
  void read(const JsonReader& json);
  std::vector<std::function<std::string(std::string)>> steps_;
};

}  // namespace qg
