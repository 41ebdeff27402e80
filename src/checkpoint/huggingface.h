#pragma once
// The Hugging Face layout: config.json and safetensors files with one matrix per projection.
#include <memory>

#include "checkpoint/checkpoint.h"

namespace qg {

// Opens an unquantized folder whose config.json made `table`; throws Error when tensors are missing, extra, or of
// another shape. Linear layers of one part are views on the file, fused ones copies.
std::unique_ptr<Checkpoint> open_huggingface(const std::filesystem::path& folder, ModelTable table);

// Writes one model.safetensors; fp16 weights (in WriterOptions::dtype) only.
std::unique_ptr<CheckpointWriter> create_huggingface(const WriterOptions& options);

}  // namespace qg
