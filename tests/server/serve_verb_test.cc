// The program itself: what it says when it starts, that its replies are `quantgrid generate`'s, and how it ends.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "tests/cli/program.h"
#include "tests/sanitized.h"
#include "tests/server/http_client.h"

extern char** environ;

namespace qg {
namespace {

const std::filesystem::path kModel = std::filesystem::path(QG_SOURCE_DIR) / "tests/golden/models/llama-gqa1-tied-fp32";

// `quantgrid serve` as a process of its own, on a free port that it names.
class ServeProcess {
 public:
  explicit ServeProcess(std::vector<std::string> more = {}) : folder_(fresh_folder("serve")) {
    std::vector<std::string> words = {QG_BINARY, "serve", "--model", kModel.string(), "--port", "0", "--name", "tiny"};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    const std::string log = (folder_ / "log").string();
    posix_spawn_file_actions_addopen(&files, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (posix_spawn(&process_, QG_BINARY, &files, nullptr, arguments.data(), environ) != 0) process_ = -1;
    posix_spawn_file_actions_destroy(&files);
    const std::string mark = "http://127.0.0.1:";
    for (int i = 0; i < 1000 * kSlowdown && port == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const std::string text = this->log();
      if (const size_t at = text.find(mark); at != std::string::npos && text.find('\n', at) != std::string::npos)
        port = static_cast<uint16_t>(std::atoi(text.c_str() + at + mark.size()));
    }
  }
  ~ServeProcess() {
    if (process_ > 0) {
      kill(process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  std::string log() const { return read_text(folder_ / "log"); }
  void signal(int number) const { kill(process_, number); }
  // The exit code; -1 when it ended by a signal, -2 when it did not end in time.
  int wait(double seconds) {
    for (int i = 0; i < seconds * 100 * kSlowdown; ++i) {
      int status = 0;
      if (waitpid(process_, &status, WNOHANG) == process_) {
        process_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return -2;
  }

  uint16_t port = 0;

 private:
  std::filesystem::path folder_;
  pid_t process_ = -1;
};

Json request(const std::string& prompt, int64_t max_tokens) {
  return {{"model", "tiny"}, {"prompt", prompt}, {"max_tokens", max_tokens}, {"temperature", 0}};
}

TEST(ServeVerb, GreedyRepliesAreWhatGenerateSays) {
  ServeProcess server;
  ASSERT_NE(server.port, 0) << server.log();
  const std::filesystem::path folder = fresh_folder("serve-generate");
  for (const char* prompt : {"hello world", "x", "Grüße aus 北京"}) {
    const Outcome outcome = run_program(
        "generate --model '" + kModel.string() + "' --prompt '" + prompt + "' --max-tokens 40 --json", folder);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const Json expected = Json::parse(outcome.out);
    const Json got = HttpClient(server.port).post("/v1/completions", request(prompt, 40)).json();
    EXPECT_EQ(got["choices"][0]["text"], expected["text"]) << prompt;
    EXPECT_EQ(got["choices"][0]["finish_reason"], expected["finish"]) << prompt;
    EXPECT_EQ(got["usage"]["completion_tokens"], expected["output_tokens"]) << prompt;
  }
  std::filesystem::remove_all(folder);
}

TEST(ServeVerb, TermFinishesWhatRunsAndExitsWithZero) {
  ServeProcess server({"--max-queue", "100"});
  ASSERT_NE(server.port, 0) << server.log();
  std::vector<HttpClient> clients;
  for (int i = 0; i < 20; ++i) {
    clients.emplace_back(server.port);
    clients.back().send_bytes(HttpClient::post_text("/v1/completions", request("abc", 200).dump()));
  }
  ASSERT_EQ(HttpClient(server.port).get("/health").status, 200);
  server.signal(SIGTERM);
  int answered = 0;
  for (HttpClient& client : clients) {
    const HttpReply reply = client.read_reply();
    EXPECT_TRUE(reply.status == 200 || reply.status == 503) << reply.status;
    answered += reply.status == 200;
  }
  EXPECT_GT(answered, 0);
  EXPECT_EQ(server.wait(20), 0) << server.log();
  EXPECT_NE(server.log().find("stopped"), std::string::npos);
}

TEST(ServeVerb, IdleServerEndsAtOnce) {
  for (const int number : {SIGTERM, SIGINT}) {
    ServeProcess server;
    ASSERT_NE(server.port, 0) << server.log();
    HttpClient idle(server.port);
    EXPECT_EQ(idle.get("/health").status, 200);
    server.signal(number);
    EXPECT_EQ(server.wait(3), 0) << server.log();
  }
}

TEST(ServeVerb, SecondSignalDoesNotWait) {
  ServeProcess server({"--drain-timeout", "600"});
  ASSERT_NE(server.port, 0) << server.log();
  HttpClient busy(server.port);
  Json endless = request("abc", 250);
  endless["n"] = 100;
  endless["ignore_eos"] = true;
  busy.send_bytes(HttpClient::post_text("/v1/completions", endless.dump()));
  std::this_thread::sleep_for(std::chrono::milliseconds(100 * kSlowdown));
  server.signal(SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  server.signal(SIGTERM);
  EXPECT_EQ(server.wait(10), 0) << server.log();
}

TEST(ServeVerb, RefusesWhatItCannotDo) {
  ServeProcess server;
  ASSERT_NE(server.port, 0) << server.log();
  const std::filesystem::path folder = fresh_folder("serve-refuses");
  const std::string model = "serve --model '" + kModel.string() + "' ";
  struct Case {
    std::string arguments, message;
    int exit_code;
  };
  write_text(folder / "empty", "\n");
  for (const Case& c :
       {Case{model + "--port " + std::to_string(server.port), "cannot listen", 4},
        Case{model + "--host 192.0.2.1", "cannot listen", 4}, Case{model + "--host nonsense", "cannot listen", 4},
        Case{model + "--port 70000", "port", 1}, Case{model + "--api-key-file empty", "no key", 1},
        Case{model + "--api-key-file missing", "missing", 1}, Case{model + "--read-timeout -1", "read-timeout", 1},
        Case{"serve --model missing", "missing", 1}}) {
    const Outcome outcome = run_program(c.arguments, folder);
    EXPECT_EQ(outcome.exit_code, c.exit_code) << c.arguments << ": " << outcome.err;
    EXPECT_NE(outcome.err.find(c.message), std::string::npos) << c.arguments << ": " << outcome.err;
  }
  std::filesystem::remove_all(folder);
}

TEST(ServeVerb, KeyFromAFileIsAskedFor) {
  const std::filesystem::path folder = fresh_folder("serve-key");
  write_text(folder / "key", "secret\n");
  ServeProcess server({"--api-key-file", (folder / "key").string()});
  ASSERT_NE(server.port, 0) << server.log();
  EXPECT_EQ(HttpClient(server.port).get("/v1/models").status, 401);
  EXPECT_EQ(HttpClient(server.port).get("/v1/models", "Authorization: Bearer secret\r\n").status, 200);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace qg
