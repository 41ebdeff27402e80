#pragma once
// Server-sent events out of bytes that come in any pieces:
// https://html.spec.whatwg.org/multipage/server-sent-events.html as far as a stream of completions needs it. No sockets
// here, so that a fuzzer reaches all of it.
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace qg {

class SseParser {
 public:
  // max_event_bytes: of one event, all its lines together; a longer one is an error.
  explicit SseParser(size_t max_event_bytes = size_t{1} << 20) : max_event_bytes_(max_event_bytes) {}

  // Calls on_data with the data of each event that is whole (several data lines are joined by a line feed; an event
  // without data is passed over, and so are comments and other fields). Lines end in LF, CR or CRLF. Throws Error when
  // an event is too long; on_data may throw, after which the parser is not used any more.
  void feed(std::string_view bytes, const std::function<void(std::string_view data)>& on_data);
  // Bytes of an event that has not ended.
  size_t pending_bytes() const { return line_.size() + data_.size(); }

 private:
  void take_line(const std::function<void(std::string_view)>& on_data);

  size_t max_event_bytes_;
  std::string line_;  // without its end, which has not come
  std::string data_;  // of the event so far, a line feed behind each line
  bool after_cr_ = false;
  bool first_line_ = true;
};

}  // namespace qg
