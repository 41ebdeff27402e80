#include "quantize/gpu_quantize.h"

#include "core/error.h"

namespace qg {

#ifndef QG_WITH_CUDA  // cuda_quantize.cc has the other one
GpuQuantizeReport quantize_on_gpu(const QuantizeJob&, const GpuQuantizeOptions&,
                                  const std::function<void(const std::string&)>&) {
  throw Error("this build cannot quantize on a GPU", "--executor cuda",
              "use quantgrid-cuda ('make gpu' builds it), or --executor cpu", ExitCode::cannot_here);
}
#endif

}  // namespace qg
