#include "core/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;

ProgressMode mode = ProgressMode::automatic;

ProgressMode effective_mode() {
  if (mode != ProgressMode::automatic) return mode;
  return ::isatty(STDERR_FILENO) ? ProgressMode::bar : ProgressMode::plain;
}

double seconds_between(Clock::time_point a, Clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  return whole >= 3600 ? fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
                       : fmt::format("{}:{:02}", whole / 60, whole % 60);
}

}  // namespace

void set_progress_mode(ProgressMode wanted) {
  mode = wanted;
}

Progress::Progress(std::string what, int64_t total, std::string unit)
    : what_(std::move(what)), unit_(std::move(unit)), total_(total), start_(Clock::now()), printed_(start_) {}

Progress::~Progress() {
  if (shown_) print(true);
}

void Progress::advance(int64_t by) {
  done_ += by;
  print(false);
}

void Progress::note(std::string text) {
  note_ = std::move(text);
  print(false);
}

void Progress::print(bool last) {
  const ProgressMode how = effective_mode();
  if (how == ProgressMode::none) return;
  const auto now = Clock::now();
  const double elapsed = seconds_between(start_, now);
  const double interval = how == ProgressMode::bar ? 0.1 : 10.0;
  if (!last && (elapsed < 2.0 || (shown_ && seconds_between(printed_, now) < interval))) return;
  printed_ = now;
  shown_ = true;

  std::string text = what_;
  if (total_ > 0) {
    const double share = static_cast<double>(done_) / static_cast<double>(total_);
    if (how == ProgressMode::bar) {
      constexpr int kWidth = 24;
      const int full = std::min(kWidth, static_cast<int>(share * kWidth));
      std::string bar;
      for (int i = 0; i < kWidth; ++i) bar += i < full ? "█" : "░";
      text += " " + bar;
    }
    text += fmt::format(" {}/{}", done_, total_);
    if (!unit_.empty()) text += " " + unit_;
    text += " " + clock_text(elapsed);
    if (done_ > 0 && done_ < total_) text += ", left " + clock_text(elapsed * (1 - share) / share);
  } else {
    text += fmt::format(" {} {} {}", done_, unit_, clock_text(elapsed));
  }
  if (!note_.empty() && !last) text += "  " + note_;
  if (how == ProgressMode::bar)
    std::fprintf(stderr, "\r\033[K%s%s", text.c_str(), last ? "\n" : "");
  else
    std::fprintf(stderr, "%s\n", text.c_str());
  std::fflush(stderr);
}

}  // namespace qg
