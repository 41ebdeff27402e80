#include "card_here.h"

#include "bench/nvml.h"
#include "runtime/device_probe.h"

namespace qg {

const Card* card_here(int device) {
  const std::string uuid = device_uuid(device);
  for (const GpuDevice& gpu : list_gpus().devices)
    if (gpu.uuid == uuid) return identify_card(gpu.name, gpu.cc_major, gpu.cc_minor, gpu.memory_bytes).card;
  return nullptr;
}

}  // namespace qg
