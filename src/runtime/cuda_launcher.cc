#include "runtime/cuda_launcher.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/log.h"
#include "runtime/cuda_tap.h"

namespace qg {
namespace {

DeviceBuffer upload_numbers(int64_t count) {
  std::vector<int32_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  DeviceBuffer buffer(numbers.size() * sizeof(int32_t));
  QG_CUDA(cudaMemcpy(buffer.data(), numbers.data(), buffer.bytes(), cudaMemcpyHostToDevice));
  return buffer;
}

bool no_memory(cudaError_t status) {
  if (status == cudaErrorMemoryAllocation) cudaGetLastError();  // so that no later call reports it
  return status == cudaErrorMemoryAllocation;
}

// Whatever happens in between, a capture is ended, so that the stream can be used again.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    QG_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  }
  ~Capture() {
    cudaGraph_t graph = nullptr;
    if (stream_) cudaStreamEndCapture(stream_, &graph);
    if (graph) cudaGraphDestroy(graph);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  // Null when the card has no memory for it.
  cudaGraphExec_t end() {
    cudaGraph_t graph = nullptr;
    QG_CUDA(cudaStreamEndCapture(std::exchange(stream_, nullptr), &graph));
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    if (no_memory(status)) return nullptr;
    check_cuda(status, "cudaGraphInstantiate");
    return executable;
  }

 private:
  cudaStream_t stream_;
};

}  // namespace

CudaLauncher::CudaLauncher(const CudaForward& forward, const CudaQueue& queue, SampledTokens& sampled, int64_t max_rows,
                           int64_t most_graphs)
    : forward_(forward),
      queue_(queue),
      sampled_(sampled),
      row_numbers_(upload_numbers(max_rows)),
      most_graphs_(static_cast<size_t>(
          std::max<int64_t>(1, most_graphs > 0 ? most_graphs : kMostGraphLayers / forward.shape.layers))) {}

CudaLauncher::~CudaLauncher() {
  for (auto& [key, graph] : graphs_)
    if (graph.executable) cudaGraphExecDestroy(graph.executable);
}

void CudaLauncher::run(const StepLaunch& step, std::vector<float>& logits) {
  const StepShape& shape = step.planned.shape;
  // Decoding is a chain of short kernels, which only overlap where they agree on the memory of a multiprocessor.
  queue_.shared_percent =
      queue_.chained && step.planned.graph ? forward_.model.layers.front().gate_up->shared_percent(shape.rows) : -1;
  if (!step.planned.graph) return launch_directly(step, logits);
  launch_graph(step);
  if (step.logits == LogitsWanted::sampled)
    append_logits(std::count_if(step.pieces.begin(), step.pieces.end(), [](auto* piece) { return piece->sample; }),
                  logits);
}

void CudaLauncher::launch_directly(const StepLaunch& step, std::vector<float>& logits) {
  const StepShape& shape = step.planned.shape;
  CudaForward f = forward_;
  if (step.tap) f.observe = make_cuda_observer(f, step.tap, queue_.stream);
  if (shape.prefill) {
    std::vector<CudaPrefillPiece> prefill;
    int64_t row = shape.decode_pieces;
    for (const SequencePiece* piece : step.pieces.subspan(static_cast<size_t>(shape.decode_pieces))) {
      prefill.push_back({static_cast<int32_t>(row), static_cast<int32_t>(piece->num_tokens),
                         static_cast<int32_t>(piece->context_tokens + piece->num_tokens)});
      row += piece->num_tokens;
    }
    f.attention.plan_prefill(queue_, step.batch.view(), shape.decode_pieces, prefill);
  }
  run_cuda_layers(f, queue_, step.batch, shape);
  ran_.merge(cuda_kernel_names(f, shape));
  const size_t before = logits.size();
  if (step.logits == LogitsWanted::all) {
    const int64_t most = f.buffers.logit_rows;
    for (int64_t first = 0; first < shape.rows; first += most) {
      const int64_t count = std::min(most, shape.rows - first);
      run_cuda_head(f, queue_, row_numbers_.as<int32_t>() + first, count);
      append_logits(count, logits);
    }
    if (step.tap) step.tap("logits", std::span(logits).subspan(before), shape.rows, f.shape.vocab);
    f.observe = {};  // final_norm has been told, of all rows
  }
  size_t sampling = 0;  // number of the next piece that samples
  int64_t row = 0;      // its first
  run_cuda_sampling(f, queue_, step.batch, shape, sampled_.target(step.slot), [&](int64_t count) {
    if (step.logits == LogitsWanted::sampled) append_logits(count, logits);
    if (step.logits != LogitsWanted::all) return;
    // Of the rows that sample: those that the token is drawn from, which are the same whoever wants those of all rows.
    std::vector<float> drawn_from;
    append_logits(count, drawn_from);
    const int64_t vocab = f.shape.vocab;
    for (int64_t i = 0; i < count; ++sampling) {
      row += step.pieces[sampling]->num_tokens;
      if (!step.pieces[sampling]->sample) continue;
      std::copy_n(drawn_from.begin() + i++ * vocab, vocab,
                  logits.begin() + static_cast<std::ptrdiff_t>(before) + (row - 1) * vocab);
    }
  });
}

void CudaLauncher::layers_and_sampling(const StepLaunch& step) {
  run_cuda_layers(forward_, queue_, step.batch, step.planned.shape);
  run_cuda_sampling(forward_, queue_, step.batch, step.planned.shape, sampled_.target(step.slot), {});
}

// The first step of a kind runs directly, because kernels that are loaded lazily cannot be loaded during a capture; the
// graph is captured while it runs. Where the card has no memory for it, steps of that kind go on running directly.
void CudaLauncher::launch_graph(const StepLaunch& step) {
  const StepShape& shape = step.planned.shape;
  const auto key = std::make_tuple(shape.rows, shape.max_context, step.batch.draws(), step.slot);
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    layers_and_sampling(step);
    if (graphs_.size() >= most_graphs_) drop_oldest_graph();
    Capture capture(queue_.stream);
    layers_and_sampling(step);
    graphs_[key] = {capture.end(), ++launches_};
    if (!graphs_[key].executable) say_no_graph(shape);
    ran_.merge(cuda_kernel_names(forward_, shape));
    return;
  }
  Graph& graph = found->second;
  graph.used = ++launches_;
  if (graph.executable) {
    const cudaError_t status = cudaGraphLaunch(graph.executable, queue_.stream);
    if (!no_memory(status)) return check_cuda(status, "cudaGraphLaunch");
    QG_CUDA(cudaGraphExecDestroy(std::exchange(graph.executable, nullptr)));
    say_no_graph(shape);
  }
  layers_and_sampling(step);
}

void CudaLauncher::say_no_graph(const StepShape& shape) {
  if (std::exchange(said_no_graph_, true)) return;
  warn(
      "the card has no memory for another CUDA graph: steps of {} sequences, and of other numbers that are new, are "
      "sent kernel by kernel, which is slower",
      shape.rows);
}

// One that still runs is freed by the driver when it has ended (cudaGraphExecDestroy).
void CudaLauncher::drop_oldest_graph() {
  const auto oldest = std::min_element(graphs_.begin(), graphs_.end(),
                                       [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
  if (oldest->second.executable) QG_CUDA(cudaGraphExecDestroy(oldest->second.executable));
  graphs_.erase(oldest);
}

void CudaLauncher::append_logits(int64_t count, std::vector<float>& logits) {
  const size_t values = static_cast<size_t>(count * forward_.shape.vocab), bytes = values * sizeof(float);
  if (logits_.bytes() < bytes) logits_ = PinnedBuffer(bytes);
  QG_CUDA(cudaMemcpyAsync(logits_.as<float>(), forward_.buffers.logits.data(), bytes, cudaMemcpyDeviceToHost,
                          queue_.stream));
  QG_CUDA(cudaStreamSynchronize(queue_.stream));
  logits.insert(logits.end(), logits_.as<float>(), logits_.as<float>() + values);
}

}  // namespace qg
