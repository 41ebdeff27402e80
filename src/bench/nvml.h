#pragma once
// The NVIDIA driver's own library, loaded at run time: what GPUs are here. A machine without a driver is an ordinary
// answer, not an error.
#include <cstdint>
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
  std::vector<GpuDevice> devices;
  std::string problem;  // why there is no driver, or why a device could not be read; empty when all is well
};

GpuInventory list_gpus();

}  // namespace qg
