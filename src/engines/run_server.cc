#include "engines/run_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "engines/run_card.h"

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kMostReplyBytes = 1 << 20;
constexpr double kAskEverySeconds = 0.2;
constexpr auto kReadEvery = std::chrono::milliseconds(20);
constexpr double kAskLimitSeconds = 2;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

struct Socket {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ~Socket() {
    if (fd >= 0) ::close(fd);
  }
};

// Free now; somebody may take it before the server does, which then says so in its log.
int free_port() {
  Socket socket;
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  if (socket.fd < 0 || ::bind(socket.fd, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(socket.fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw Error(std::string("no free port: ") + std::strerror(errno), "127.0.0.1", "", ExitCode::cannot_here);
  return ntohs(address.sin_port);
}

// The name under which a server lists its model; empty when it lists none.
std::string listed_model(int port) {
  const auto reply = plain_get(port, "/v1/models", kAskLimitSeconds);
  if (!reply || reply->status != 200) return {};
  const Json list = Json::parse(reply->body, nullptr, false);
  if (!list.is_object() || !list.contains("data") || !list.at("data").is_array() || list.at("data").empty()) return {};
  const Json& first = list.at("data").front();
  return first.is_object() && first.contains("id") && first.at("id").is_string() ? first.at("id").get<std::string>()
                                                                                 : "";
}

}  // namespace

std::optional<PlainReply> plain_get(int port, const std::string& target, double limit_s) {
  Socket socket;
  const sockaddr_in address = loopback(port);
  if (socket.fd < 0 || ::connect(socket.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return std::nullopt;
  const std::string request =
      fmt::format("GET {} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nAccept: */*\r\nConnection: close\r\n\r\n", target, port);
  if (::send(socket.fd, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    return std::nullopt;
  const auto until = Clock::now() + std::chrono::duration<double>(limit_s);
  std::string text;
  while (text.size() < kMostReplyBytes) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    pollfd wait{socket.fd, POLLIN, 0};
    if (left <= 0 || ::poll(&wait, 1, static_cast<int>(left)) <= 0) return std::nullopt;
    char buffer[4096];
    const ssize_t got = ::recv(socket.fd, buffer, sizeof buffer, 0);
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  const size_t head = text.find("\r\n\r\n");
  if (!text.starts_with("HTTP/1.") || text.size() < 12 || head == std::string::npos) return std::nullopt;
  PlainReply reply;
  for (char c : text.substr(9, 3)) {
    if (c < '0' || c > '9') return std::nullopt;
    reply.status = reply.status * 10 + (c - '0');
  }
  reply.body = text.substr(head + 4);
  return reply;
}

EngineServer::EngineServer(const EngineCase& e, double limit_s, const std::string& gpu) {
  port_ = free_port();
  const ServeCommand serve = serve_command(e, port_);
  health_ = serve.health;
  std::filesystem::create_directories(serve.folder);
  for (const WrittenFile& file : serve.files) write_file(file.path, file.text);
  ProcessSpec spec;
  spec.argv = serve.command.argv;
  spec.log = serve.log;
  spec.environment = card_environment(gpu);
  spec.on_line = [this](std::string_view line) { return log_.take_line(line); };
  const auto start = Clock::now();
  process_ = std::make_unique<Process>(std::move(spec));
  const auto waited = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  for (;;) {
    if (process_->wait(kAskEverySeconds)) {
      RunEnd end = judge_end(process_->result(), log_, limit_s);
      if (end.status == CaseStatus::ok) end = {CaseStatus::failed, "ended", "the server ended before it was up"};
      start_run_ = failed_run(end.status, end.code, end.reason);
      break;
    }
    if (is_well()) {
      ServerAddress address;
      address.url = fmt::format("http://127.0.0.1:{}", port_);
      address.model = listed_model(port_);
      if (address.model.empty()) address.model = e.model_id;
      address.vocab = e.shape ? e.shape->vocab : 0;
      address_ = std::move(address);
      break;
    }
    if (interrupted()) {
      process_->end();
      stop_if_interrupted("the server is started again");
    }
    if (waited() > limit_s) {
      process_->end(ProcessEnd::limit);
      const RunEnd end = judge_end(process_->result(), log_, limit_s);
      start_run_ = failed_run(end.status, end.code, fmt::format("the server was not up: {}", end.reason));
      break;
    }
  }
  start_run_.engine_version = log_.version();
  start_run_.seconds = waited();
  if (is_up()) reader_ = read_on(*process_, mutex_, problem_);
}

EngineLog EngineServer::log() const {
  const std::lock_guard lock(mutex_);
  return log_;
}

std::optional<RunEnd> EngineServer::died() {
  const std::lock_guard lock(mutex_);
  if (problem_) std::rethrow_exception(problem_);
  if (!process_->wait(0)) return std::nullopt;
  RunEnd end = judge_end(process_->result(), log_, 0);
  if (end.status == CaseStatus::ok) end = {CaseStatus::failed, "ended", "the server ended by itself"};
  return end;
}

bool EngineServer::recovers(double limit_s) {
  const auto until = Clock::now() + std::chrono::duration<double>(limit_s);
  while (!died()) {
    if (is_well()) return !died();
    if (Clock::now() > until) return false;
    std::this_thread::sleep_for(kReadEvery);
  }
  return false;
}

bool EngineServer::is_well() const {
  const auto reply = plain_get(port_, health_, kAskLimitSeconds);
  return reply && reply->status == 200;
}

}  // namespace qg
