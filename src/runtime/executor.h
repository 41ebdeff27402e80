#pragma once
// One forward step over a batch of sequence pieces: the interface between the scheduler (host only) and what computes.
// cpu_executor is its definition; cuda_executor is fast and judged against it.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/format.h"
#include "core/model_shape.h"

namespace qg {

struct SamplingParams {
  float temperature = 0;  // 0 = greedy
  int32_t top_k = 0;      // 0 = all
  float top_p = 1;
  uint64_t seed = 0;  // the draw at output position i is a function of (seed, i) alone
};

// A run of consecutive tokens of one sequence, computed in this step.
struct SequencePiece {
  int64_t first_row = 0;           // of this piece in StepInput::tokens
  int64_t num_tokens = 0;          // > 1 while prefilling, 1 while decoding
  int64_t context_tokens = 0;      // tokens of the sequence that already lie in the KV cache
  std::span<const int32_t> pages;  // page numbers covering context_tokens + num_tokens tokens
  bool sample = false;             // sample after the piece's last token
  int64_t output_position = 0;     // tokens already generated for the sequence, for the seed
  SamplingParams sampling;
  // Not below 0: the piece's only token is the one sampled by this piece of the step submitted before, which nobody may
  // know yet; what stands in StepInput::tokens is ignored. For executors that run ahead.
  int64_t token_of_piece = -1;
};

enum class LogitsWanted { none, sampled, all };  // which rows come back to the host beside the sampled tokens

struct StepInput {
  std::span<const int32_t> tokens;  // [rows], all pieces one after the other
  std::span<const SequencePiece> pieces;
  LogitsWanted logits = LogitsWanted::none;
};

// Sampled after a piece whose logits are not finite numbers.
inline constexpr int32_t kNotFinite = -2;

struct StepOutput {
  std::vector<int32_t> sampled;  // one per piece; -1 where the piece does not sample, kNotFinite
  std::vector<float> logits;     // [rows wanted, vocab]: the last row of each sampling piece, or all rows
};

// Receives an intermediate by name: "embedding", "layers.3.attention_in", "layers.3.q", "layers.3.attention_out",
// "layers.3.mlp_in", "layers.3.mlp_act", "layers.3.out", "final_norm", "logits". values: float [rows, width].
using Tap = std::function<void(const std::string& name, std::span<const float> values, int64_t rows, int64_t width)>;

struct ExecutorOptions {
  KvFormat kv = KvFormat::fp16;
  int64_t page_tokens = 16;
  int64_t num_pages = 0;         // size of the KV pool; 0 = from kv_bytes
  int64_t kv_bytes = 0;          // memory for the KV pool when num_pages is 0
  bool less_kv_will_do = false;  // on a card that has less than that left; at least one page
  int64_t max_rows = 2048;       // most tokens in one step
  int64_t max_pieces = 0;        // most sequences in one step; 0 = max_rows
  bool deterministic = false;    // a piece's results are the same to the bit whatever other pieces are in the step
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const ModelTable& table() const = 0;
  virtual KvFormat kv_format() const = 0;
  virtual int64_t page_tokens() const = 0;
  virtual int64_t num_pages() const = 0;
  virtual int64_t max_rows() const = 0;

  // Computes K and V of all tokens into their pages, attention over context and piece, logits where asked.
  virtual void step(const StepInput& input, StepOutput& output) = 0;

  // The same in two halves. submit() takes a step, and everything it needs of `input`, before it returns; collect()
  // waits for the oldest step that was submitted and not collected. Steps are computed in order. When submit() throws,
  // nothing was submitted; when collect() throws, that step is gone. step() may be called when nothing is submitted.
  // Here for executors that know only step(): submit() computes, and one step at a time is all there is.
  virtual void submit(const StepInput& input);
  virtual void collect(StepOutput& output);
  // Whether a second step may be submitted before the first is collected, now (a tap forbids it).
  virtual bool runs_ahead() const { return false; }
  // Pages whose content may be reused need copying only when a shared page is written: copies one page, all layers.
  virtual void copy_page(int32_t from, int32_t to) = 0;

  virtual void set_tap(Tap tap) = 0;                     // empty: none. Slow; for calibration and tests
  virtual std::vector<std::string> kernels() const = 0;  // names of kernels that ran, for the record
  virtual ComputePath compute_path() const = 0;          // of the linear layers, from the kernels that ran
  virtual int64_t weight_bytes() const = 0;              // resident
  virtual int64_t kv_pool_bytes() const = 0;
  virtual std::string name() const = 0;  // "cpu", "cuda"
  // Seconds for which a GPU worked on steps, since the executor was made, what two steps share counted once; waits for
  // what was submitted. 0 where no GPU does.
  virtual double device_seconds() { return 0; }

 private:
  std::optional<StepOutput> computed_;  // by submit(), not collected
};

}  // namespace qg
