#pragma once
// What reader and writers of the TensorRT-LLM layout share: the tensors of several ranks' files as one.
#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/trtllm.h"
#include "checkpoint/trtllm_ranks.h"

namespace qg {

// A tensor's name in the TensorSet: itself, or "rank3/…" where there are several ranks.
std::string rank_tensor_name(const std::string& name, int64_t ranks, int64_t rank);
// The parts of all ranks as one tensor.
Tensor joined_tensor(const TensorSet& tensors, const std::string& name, const RankRule& rule, const ModelShape& shape,
                     int64_t ranks);

// An opened checkpoint whose tensors can be had whole, as they are stored.
class TrtllmStored : public FolderCheckpoint {
 public:
  TrtllmStored(std::filesystem::path folder, ModelTable table, TensorSet tensors, const TrtllmConfig& config)
      : FolderCheckpoint(std::move(folder), std::move(table), std::move(tensors)), config_(config) {
    quant_ = config.quant;
    dtype_ = config.dtype;
  }

  const TrtllmConfig& config() const { return config_; }
  // By its name in the layout; throws Error when it is not there.
  virtual Tensor whole(const std::string& name) const = 0;

 protected:
  TrtllmConfig config_;
};

}  // namespace qg
