#pragma once
// Runs whole sequences through an executor and through run_layer, for the tests of this folder.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "model/open_model.h"
#include "runtime/cpu_executor.h"
#include "runtime/cpu_layer.h"

namespace qg::test {

inline std::filesystem::path golden_models() {
  return std::filesystem::path(QG_SOURCE_DIR) / "tests" / "golden" / "models";
}

inline std::vector<std::string> golden_model_names() {
  return {"llama-gqa1-tied-fp32",       "llama-gqa3-tied-fp16",
          "llama-gqa4-llama3rope-bf16", "llama-gqa8-llama3rope-tied-fp16",
          "mistral-nowindow-fp32",      "mistral-window16-bf16"};
}

struct Golden {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [tokens, vocab]
};

inline Golden read_golden(const std::string& model) {
  const SafetensorsFile file(golden_models() / model / "golden.safetensors");
  const Tensor tokens = file.view(*file.find("token_ids"));
  const int32_t* ids = tokens.as<int32_t>();
  return {{ids, ids + tokens.elements()}, to_f32(file.view(*file.find("logits")))};
}

inline std::unique_ptr<Executor> make_executor(const std::filesystem::path& folder, KvFormat kv = KvFormat::fp16,
                                               int64_t num_pages = 32) {
  ExecutorOptions options;
  options.kv = kv;
  options.num_pages = num_pages;
  return make_cpu_executor(open_model(folder), options);
}

// Logits of all tokens [tokens, vocab], computed in steps of `chunk` tokens; pages are used in falling order, so that
// page numbers and positions differ.
inline std::vector<float> run_chunked(Executor& executor, const std::vector<int32_t>& tokens, int64_t chunk) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> pages(static_cast<size_t>(executor.num_pages()));
  std::iota(pages.rbegin(), pages.rend(), 0);
  std::vector<float> logits;
  StepOutput output;
  for (int64_t begin = 0; begin < count; begin += chunk) {
    SequencePiece piece;
    piece.num_tokens = std::min(chunk, count - begin);
    piece.context_tokens = begin;
    piece.pages = pages;
    StepInput input;
    input.tokens = std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(piece.num_tokens));
    input.pieces = {&piece, 1};
    input.logits = LogitsWanted::all;
    executor.step(input, output);
    logits.insert(logits.end(), output.logits.begin(), output.logits.end());
  }
  return logits;
}

// The same through run_layer: K and V stay in float unless `kv` is set.
inline std::vector<float> run_dense(const std::filesystem::path& folder, const std::vector<int32_t>& tokens,
                                    std::optional<KvFormat> kv = {}) {
  const auto checkpoint = open_model(folder);
  const ModelShape& shape = checkpoint->table().shape;
  const int64_t m = static_cast<int64_t>(tokens.size());
  std::vector<float> hidden(static_cast<size_t>(m * shape.hidden)), logits(static_cast<size_t>(m * shape.vocab));
  embed_tokens(*checkpoint, tokens, hidden.data());
  for (int layer = 0; layer < shape.layers; ++layer)
    run_layer(shape, load_cpu_layer(*checkpoint, layer), layer, std::vector<int64_t>{m}, hidden.data(), {}, kv);
  run_head(shape, load_cpu_head(*checkpoint), hidden.data(), m, logits.data());
  return logits;
}

// Largest difference over largest magnitude.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& wanted) {
  double difference = 0, magnitude = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    difference = std::max(difference, std::fabs(static_cast<double>(got[i]) - wanted[i]));
    magnitude = std::max(magnitude, std::fabs(static_cast<double>(wanted[i])));
    if (std::isnan(got[i])) return std::numeric_limits<double>::infinity();
  }
  return difference / magnitude;
}

}  // namespace qg::test
