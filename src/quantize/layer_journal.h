#pragma once
// Finished layers of a job that is under way, kept beside its first output until the job is done: a job that was
// stopped or killed goes on after them. A layer counts only when its file is what the journal says it is.
#include <filesystem>
#include <functional>
#include <string>

#include "quantize/layer_result.h"

namespace qg {

class LayerJournal {
 public:
  // folder: "OUT.journal". key: hash of everything that determines the job's bytes but the base's weights, whose hash
  // base() gives, asked only where a journal is there: hashing a base takes longer than its first layers. A journal of
  // another job, or of another base, is removed; a folder that is no journal is an Error.
  LayerJournal(std::filesystem::path folder, std::string key, const std::function<std::string()>& base);

  int finished() const { return finished_; }  // layers 0 .. finished-1 are there, verified
  SafetensorsFile open(int layer) const;      // one of them
  void append(int layer, const NamedTensors& tensors);
  // The layers of this run count for a later one when this has been called.
  void set_base(const std::string& hash);
  void remove();  // the job is done

 private:
  std::filesystem::path file_of(int layer) const;
  void verify(const std::function<std::string()>& base);

  std::filesystem::path folder_;
  std::string key_, base_;
  int finished_ = 0;
};

}  // namespace qg
