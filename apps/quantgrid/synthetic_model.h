#pragma once
// --weights-from synth:SEED: a known model's shapes with random weights, all in memory, for verbs that measure speed.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "tokenizer/tokenizer.h"

namespace qg {

struct SyntheticFlags {
  std::string from;              // --weights-from; empty: real weights
  std::string weights = "fp16";  // --weights
};

void declare_synthetic_flags(CLI::App& command, SyntheticFlags& flags);

// Null without --weights-from. Throws Error when it is not synth:SEED or `model` is not one whose shapes are known.
std::shared_ptr<const Checkpoint> synthetic_checkpoint(const SyntheticFlags& flags, const std::string& model);

// A token for each byte; the other ids of a real vocabulary have no text.
Tokenizer synthetic_tokenizer(int64_t vocab);

}  // namespace qg
