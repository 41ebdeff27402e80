#include "runtime/cuda_clock.h"

namespace qg {

void BusyClock::start(cudaStream_t stream) {
  read_until(stopped_ - 1);
  Step& step = at(stopped_);
  step.after_pause = true;
  if (stopped_ > 0) {
    const cudaError_t status = cudaEventQuery(at(stopped_ - 1).end.event);
    if (status != cudaErrorNotReady) QG_CUDA(status);
    step.after_pause = status == cudaSuccess;
  }
  if (step.after_pause) QG_CUDA(cudaEventRecord(step.begin.event, stream));
}

int64_t BusyClock::stop(cudaStream_t stream) {
  QG_CUDA(cudaEventRecord(at(stopped_).end.event, stream));
  return stopped_++;
}

void BusyClock::wait(int64_t step) const {
  QG_CUDA(cudaEventSynchronize(steps_[static_cast<size_t>(step) % kSteps].end.event));
}

double BusyClock::seconds() {
  read_until(stopped_);
  return seconds_;
}

void BusyClock::read_until(int64_t step) {
  for (; read_ < step; ++read_) {
    const Step& last = at(read_);
    QG_CUDA(cudaEventSynchronize(last.end.event));
    float milliseconds = 0;
    QG_CUDA(cudaEventElapsedTime(&milliseconds, last.after_pause ? last.begin.event : at(read_ - 1).end.event,
                                 last.end.event));
    seconds_ += 1e-3 * milliseconds;
  }
}

}  // namespace qg
