#include "server/http_reader.h"

#include <fmt/format.h>

#include <boost/beast/core/string.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <utility>

namespace qg {
namespace http = boost::beast::http;

struct HttpReader::State {
  http::request_parser<http::string_body> parser;
};

HttpReader::HttpReader(const HttpLimits& limits) : state_(std::make_unique<State>()) {
  state_->parser.eager(true);
  state_->parser.header_limit(static_cast<uint32_t>(limits.max_header_bytes));
  state_->parser.body_limit(static_cast<uint64_t>(limits.max_body_bytes));
}

HttpReader::~HttpReader() = default;

namespace {

[[noreturn]] void refuse(const boost::system::error_code& error) {
  if (error == http::error::header_limit)
    throw ApiError(431, "the request's header is longer than this server takes", "", "header_too_long");
  if (error == http::error::body_limit)
    throw ApiError(413, "the request's body is longer than this server takes", "", "body_too_long");
  throw ApiError(400, "not a sound HTTP request: " + error.message(), "", "invalid_http");
}

}  // namespace

bool HttpReader::feed(std::string& bytes) {
  auto& parser = state_->parser;
  size_t used = 0;
  while (!parser.is_done() && used < bytes.size()) {
    boost::system::error_code error;
    const size_t taken = parser.put(boost::asio::buffer(bytes.data() + used, bytes.size() - used), error);
    used += taken;
    if (error == http::error::need_more) break;
    if (error) refuse(error);
    if (taken == 0) break;
  }
  bytes.erase(0, used);
  if (!parser.is_header_done()) return false;
  // Anything but plain chunks is read differently by different programs, which is how requests are smuggled.
  const auto& fields = parser.get();
  const auto encoding = fields.find(http::field::transfer_encoding);
  if (encoding != fields.end() && !boost::beast::iequals(encoding->value(), "chunked"))
    throw ApiError(400, "the only transfer encoding is chunked", "", "invalid_http");
  return parser.is_done();
}

bool HttpReader::has_header() const {
  return state_->parser.is_header_done();
}

bool HttpReader::wants_continue() const {
  const auto& parser = state_->parser;
  return parser.is_header_done() && !parser.is_done() &&
         boost::beast::iequals(parser.get()[http::field::expect], "100-continue");
}

int64_t HttpReader::body_bytes() const {
  return static_cast<int64_t>(state_->parser.get().body().size());
}

namespace {

// What a target says: "/path?query", or "http://host:port/path?query" as a proxy sends it, where the Host header does
// not count (RFC 9112, 3.2.2).
void read_target(std::string_view target, HttpRequest& request) {
  size_t scheme = 0;
  for (const std::string_view name : {"http://", "https://"})
    if (boost::beast::iequals(target.substr(0, name.size()), name)) scheme = name.size();
  if (scheme > 0) {
    target.remove_prefix(scheme);
    const std::string_view authority = target.substr(0, target.find_first_of("/?#"));
    if (authority.empty() || authority.starts_with(':') || authority.find('@') != authority.npos)
      throw ApiError(400, "the request's target names no host, or more than a host and a port", "", "invalid_http");
    request.host = std::string(authority);
    target.remove_prefix(authority.size());
  }
  request.path = std::string(target.substr(0, target.find_first_of("?#")));
  if (scheme > 0 && request.path.empty()) request.path = "/";
}

}  // namespace

HttpRequest HttpReader::take() {
  auto message = state_->parser.release();
  HttpRequest request;
  request.method = std::string(message.method_string());
  request.host = std::string(message[http::field::host]);
  read_target({message.target().data(), message.target().size()}, request);
  request.authorization = std::string(message[http::field::authorization]);
  request.content_type = std::string(message[http::field::content_type]);
  request.keep_alive = message.keep_alive();
  request.http_1_0 = message.version() < 11;
  request.body = std::move(message.body());
  return request;
}

std::string_view http_reason(int status) {
  const auto reason = http::obsolete_reason(static_cast<http::status>(status));
  return {reason.data(), reason.size()};
}

std::string http_answer(int status, std::string_view content_type, std::string_view body, bool keep_alive,
                        std::string_view headers, bool head_only) {
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {}\r\nX-Content-Type-Options: "
      "nosniff\r\n{}\r\n{}",
      status, http_reason(status), content_type, body.size(), keep_alive ? "keep-alive" : "close", headers,
      head_only ? std::string_view{} : body);
}

std::string http_stream_head(bool chunked, bool keep_alive) {
  return fmt::format(
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n"
      "X-Accel-Buffering: no\r\nConnection: {}\r\n{}\r\n",
      keep_alive ? "keep-alive" : "close", chunked ? "Transfer-Encoding: chunked\r\n" : "");
}

}  // namespace qg
