#pragma once
// Progress on standard error: a bar on a terminal, a plain line now and then elsewhere, or nothing. Quiet for the first
// two seconds, so that short work prints nothing.
#include <chrono>
#include <cstdint>
#include <string>

namespace qg {

enum class ProgressMode { automatic, bar, plain, none };
void set_progress_mode(ProgressMode mode);  // from --progress

class Progress {
 public:
  // what: "quantize layers"; unit: "tokens". total <= 0: unknown.
  Progress(std::string what, int64_t total, std::string unit = {});
  ~Progress();  // ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(int64_t by = 1);
  void note(std::string text);  // shown behind the bar ("layer 3: down")

 private:
  void print(bool last);
  std::string what_, unit_, note_;
  int64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point start_, printed_;
  bool shown_ = false;
};

}  // namespace qg
