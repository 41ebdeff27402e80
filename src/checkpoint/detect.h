#pragma once
// Tells what kind of model folder something is, by the files in it and by config.json.
#include <filesystem>

#include "checkpoint/checkpoint.h"

namespace qg {

// The layout of a folder that we read. Throws Error that names the kind and says what to do when it is one that we do
// not read: PyTorch .bin files, GGUF, an adapter, a TensorRT engine, a quantization method that is not read, or no
// model.
Layout detect_layout(const std::filesystem::path& folder);

}  // namespace qg
