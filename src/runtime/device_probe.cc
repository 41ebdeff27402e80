#include "runtime/device_probe.h"

#include "core/error.h"

namespace qg {

#ifndef QG_WITH_CUDA  // cuda_probe.cc has the other one
namespace {

[[noreturn]] void refuse(int index) {
  throw Error("this build cannot run anything on a GPU", "GPU " + std::to_string(index),
              "use quantgrid-cuda ('make gpu' builds it)", ExitCode::cannot_here);
}

}  // namespace

std::vector<std::string> visible_devices() {
  return {};
}
DeviceProbe probe_device(int index) {
  refuse(index);
}
std::string device_uuid(int index) {
  refuse(index);
}
#endif

}  // namespace qg
