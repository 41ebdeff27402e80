#pragma once
// Ends a text at the stop string that is complete first. What may be the beginning of one is held back until it is
// clear, so that a stop string that comes in parts is never seen.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qg {

class StopStrings {
 public:
  // include: the stop string itself stays in the text.
  explicit StopStrings(std::vector<std::string> strings, bool include = false);

  // Takes text and returns what is certain to come before any stop string. Once found() nothing more comes.
  std::string push(std::string_view text);
  std::string finish();  // the text has ended: what was held back

  bool found() const { return found_; }
  int64_t held_bytes() const { return static_cast<int64_t>(held_.size()); }

 private:
  std::vector<std::string> strings_;
  bool include_ = false, found_ = false;
  std::string held_;
};

}  // namespace qg
