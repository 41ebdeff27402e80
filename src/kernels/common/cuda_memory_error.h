#pragma once
#include "core/error.h"

namespace qg {

// There was not enough memory on the device for a DeviceBuffer.
class DeviceMemoryError : public Error {
 public:
  using Error::Error;
};

}  // namespace qg
