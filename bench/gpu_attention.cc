// Times of the attention kernels at the shape of Llama-3.1-8B (32 query heads, 8 KV heads, head size 128), pages of 64.
// `bench_gpu decode`, `prefill`, `append` and `append_decode`.
#include <cstdio>
#include <functional>
#include <string>

#include "bench/gpu.h"
#include "kernels/attention/cuda.h"
#include "kernels/kvcache/cuda.h"
#include "tests/gpu/paged_batch.h"

namespace qg::testing {
namespace {

constexpr int64_t kHeads = 32, kKvHeads = 8, kHeadDim = 128, kPageTokens = 64;
constexpr int64_t kRotatedBytes = int64_t{1} << 29;  // of caches that are read in turn: more than the L2 cache holds

AttentionDesc desc_of(KvFormat format) {
  AttentionDesc desc;
  desc.heads = kHeads;
  desc.kv = {format, kKvHeads, kHeadDim, kPageTokens};
  desc.score_scale = 0.08838834764831845;
  return desc;
}

// A batch whose cache is only on the device, every byte 0x21 (a small number in each format).
class SpeedBatch {
 public:
  SpeedBatch(const AttentionDesc& desc, int64_t pieces, int64_t num_tokens, int64_t kv_tokens)
      : pages_((kv_tokens + kPageTokens - 1) / kPageTokens),
        pool_bytes_(pieces * pages_ * desc.kv.page_bytes()),
        pools_(std::clamp<int64_t>(kRotatedBytes / pool_bytes_, 1, 32)),
        pool_(static_cast<size_t>(pools_ * pool_bytes_)),
        q_(static_cast<size_t>(pieces * num_tokens * kHeads * kHeadDim) * 2),
        out_(q_.bytes()) {
    std::vector<int32_t> first, num, kv, table, piece, position;
    for (int64_t i = 0; i < pieces; ++i) {
      first.push_back(static_cast<int32_t>(i * num_tokens));
      num.push_back(static_cast<int32_t>(num_tokens));
      kv.push_back(static_cast<int32_t>(kv_tokens));
      for (int64_t t = 0; t < num_tokens; ++t) {
        piece.push_back(static_cast<int32_t>(i));
        position.push_back(static_cast<int32_t>(kv_tokens - num_tokens + t));
      }
      host_.push_back({first.back(), num.back(), kv.back()});
    }
    for (int64_t i = 0; i < pieces * pages_; ++i) table.push_back(static_cast<int32_t>(i * 7919 % (pieces * pages_)));
    for (const auto* values : {&first, &num, &kv, &table, &piece, &position}) arrays_.emplace_back(*values);
    QG_CUDA(cudaMemset(pool_.data(), 0x21, pool_.bytes()));
    QG_CUDA(cudaMemset(q_.data(), 0x11, q_.bytes()));
  }

  CudaBatch view() const {
    return {arrays_[0].data(), arrays_[1].data(), arrays_[2].data(),           arrays_[3].data(),
            arrays_[4].data(), arrays_[5].data(), static_cast<int32_t>(pages_)};
  }
  std::byte* pool(int64_t layer) const { return pool_.data() + layer % pools_ * pool_bytes_; }
  const __half* q() const { return reinterpret_cast<const __half*>(q_.data()); }
  ActivationBuffer out() { return {out_.data(), nullptr}; }
  const std::vector<CudaPrefillPiece>& host() const { return host_; }
  int64_t pages() const { return pages_; }

 private:
  int64_t pages_, pool_bytes_, pools_;
  DeviceBuffer pool_, q_, out_;
  std::vector<DeviceVector<int32_t>> arrays_;
  std::vector<CudaPrefillPiece> host_;
};

// Microseconds of one of `count` calls that are captured in a graph.
double time_us(int64_t count, bool chained, const std::function<void(const CudaQueue&, int64_t)>& call) {
  CudaQueue queue;
  queue.chained = chained;
  QG_CUDA(cudaStreamCreate(&queue.stream));
  QG_CUDA(cudaStreamBeginCapture(queue.stream, cudaStreamCaptureModeThreadLocal));
  for (int64_t i = 0; i < count; ++i) call(queue, i);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  QG_CUDA(cudaStreamEndCapture(queue.stream, &graph));
  QG_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  QG_CUDA(cudaEventCreate(&begin));
  QG_CUDA(cudaEventCreate(&end));
  constexpr int kRuns = 5;
  QG_CUDA(cudaGraphLaunch(exec, queue.stream));
  QG_CUDA(cudaEventRecord(begin, queue.stream));
  for (int run = 0; run < kRuns; ++run) QG_CUDA(cudaGraphLaunch(exec, queue.stream));
  QG_CUDA(cudaEventRecord(end, queue.stream));
  QG_CUDA(cudaEventSynchronize(end));
  float ms = 0;
  QG_CUDA(cudaEventElapsedTime(&ms, begin, end));
  QG_CUDA(cudaEventDestroy(begin));
  QG_CUDA(cudaEventDestroy(end));
  QG_CUDA(cudaGraphExecDestroy(exec));
  QG_CUDA(cudaGraphDestroy(graph));
  QG_CUDA(cudaStreamDestroy(queue.stream));
  return 1000.0 * ms / (kRuns * static_cast<double>(count));
}

void run_decode() {
  DeviceCapabilities device = read_device_capabilities(0);
  for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm89, KernelFamily::sm90a})
    for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8})
      for (const int64_t pieces : {1, 8, 64, 256})
        for (const int64_t tokens : {128, 1150, 4096}) {
          device.family = family;
          const AttentionDesc desc = desc_of(format);
          SpeedBatch batch(desc, pieces, 1, tokens);
          CudaAttention attention(desc, device, pieces, pieces, batch.pages());
          const double us = time_us(32, true, [&](const CudaQueue& queue, int64_t layer) {
            attention.decode(queue, batch.view(), pieces, tokens, batch.q(), batch.pool(layer), {1, 1}, {},
                             batch.out());
          });
          const double bytes = static_cast<double>(2 * pieces * tokens * kKvHeads * kHeadDim * desc.kv.element_size());
          std::printf("decode %s %-24s B=%-3d L=%-4d %8.1f us %6.0f GB/s\n", to_string(family),
                      attention.kernel_name(true).c_str(), static_cast<int>(pieces), static_cast<int>(tokens), us,
                      bytes / us / 1000);
        }
}

void run_prefill() {
  struct Shape {
    int64_t pieces, num_tokens, context;
  };
  DeviceCapabilities device = read_device_capabilities(0);
  for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm90a})
    for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8})
      for (const Shape& s : std::vector<Shape>{{16, 512, 0}, {4, 2048, 0}, {1, 8192, 0}, {1, 2048, 6144}}) {
        device.family = family;
        const AttentionDesc desc = desc_of(format);
        const int64_t rows = s.pieces * s.num_tokens;
        SpeedBatch batch(desc, s.pieces, s.num_tokens, s.num_tokens + s.context);
        CudaAttention attention(desc, device, rows, s.pieces, batch.pages());
        attention.plan_prefill({}, batch.view(), 0, batch.host());
        QG_CUDA(cudaDeviceSynchronize());
        const double us = time_us(4, false, [&](const CudaQueue& queue, int64_t layer) {
          attention.prefill(queue, batch.view(), batch.q(), batch.pool(layer), {1, 1}, {}, batch.out());
        });
        const double n = static_cast<double>(s.num_tokens);
        const double pairs = static_cast<double>(s.pieces) * n * (static_cast<double>(s.context) + (n + 1) / 2);
        std::printf("prefill %s %-24s %2d x %-4d + %-4d %8.1f us %5.0f TFLOP/s\n", to_string(family),
                    attention.kernel_name(false).c_str(), static_cast<int>(s.pieces), static_cast<int>(s.num_tokens),
                    static_cast<int>(s.context), us, 4 * pairs * kHeads * kHeadDim / us / 1e6);
      }
}

// Matrices for each layer of a step, zeros: the times do not depend on what they hold.
struct SpeedShaping {
  static constexpr int64_t kLayers = 32, kMatrix = kKvHeads * kHeadDim * kHeadDim;
  DeviceBuffer center{kLayers * kKvHeads * kHeadDim * 4}, matrices{3 * kLayers * kMatrix * 2};
  SpeedShaping() {
    QG_CUDA(cudaMemset(center.data(), 0, center.bytes()));
    QG_CUDA(cudaMemset(matrices.data(), 0, matrices.bytes()));
  }
  CudaKvShaping layer(int64_t layer) const {
    const __half* from = matrices.as<__half>() + 3 * layer * kMatrix;
    return {center.as<float>() + layer * kKvHeads * kHeadDim, from, from + kMatrix, from + 2 * kMatrix};
  }
};

// What the QKV product leaves, in each of its rows the same, and angles.
struct SpeedQkv {
  static constexpr int64_t kStride = (kHeads + 2 * kKvHeads) * kHeadDim;
  DeviceVector<uint16_t> rows;
  DeviceVector<float2> table;
  SpeedQkv(int64_t count, int64_t positions)
      : rows(std::vector<uint16_t>(static_cast<size_t>(count * kStride), 0x3c01)),
        table(std::vector<float2>(static_cast<size_t>(positions * kHeadDim / 2), {0.6f, 0.8f})) {}
  CudaQkv view() const { return {reinterpret_cast<const __half*>(rows.data()), kStride, kHeads}; }
};

void time_append(KvFormat format, int64_t rows, const SpeedShaping* shaping) {
  const AttentionDesc desc = desc_of(format);
  SpeedBatch batch(desc, 1, rows, rows);
  const SpeedQkv qkv(rows, rows);
  DeviceBuffer pool(static_cast<size_t>(batch.pages() * desc.kv.page_bytes()));
  const double us = time_us(32, true, [&](const CudaQueue& queue, int64_t layer) {
    const CudaKvShaping view = shaping == nullptr ? CudaKvShaping{} : shaping->layer(layer);
    rope_and_append(queue, desc.kv, batch.view(), rows, qkv.view(), qkv.table.data(), {1, 1},
                    static_cast<__half*>(batch.out().values), pool.data(), shaping == nullptr ? nullptr : &view);
  });
  std::printf("append kv_%s%s rows=%-5d %8.1f us\n", std::string(to_string(format)).c_str(),
              shaping == nullptr ? "" : " shaped", static_cast<int>(rows), us);
}

void run_append() {
  const SpeedShaping shaping;
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8})
    for (const int64_t rows : {1, 2, 8, 16, 64, 256, 2048, 8192}) time_append(format, rows, nullptr);
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8})
    for (const int64_t rows : {1, 2, 8, 16, 17, 64, 128, 133, 256, 512, 1024, 2048})
      time_append(format, rows, &shaping);
}

// A decoding step's way from the QKV product's rows to attention's, in one launch and in two.
void time_append_and_decode(KvFormat format, int64_t pieces, int64_t tokens, const SpeedShaping* shaping) {
  const AttentionDesc desc = desc_of(format);
  SpeedBatch batch(desc, pieces, 1, tokens);
  const SpeedQkv qkv(pieces, tokens);
  const DeviceBuffer q(static_cast<size_t>(pieces * kHeads * kHeadDim) * 2);
  CudaAttention attention(desc, read_device_capabilities(0), pieces, pieces, batch.pages());
  double us[2];
  for (const bool fused : {false, true})
    us[fused] = time_us(32, true, [&](const CudaQueue& queue, int64_t layer) {
      const CudaKvShaping matrices = shaping == nullptr ? CudaKvShaping{} : shaping->layer(layer);
      const CudaKvShaping* view = shaping == nullptr ? nullptr : &matrices;
      std::byte* pool = batch.pool(layer);
      if (fused)
        return attention.append_and_decode(queue, batch.view(), pieces, tokens, qkv.view(), qkv.table.data(), pool,
                                           {1, 1}, view, {}, batch.out());
      rope_and_append(queue, desc.kv, batch.view(), pieces, qkv.view(), qkv.table.data(), {1, 1}, q.as<__half>(), pool,
                      view);
      attention.decode(queue, batch.view(), pieces, tokens, q.as<__half>(), pool, {1, 1}, {}, batch.out());
    });
  std::printf("append and decode kv_%s%s B=%-3d L=%-4d two launches %8.1f us, one %8.1f us\n",
              std::string(to_string(format)).c_str(), shaping == nullptr ? "" : " shaped", static_cast<int>(pieces),
              static_cast<int>(tokens), us[0], us[1]);
}

void run_append_and_decode() {
  const SpeedShaping shaping;
  for (const bool shaped : {false, true})
    for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8})
      for (const int64_t pieces : {1, 2, 8, 16, 64, 128})
        for (const int64_t tokens : {200, 1150})
          if (!shaped || format != KvFormat::fp16)
            time_append_and_decode(format, pieces, tokens, shaped ? &shaping : nullptr);
}

}  // namespace
}  // namespace qg::testing

namespace qg {

void bench_decode() {
  testing::run_decode();
}
void bench_prefill() {
  testing::run_prefill();
}
void bench_append() {
  testing::run_append();
}
void bench_append_and_decode() {
  testing::run_append_and_decode();
}

}  // namespace qg
