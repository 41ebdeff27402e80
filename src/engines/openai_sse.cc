#include "engines/openai_sse.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace qg {

void SseParser::feed(std::string_view bytes, const std::function<void(std::string_view)>& on_data) {
  while (!bytes.empty()) {
    if (after_cr_ && bytes.front() == '\n') {  // the second half of CRLF
      after_cr_ = false;
      bytes.remove_prefix(1);
      continue;
    }
    after_cr_ = false;
    const size_t end = std::min(bytes.find_first_of("\r\n"), bytes.size());
    if (pending_bytes() + end > max_event_bytes_)
      throw Error(fmt::format("an event of the stream is longer than {} bytes", max_event_bytes_));
    line_.append(bytes.substr(0, end));
    if (end == bytes.size()) return;
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    take_line(on_data);
  }
}

void SseParser::take_line(const std::function<void(std::string_view)>& on_data) {
  std::string_view line = line_;
  if (first_line_ && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);  // a byte order mark
  first_line_ = false;
  if (line.empty()) {  // the end of an event
    if (!data_.empty()) {
      data_.pop_back();
      on_data(data_);
      data_.clear();
    }
  } else {
    const size_t colon = std::min(line.find(':'), line.size());
    if (line.substr(0, colon) == "data") {
      std::string_view value = line.substr(std::min(colon + 1, line.size()));
      if (value.starts_with(' ')) value.remove_prefix(1);
      data_.append(value).push_back('\n');
    }
  }
  line_.clear();
}

}  // namespace qg
