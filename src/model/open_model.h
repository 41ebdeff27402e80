#pragma once
#include <filesystem>
#include <memory>

#include "checkpoint/checkpoint.h"

namespace qg {

// Opens a model folder of any layout that we read; throws Error naming what it is when it is one that we do not
// (PyTorch .bin, GGUF, a quantization method that we do not run).
std::unique_ptr<Checkpoint> open_model(const std::filesystem::path& folder);

// The same for --model: a folder, or the name of a model in the local Hugging Face cache ("org/name").
std::filesystem::path resolve_model(const std::string& folder_or_name);

// Shape of a model folder without opening its weights, for planning.
ModelShape read_model_shape(const std::filesystem::path& folder);

}  // namespace qg
