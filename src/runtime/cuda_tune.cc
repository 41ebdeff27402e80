#include "runtime/cuda_tune.h"

#include <array>

#include "core/error.h"
#include "core/log.h"
#include "core/version.h"
#include "kernels/common/cuda_cublaslt.h"
#include "runtime/cuda_forward.h"

namespace qg {

CudaTuning::CudaTuning(const CudaExecutorOptions& options, const DeviceCapabilities& device, CudaLinearContext& context)
    : tuned_(options.tuned), file_(options.tuning_file), context_(context) {
  if (!tuned_) return;
  identity_ = {device.name, to_string(device.family), device.multiprocessors, CublasLt::version(), kernels_hash()};
  if (file_.empty()) file_ = default_tuning_file(identity_);
  TuningRead read;
  if (!options.tune_anew) read = read_tuning(file_, identity_);
  if (!read.problem.empty()) info("tuning is measured again: {}", read.problem);
  context_.set_tuning(read.table, true);
}

void CudaTuning::measure(const CudaModel& model, int64_t max_rows, int64_t logit_rows) {
  const CudaLayer& layer = model.layers.front();
  const std::array layers{layer.qkv.get(), layer.attention_output.get(), layer.gate_up.get(), layer.down.get()};
  const TuningTable before = context_.tuning();
  if (tuned_)
    for (const int64_t m : tuned_rows(max_rows))
      for (CudaLinear* linear : layers) linear->tune(m);
  for (int64_t m = 16; m <= max_rows; m += m < 64 ? 16 : m < 512 ? 64 : m < 2048 ? 256 : 1024) {
    for (CudaLinear* linear : layers) linear->prepare(m);
    if (m <= logit_rows) model.lm_head->prepare(m, DType::f32);
  }
  const TuningTable after = context_.tuning();
  const size_t products = after.products.size() - before.products.size();
  const size_t routes = after.routes.size() - before.routes.size();
  if (!tuned_ || file_.empty() || products + routes == 0) return;
  try {
    write_tuning(file_, identity_, after);
    info("measured {} products and {} ways of layers: {} (`quantgrid devices --tuning` prints it)", products, routes,
         file_.string());
  } catch (const Error& e) {
    warn("what was measured is not kept: {}", e.what());
  }
}

}  // namespace qg
