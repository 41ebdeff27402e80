#pragma once
// An HTTP server in this process that says what a test tells it to, however wrong. A thread for each connection.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace qg {

struct RudeRequest {
  std::string head, body;
  int number = 0;  // of all requests to the completions; 0 is the first

  bool asks(std::string_view path) const { return head.find(" " + std::string(path) + " ") != std::string::npos; }
};

class RudeServer {
 public:
  // What to send for a request to /v1/completions; "" closes the connection without a word.
  using Say = std::function<std::string(const RudeRequest&)>;

  explicit RudeServer(Say say) : say_(std::move(say)) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(listener_, 512) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) != 0)
      std::abort();
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~RudeServer() {
    ending_ = true;
    acceptor_.join();
    close(listener_);
    for (std::thread& thread : threads_) thread.join();
  }

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  int completions() const { return completions_; }  // requests so far
  int connections() const { return connections_; }
  std::string models = R"({"object":"list","data":[{"id":"m","object":"model","owned_by":"rude"}]})";
  std::string version = R"({"version":"1.2"})";

 private:
  static bool readable(int fd) {
    pollfd wait{fd, POLLIN, 0};
    return poll(&wait, 1, 20) > 0;
  }

  void accept_all() {
    while (!ending_) {
      if (!readable(listener_)) continue;
      const int fd = accept(listener_, nullptr, nullptr);
      if (fd < 0) continue;
      ++connections_;
      threads_.emplace_back([this, fd] {
        serve(fd);
        close(fd);
      });
    }
  }

  // One request after the other until the client or say_ ends it.
  void serve(int fd) {
    std::string in;
    while (!ending_) {
      RudeRequest request;
      size_t end = 0, length = 0;
      for (;;) {
        end = in.find("\r\n\r\n");
        if (end != std::string::npos) {
          const size_t at = in.find("Content-Length: ");
          length = at < end ? std::strtoull(in.c_str() + at + 16, nullptr, 10) : 0;
          if (in.size() >= end + 4 + length) break;
        }
        if (ending_) return;
        if (!readable(fd)) continue;
        char buffer[4096];
        const ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0) return;
        in.append(buffer, static_cast<size_t>(got));
      }
      request.head = in.substr(0, end);
      request.body = in.substr(end + 4, length);
      in.erase(0, end + 4 + length);
      std::string reply;
      if (request.asks("/v1/models")) {
        reply = json(models);
      } else if (request.asks("/version")) {
        reply = json(version);
      } else if (request.head.starts_with("GET ")) {
        reply = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
      } else {
        request.number = completions_++;
        reply = say_(request);
      }
      if (reply.empty()) return;
      const bool hold = reply.ends_with(kHold), drop = reply.ends_with(kDrop);
      if (hold || drop) reply.resize(reply.size() - kHold.size());
      // In small pieces, as networks cut them.
      for (size_t at = 0; at < reply.size(); at += 37) {
        const std::string_view piece = std::string_view(reply).substr(at, 37);
        if (send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) return;
      }
      while (hold && !ending_) {
        if (!readable(fd)) continue;
        char buffer[64];
        if (recv(fd, buffer, sizeof buffer, 0) <= 0) return;
      }
      if (drop || reply.find("Connection: close") != std::string::npos) return;
    }
  }

 public:
  // At the end of what is to be said: the connection stays open and silent, or is closed.
  static constexpr std::string_view kHold = "<HOLD>", kDrop = "<DROP>";

  static std::string json(const std::string& body, const std::string& status = "200 OK") {
    return "HTTP/1.1 " + status +
           "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  static std::string chunk(const std::string& bytes) {
    char size[20];
    snprintf(size, sizeof size, "%zx\r\n", bytes.size());
    return size + bytes + "\r\n";
  }
  static std::string stream_head() {
    return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
  }
  static std::string event(const std::string& data) { return chunk("data: " + data + "\n\n"); }
  static std::string piece(const std::string& text) {
    return event(R"({"choices":[{"index":0,"text":")" + text + R"(","finish_reason":null}]})");
  }
  static std::string finish(const std::string& more = "") {
    return event(R"({"choices":[{"index":0,"text":"","finish_reason":"length"}]})") + more + event("[DONE]") +
           chunk("");
  }
  // A sound stream of `tokens` tokens with the count at the end.
  static std::string good(int tokens, int prompt = 8) {
    std::string text = stream_head();
    for (int i = 0; i < tokens; ++i) text += piece("a");
    return text + finish(event(R"({"choices":[],"usage":{"prompt_tokens":)" + std::to_string(prompt) +
                               R"(,"completion_tokens":)" + std::to_string(tokens) + "}}"));
  }

 private:
  Say say_;
  int listener_ = -1, port_ = 0;
  std::atomic<bool> ending_ = false;
  std::atomic<int> completions_ = 0, connections_ = 0;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

// The number behind "key": in a request's body; -1 when it is not there.
inline int64_t number_in(const std::string& body, const std::string& key) {
  const size_t at = body.find("\"" + key + "\":");
  return at == std::string::npos ? -1 : std::atoll(body.c_str() + at + key.size() + 3);
}

}  // namespace qg
