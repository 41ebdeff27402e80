#pragma once
// Bytes of a connection to requests: HTTP/1.1 by Boost.Beast's parser, fed piece by piece, with limits. No sockets
// here.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "server/api_error.h"

namespace qg {

struct HttpLimits {
  int64_t max_header_bytes = 16 << 10;
  int64_t max_body_bytes = 8 << 20;
};

struct HttpRequest {
  std::string method, path;  // path without the query
  std::string host;          // of the target where it names one, else of the header
  std::string authorization, content_type;
  std::string body;
  bool keep_alive = true;
  bool http_1_0 = false;  // no chunked replies
};

class HttpReader {
 public:
  explicit HttpReader(const HttpLimits& limits);
  ~HttpReader();

  // Takes what belongs to this request from the front of `bytes`; true when the request is whole. What it leaves
  // belongs to the next one, or is a piece too short to be understood yet. Throws ApiError (400, 413, 431), after which
  // the connection cannot go on.
  bool feed(std::string& bytes);
  bool has_header() const;
  bool wants_continue() const;  // the client waits for "100 Continue" before it sends the body
  int64_t body_bytes() const;   // received so far
  HttpRequest take();           // once it is whole; throws ApiError (400) on a target that names no host

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Head and body of an answer. headers: more lines, each ending in "\r\n".
std::string http_answer(int status, std::string_view content_type, std::string_view body, bool keep_alive,
                        std::string_view headers = {}, bool head_only = false);
// The head of a stream; its body follows in chunks, or until the connection closes.
std::string http_stream_head(bool chunked, bool keep_alive);
std::string_view http_reason(int status);

}  // namespace qg
