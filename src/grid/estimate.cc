#include "grid/estimate.h"

#include <algorithm>

#include "core/parallel.h"
#include "grid/memory.h"
#include "grid/roofline.h"

namespace qg {
namespace {

// Measured on ordinary machines, rounded: matrix products of a CPU thread, its share of memory traffic in decode, and
// what a local disk reads and writes.
constexpr double kCpuFlopsPerThread = 25e9;
constexpr double kCpuBytesPerSecond = 8e9;
constexpr double kDiskBytesPerSecond = 1e9;
// Candidates that the searches try on their sample of tokens: AWQ's alphas and clips, SmoothQuant's alphas.
constexpr double kAwqCandidates = 30, kSmoothQuantCandidates = 6;
// Shares of the roofline and of the serial model that a run is assumed to reach.
constexpr double kDecodeShare = 0.6, kThroughputShare = 0.75;
// Of a throughput workload where nothing better can be said.
constexpr double kSteadySeconds = 40;

double forward_flops(const Card& card) {
  if (card.is_cpu()) return kCpuFlopsPerThread * num_threads();
  return 1e12 * card.fp16_tflops * card.efficiency.fp16 * 0.5;  // calibration runs small batches with taps
}

// Seconds for one forward pass over `tokens` tokens; the model computes logits for `scored` of them.
double pass_seconds(const ModelShape& shape, const Card& card, double tokens, double scored) {
  const double operations = 2 * (static_cast<double>(shape.linear_params()) * tokens +
                                 static_cast<double>(shape.embedding_params()) * scored);
  return operations / forward_flops(card);
}

double decode_step_seconds(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv,
                           const Workload& w) {
  const double context = static_cast<double>(w.isl_tokens) + static_cast<double>(w.osl_tokens) / 2;
  if (const auto tok_s = decode_tok_s(shape, card, weights, kv, w.batch, context))
    return static_cast<double>(w.batch) / (*tok_s * kDecodeShare);
  // The CPU reference computes in float: it reads 4 bytes a weight, or multiplies, whichever takes longer.
  const double params = static_cast<double>(shape.linear_params() + shape.embedding_params());
  return std::max(4 * params / kCpuBytesPerSecond,
                  2 * params * static_cast<double>(w.batch) / (kCpuFlopsPerThread * num_threads()));
}

double workload_seconds(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv,
                        const Workload& w) {
  const double isl = static_cast<double>(w.isl_tokens), osl = static_cast<double>(w.osl_tokens);
  const double sequences = static_cast<double>(w.batch);
  const double rounds = w.rounds + 1;  // one to warm up
  const double prefill = pass_seconds(shape, card, isl * sequences, sequences);
  if (w.kind == WorkloadKind::prefill) return rounds * prefill;
  if (w.kind == WorkloadKind::rate)  // arrivals take as long as they take, the last one its own reply
    return static_cast<double>(w.requests + rate_warm_up(w.requests)) / w.rate_per_s + prefill +
           osl * decode_step_seconds(shape, card, weights, kv, w);
  if (w.kind == WorkloadKind::decode)
    return rounds * (prefill + osl * decode_step_seconds(shape, card, weights, kv, w));
  const auto serial = serial_throughput(shape, card, weights, kv, w.isl_tokens, w.osl_tokens);
  if (!serial || serial->output_tok_s <= 0) return kSteadySeconds * w.rounds;
  return w.rounds * static_cast<double>(throughput_requests(w)) * osl / (serial->output_tok_s * kThroughputShare);
}

}  // namespace

double quantize_seconds(const ModelShape& shape, const Card& card, WeightFormat weights,
                        const CalibrationSettings& calibration) {
  if (weights == WeightFormat::fp16) return 0;
  const double tokens = static_cast<double>(calibration.samples) * static_cast<double>(calibration.sample_tokens);
  const double searched = std::min(tokens, static_cast<double>(calibration.search_tokens));
  const double candidates = weights == WeightFormat::int4_awq  ? kAwqCandidates
                            : weights == WeightFormat::int8_sq ? kSmoothQuantCandidates
                                                               : 0;
  const double moved = static_cast<double>(checkpoint_disk_bytes(shape, WeightFormat::fp16)) +
                       static_cast<double>(checkpoint_disk_bytes(shape, weights));
  return pass_seconds(shape, card, tokens + candidates * searched, 0) + moved / kDiskBytesPerSecond;
}

double run_seconds(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv, const Grid& grid,
                   Profile profile) {
  double seconds = static_cast<double>(checkpoint_disk_bytes(shape, weights)) / kDiskBytesPerSecond;
  for (const Workload& w : grid.workloads_of(profile)) seconds += workload_seconds(shape, card, weights, kv, w);
  if (!grid.accuracy.text.empty()) {
    const double tokens = static_cast<double>(grid.accuracy.windows) * static_cast<double>(grid.accuracy.window_tokens);
    seconds += 2 * pass_seconds(shape, card, tokens, tokens);  // the case and the base that it is compared with
  }
  return seconds;
}

}  // namespace qg
