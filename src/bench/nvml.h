#pragma once
// The NVIDIA driver's own library, loaded at run time: what GPUs are here. A machine without a driver is an ordinary
// answer, not an error.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qg {

struct GpuDevice {
  int index = 0;
  std::string name;  // product name: "NVIDIA L4"
  std::string uuid;
  int cc_major = 0, cc_minor = 0;
  int64_t memory_bytes = 0;
};

struct GpuInventory {
  bool driver_found = false;   // libnvidia-ml.so.1 was loaded and answered
  std::string driver_version;  // "580.65.06"
  int cuda_version = 0;        // the newest CUDA that the driver runs, as CUDA numbers them: 13000 is 13.0; 0: unknown
  std::vector<GpuDevice> devices;
  std::string problem;  // why there is no driver, or why a device could not be read; empty when all is well
};

GpuInventory list_gpus();

// What a GPU has used so far, read through NVML while something runs on it. Empty where the driver does not say.
struct GpuReading {
  std::optional<double> energy_j;  // since the driver was loaded
  std::optional<int64_t> memory_used_bytes;
  std::optional<double> sm_mhz, temperature_c, power_w;
};

// Whether a GPU is free to do what it can. Empty where the driver does not say.
struct GpuConditions {
  std::optional<int64_t> other_processes;  // that compute on it, this one left out
  std::optional<double> power_limit_w, default_power_limit_w;
  std::optional<bool> ecc;
  std::vector<std::string> slowed_by;  // what holds its clocks down now: "heat", "power cap"
};

class GpuMeter {
 public:
  // uuid: "GPU-…", as CUDA and NVML both say it (they count cards differently: CUDA_VISIBLE_DEVICES). Without a driver
  // or such a card readings are empty.
  explicit GpuMeter(const std::string& uuid);
  ~GpuMeter();
  GpuMeter(const GpuMeter&) = delete;
  GpuMeter& operator=(const GpuMeter&) = delete;
  GpuReading read() const;
  GpuConditions conditions() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qg
