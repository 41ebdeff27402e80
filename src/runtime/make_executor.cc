#include "runtime/make_executor.h"

#include "core/error.h"
#include "runtime/compute_type.h"
#include "runtime/cpu_executor.h"

namespace qg {

#ifdef QG_WITH_CUDA
bool has_cuda_executor() {
  return true;
}
#else
bool has_cuda_executor() {
  return false;
}
#endif

std::unique_ptr<Executor> make_executor(const std::string& name, std::shared_ptr<const Checkpoint> checkpoint,
                                        const ExecutorOptions& options,
                                        [[maybe_unused]] const CudaExecutorOptions& cuda) {
  check_compute_type(cuda.dtype, name, checkpoint->quant(), checkpoint->folder().string());
  if (name == "cpu") return make_cpu_executor(std::move(checkpoint), options);
#ifdef QG_WITH_CUDA
  if (name == "cuda") return make_cuda_executor(std::move(checkpoint), options, cuda);
#endif
  throw Error("this build has no " + name + " executor", "--executor " + name,
              "use quantgrid-cuda ('make gpu' builds it), or --executor cpu", ExitCode::cannot_here);
}

int64_t default_page_tokens(const std::string& name) {
  return name == "cuda" ? 64 : 16;
}

}  // namespace qg
