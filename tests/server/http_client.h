#pragma once
// A client of plain sockets, so that tests can be as rude as clients are.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "tests/sanitized.h"

namespace qg {

struct HttpReply {
  int status = 0;                              // 0: none came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks put together
  bool whole = false;                          // it ended as its headers say it should
  Json json() const { return Json::parse(body); }
};

class HttpClient {
 public:
  // receive_buffer_bytes: small ones make a slow reader out of this client.
  explicit HttpClient(uint16_t port, int receive_buffer_bytes = 0) {
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer_bytes > 0)
      setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  ~HttpClient() { close_now(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient(HttpClient&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)), connected_(other.connected_), in_(std::move(other.in_)) {}
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return connected_; }
  int fd() const { return socket_; }
  void close_now() {
    if (socket_ >= 0) close(std::exchange(socket_, -1));
  }
  void reset() {  // RST in place of FIN
    const linger abrupt{1, 0};
    setsockopt(socket_, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
    close_now();
  }
  void end_sending() { shutdown(socket_, SHUT_WR); }

  bool send_bytes(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  // More bytes into `in_`; false at the end, on an error, or when none came in time.
  bool receive(double seconds = 20) {
    pollfd wait{socket_, POLLIN, 0};
    if (poll(&wait, 1, static_cast<int>(seconds * 1000) * kSlowdown) <= 0) return false;
    char buffer[16384];
    const ssize_t got = recv(socket_, buffer, sizeof buffer, 0);
    if (got <= 0) {
      ended_ = true;
      return false;
    }
    in_.append(buffer, static_cast<size_t>(got));
    return true;
  }
  bool ended() const { return ended_; }  // the server has closed
  const std::string& received() const { return in_; }

  // Waits until `text` has come.
  bool receive_until(std::string_view text) {
    while (in_.find(text) == std::string::npos)
      if (!receive()) return false;
    return true;
  }

  HttpReply read_reply(bool head_only = false) {
    HttpReply reply;
    if (!receive_until("\r\n\r\n")) return reply;
    const size_t end = in_.find("\r\n\r\n");
    read_head(in_.substr(0, end), reply);
    in_.erase(0, end + 4);
    if (head_only) {
      reply.whole = true;
    } else if (reply.headers.contains("transfer-encoding")) {
      reply.whole = read_chunks(reply.body);
    } else if (reply.headers.contains("content-length")) {
      const size_t length = std::stoull(reply.headers["content-length"]);
      while (in_.size() < length && receive()) {
      }
      reply.whole = in_.size() >= length;
      reply.body = in_.substr(0, length);
      in_.erase(0, length);
    } else {
      while (receive()) {
      }
      reply.whole = ended_;
      reply.body = std::exchange(in_, {});
    }
    return reply;
  }

  HttpReply get(const std::string& path, const std::string& headers = {}) {
    send_bytes("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n");
    return read_reply();
  }
  static std::string post_text(const std::string& path, const std::string& body, const std::string& headers = {}) {
    return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + headers +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  HttpReply post(const std::string& path, const Json& body, const std::string& headers = {}) {
    send_bytes(post_text(path, body.dump(), headers));
    return read_reply();
  }

 private:
  static void read_head(const std::string& head, HttpReply& reply) {
    if (head.size() > 12) reply.status = std::atoi(head.substr(9, 3).c_str());
    for (size_t at = head.find("\r\n"); at != std::string::npos; at = head.find("\r\n", at + 2)) {
      const std::string line = head.substr(at + 2, head.find("\r\n", at + 2) - at - 2);
      const size_t colon = line.find(": ");
      if (colon == std::string::npos) continue;
      std::string name = line.substr(0, colon);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      reply.headers[name] = line.substr(colon + 2);
    }
  }

  bool read_chunks(std::string& body) {
    for (;;) {
      if (!receive_until("\r\n")) return false;
      const size_t line = in_.find("\r\n"), length = std::stoull(in_, nullptr, 16);
      while (in_.size() < line + 2 + length + 2)
        if (!receive()) {
          body += in_.substr(line + 2);  // what came of a broken-off chunk
          return false;
        }
      EXPECT_EQ(in_.substr(line + 2 + length, 2), "\r\n");
      body += in_.substr(line + 2, length);
      in_.erase(0, line + 2 + length + 2);
      if (length == 0) return true;
    }
  }

  int socket_ = -1;
  bool connected_ = false, ended_ = false;
  std::string in_;
};

// The events of a stream; checks their framing and that the last one is [DONE].
inline std::vector<Json> sse_events(const std::string& body) {
  std::vector<Json> events;
  bool done = false;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find("\n\n", at);
    if (end == std::string::npos) {
      ADD_FAILURE() << "an event without an end: " << body.substr(at);
      break;
    }
    const std::string event = body.substr(at, end - at);
    at = end + 2;
    if (event.starts_with(":")) continue;
    EXPECT_FALSE(done) << "after [DONE]: " << event;
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    done = event == "data: [DONE]";
    if (!done) events.push_back(Json::parse(event.substr(6)));
  }
  EXPECT_TRUE(done) << "no [DONE]";
  return events;
}

// The text of one choice of a stream.
inline std::string streamed_text(const std::vector<Json>& events, int64_t index = 0) {
  std::string text;
  for (const Json& event : events)
    for (const Json& choice : event["choices"]) {
      if (choice["index"] != index) continue;
      if (choice.contains("text")) text += choice["text"].get<std::string>();
      if (choice.contains("delta") && choice["delta"].contains("content"))
        text += choice["delta"]["content"].get<std::string>();
    }
  return text;
}

}  // namespace qg
