#include "engines/serve_child.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <sstream>

#include "core/error.h"
#include "core/format.h"
#include "core/interrupt.h"

namespace qg {
namespace {

std::filesystem::path log_file() {
  static std::atomic<int> number = 0;
  return std::filesystem::temp_directory_path() / fmt::format("quantgrid-serve-{}-{}.log", getpid(), number++);
}

}  // namespace

ServeChild::ServeChild(ServeChildSpec spec) : spec_(std::move(spec)), log_(log_file()) {
  ProcessSpec child;
  child.argv = {spec_.program.string(), "serve", "--host", "127.0.0.1", "--port", "0"};
  child.argv.insert(child.argv.end(), spec_.flags.begin(), spec_.flags.end());
  child.log = log_;
  child.on_line = [this](std::string_view line) -> std::optional<double> {
    read(line);
    return std::nullopt;
  };
  process_ = std::make_unique<Process>(child);
  const auto start = std::chrono::steady_clock::now();
  while (url_.empty()) {
    const bool ended = process_->wait(0.1);
    if (!url_.empty()) break;
    const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!ended && !interrupted() && waited < spec_.start_limit_s) continue;
    process_->end();
    std::error_code ignored;
    std::filesystem::remove(log_, ignored);
    stop_if_interrupted("finished cases stay, this measurement starts again");
    if (!ended) throw Error(fmt::format("serve does not listen after {:.0f} s: {}", waited, last_words()));
    const ProcessResult& result = process_->result();
    throw Error(!result.problem.empty() ? result.problem
                                        : fmt::format("serve ended with {}: {}", result.code, last_words()));
  }
  reader_ = read_on(*process_, mutex_, problem_);
}

ServeChild::~ServeChild() {
  reader_.request_stop();
  if (reader_.joinable()) reader_.join();
  process_->end();
  std::error_code ignored;
  std::filesystem::remove(log_, ignored);
}

bool ServeChild::alive() {
  const std::lock_guard lock(mutex_);
  if (problem_) std::rethrow_exception(problem_);
  return !process_->wait(0);
}

std::string ServeChild::compute_path() const {
  const std::lock_guard lock(mutex_);
  return compute_path_;
}

std::string ServeChild::last_words() const {
  const std::lock_guard lock(mutex_);
  return lines_.empty() ? "it said nothing" : fmt::format("{}", fmt::join(lines_, "; "));
}

void ServeChild::read(std::string_view line) {
  constexpr std::string_view kListening = "listening on ";
  if (const size_t at = line.find(kListening); at != std::string_view::npos && url_.empty()) {
    const std::string_view rest = line.substr(at + kListening.size());
    url_ = rest.substr(0, rest.find(' '));
  } else if (line.find(" executor, ") != std::string_view::npos) {
    std::istringstream words{std::string(line)};
    for (std::string word; words >> word;) {
      if (word.ends_with(',')) word.pop_back();
      if (parse_compute_path(word)) compute_path_ = word;
    }
  }
  // An error has several lines: what, where, what to do.
  constexpr size_t kLines = 3, kLineBytes = 300;
  const size_t from = line.find_first_not_of(' ');
  if (from == std::string_view::npos) return;
  lines_.emplace_back(line.substr(from, kLineBytes));
  if (lines_.size() > kLines) lines_.erase(lines_.begin());
}

}  // namespace qg
