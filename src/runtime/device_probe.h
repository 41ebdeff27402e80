#pragma once
// What a card really does, against which shares of its limits are taken: `quantgrid doctor --probe`.
#include <string>
#include <vector>

namespace qg {

// UUIDs of the cards that CUDA shows this program, in CUDA's order; empty where this build or machine has none.
std::vector<std::string> visible_devices();

// "GPU-…" of CUDA device `index`, the name that NVML knows it by too. Throws Error like probe_device.
std::string device_uuid(int index);

struct DeviceProbe {
  double copy_gbps = 0;  // device to device, bytes read plus bytes written
  double read_gbps = 0;
  double f16_tflops = 0, fp8_tflops = 0, int8_tops = 0;  // cuBLASLt, 8,192 cubed; 0 where the card or library has none
};

// A second and 2 GB on CUDA device `index`. Throws Error (exit code 4) when this build or machine has no such device.
DeviceProbe probe_device(int index);

}  // namespace qg
