#pragma once
// Finished layers of a job that is under way, kept beside its first output until the job is done: a job that was
// stopped or killed goes on after them. A layer counts only when its file is what the journal says it is.
#include <filesystem>
#include <string>

#include "quantize/layer_result.h"

namespace qg {

class LayerJournal {
 public:
  // folder: "OUT.journal". key: hash of everything that determines the job's bytes; a journal of another job is
  // removed.
  LayerJournal(std::filesystem::path folder, std::string key);

  int finished() const { return finished_; }  // layers 0 .. finished-1 are there, verified
  SafetensorsFile open(int layer) const;      // one of them
  void append(int layer, const NamedTensors& tensors);
  void remove();  // the job is done

 private:
  std::filesystem::path file_of(int layer) const;
  void verify();

  std::filesystem::path folder_;
  std::string key_;
  int finished_ = 0;
};

}  // namespace qg
