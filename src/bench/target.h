#pragma once
// What load is put on: the native engine in this process, or (src/engines) another engine behind an API. One interface,
// so that every engine is measured by the same clock, workload and arithmetic.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace qg {

struct LoadEvent {
  int64_t request = 0;  // as submit() returned it
  int64_t tokens = 0;   // output tokens that came with this event (1 for the native engine)
  EngineClock::time_point time;
  bool finished = false;
  std::string error;  // not empty when the request failed
};

class LoadTarget {
 public:
  virtual ~LoadTarget() = default;
  virtual int64_t submit(std::vector<int32_t> prompt, int64_t output_tokens) = 0;  // end-of-text ids are ignored
  // Waits for events until one came or `deadline` passed; false when nothing is in flight.
  virtual bool poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) = 0;
  virtual int64_t vocab() const = 0;
  virtual double achieved_batch() const = 0;  // mean sequences per step since reset_statistics(); 0 = unknown
  virtual void reset_statistics() = 0;
  virtual std::vector<std::string> kernels() const = 0;
  virtual std::string compute_path() const = 0;
  virtual double device_seconds() const { return 0; }  // for which a GPU worked, in all; 0 = unknown
};

class NativeTarget : public LoadTarget {
 public:
  explicit NativeTarget(Engine& engine) : engine_(engine) {}
  int64_t submit(std::vector<int32_t> prompt, int64_t output_tokens) override;
  bool poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) override;
  int64_t vocab() const override;
  double achieved_batch() const override;
  void reset_statistics() override;
  std::vector<std::string> kernels() const override;
  std::string compute_path() const override;
  double device_seconds() const override;

 private:
  Engine& engine_;
  int64_t steps_before_ = 0, batch_sum_before_ = 0;
};

}  // namespace qg
