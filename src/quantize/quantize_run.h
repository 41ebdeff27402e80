#pragma once
// What every executor's quantization shares: the outputs in the making, the journal of finished layers, the lineage.
// The executor computes layers in order and hands over results; writing goes on beside it.
#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "core/file_lock.h"
#include "quantize/layer_journal.h"
#include "quantize/layer_result.h"
#include "quantize/quantize.h"
#include "quantize/write_queue.h"

namespace qg {

class QuantizeRun {
 public:
  // executor: "cpu" or "cuda"; part of what the journal goes by, since sums differ in their last bits.
  QuantizeRun(const QuantizeJob& job, const std::string& executor);
  ~QuantizeRun();

  int finished_layers() const { return journal_->finished(); }
  size_t outputs() const { return outputs_.size(); }
  const Recipe& recipe(size_t output) const;
  const QuantSpec& spec(size_t output) const;
  // The output's layout has no place for a scale of a layer's input: all are folded when a layer is written, and that
  // of the attention output must be shared by the query heads of a KV head (GroupProblem::shared_scales).
  bool folds_everything(size_t output) const;
  bool quantizes() const;   // some output is not 16-bit
  bool wants_gram() const;  // some output rounds with error feedback

  // A layer of an earlier run, from the journal.
  void restore_layer(int layer);
  // results: one an output. They are written, and put into the journal, beside the caller.
  void finish_layer(int layer, std::vector<LayerResult> results, LayerKv kv);
  // Writes what belongs to no layer and gives the outputs their names.
  std::vector<QuantizeReport> finish();

  double write_seconds() const { return queue_.busy_seconds(); }
  double write_wait_seconds() const { return queue_.waited_seconds(); }

 private:
  class Output;
  void write(int layer, const std::vector<LayerResult>& results, const LayerKv& kv);

  const QuantizeJob& job_;
  std::shared_future<std::string> base_hash_;
  std::vector<std::unique_ptr<Output>> outputs_;
  std::optional<OutputLock> kv_scales_lock_;  // as an output's folder has one; before journal_, which is under it
  std::unique_ptr<LayerJournal> journal_;
  KvScales kv_;  // of the base
  bool done_ = false;
  WriteQueue queue_;  // last: its thread uses the others
};

}  // namespace qg
