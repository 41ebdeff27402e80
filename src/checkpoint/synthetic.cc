#include "checkpoint/synthetic.h"

#include <cmath>
#include <set>

#include "checkpoint/byte_tokenizer.h"
#include "checkpoint/folder_checkpoint.h"
#include "core/error.h"
#include "core/float.h"
#include "core/interrupt.h"
#include "core/multiversion.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/version.h"

namespace qg {
namespace {

constexpr float kOutlierGain = 20;
constexpr float kEmbeddingDeviation = 0.02f;
constexpr uint64_t kOutlierStream = 1;

// A stream of its own for every tensor: the role, and the layer.
uint64_t stream_of(int kind, int role, int layer) {
  return (static_cast<uint64_t>(kind) << 40) + (static_cast<uint64_t>(role) << 32) + static_cast<uint32_t>(layer + 1);
}

// Nearly normal, standard deviation 1: the sum of four uniform 16-bit numbers (Irwin-Hall), centred; |x| < 3.5.
inline float nearly_normal(uint64_t bits) {
  const auto sum = static_cast<int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
  constexpr float kUnit = 1.0f / 37837.0f;  // the sum's deviation is 65536 / sqrt(3)
  return static_cast<float>(sum - 131070) * kUnit;
}

// out[i] = mean + deviation * (random value first + i).
QG_MULTIVERSION void fill_nearly_normal(const Rng& rng, uint64_t first, float mean, float deviation, float* out,
                                        size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = mean + deviation * nearly_normal(rng.bits(first + i));
}

Tensor random_tensor(const Rng& rng, Shape shape, DType dtype, float mean, float deviation) {
  NewTensor made = new_tensor(dtype, std::move(shape));
  parallel_for(made.tensor.elements(), 1 << 13, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(end - begin));
    fill_nearly_normal(rng, static_cast<uint64_t>(begin), mean, deviation, values.data(), values.size());
    any_from_f32(dtype, values.data(), made.data + static_cast<size_t>(begin) * size_bytes(dtype), values.size());
  });
  return made.tensor;
}

std::set<int64_t> outlier_channels(const ModelShape& shape, const SyntheticOptions& options) {
  Rng rng(options.seed, kOutlierStream);
  std::set<int64_t> channels;
  while (static_cast<int64_t>(channels.size()) < options.outliers)
    channels.insert(static_cast<int64_t>(rng.next_below(static_cast<uint64_t>(shape.hidden))));
  return channels;
}

}  // namespace

Tensor synthetic_tensor(const TensorSpec& spec, const ModelShape& shape, const SyntheticOptions& options) {
  const Rng rng(options.seed, stream_of(1, static_cast<int>(spec.role), spec.layer));
  if (spec.shape.size() == 2) return random_tensor(rng, spec.shape, options.dtype, 0, kEmbeddingDeviation);
  constexpr float kNormDeviation = 0.1f;
  const Tensor norm = random_tensor(rng, spec.shape, DType::f32, 1, kNormDeviation);
  std::vector<float> values = to_f32(norm);
  if (spec.role != TensorRole::final_norm)
    for (int64_t channel : outlier_channels(shape, options)) values[static_cast<size_t>(channel)] *= kOutlierGain;
  return tensor_from_f32(values, spec.shape, options.dtype);
}

Tensor synthetic_linear(const LinearSpec& spec, const ModelShape& shape, const SyntheticOptions& options) {
  const Rng rng(options.seed, stream_of(2, static_cast<int>(spec.role), spec.layer));
  const bool to_residual = spec.role == LinearRole::attention_output || spec.role == LinearRole::down;
  const auto variance = static_cast<float>(spec.k * (to_residual ? 2 * shape.layers : 1));
  return random_tensor(rng, {spec.n, spec.k}, options.dtype, 0, 1.0f / std::sqrt(variance));
}

void write_synthetic_model(const ModelTable& table, const HfRules& rules, const SyntheticOptions& options,
                           const std::filesystem::path& out) {
  const ModelShape& shape = table.shape;
  if (options.outliers < 0 || options.outliers > shape.hidden / 2)
    throw Error(std::to_string(options.outliers) + " outlier channels, should be at most half of the width " +
                std::to_string(shape.hidden));
  WriterOptions writer_options;
  writer_options.out = out;
  writer_options.layout = Layout::huggingface;
  writer_options.table = table;
  writer_options.dtype = options.dtype;
  writer_options.architecture = rules.architecture;
  writer_options.hf_rules = rules;
  const auto writer = create_checkpoint(writer_options);

  Progress progress("synthesize", static_cast<int64_t>(table.tensors.size() + table.linears.size()), "tensors");
  for (const TensorSpec& spec : table.tensors) {
    stop_if_interrupted("from the start: the folder was not finished");
    writer->write(spec, synthetic_tensor(spec, shape, options));
    progress.advance();
  }
  for (const LinearSpec& spec : table.linears) {
    stop_if_interrupted("from the start: the folder was not finished");
    LinearWeights weights;
    weights.n = spec.n;
    weights.k = spec.k;
    weights.weight = synthetic_linear(spec, shape, options);
    writer->write(spec, weights);
    progress.advance();
  }
  Lineage lineage;
  lineage.base_model = "synthetic";
  lineage.recipe = Json{{"synthetic", true}, {"family", shape.family}, {"outliers", options.outliers}};
  lineage.seed = options.seed;
  lineage.tool_version = version();
  lineage.tool_commit = build_commit();
  writer->set_lineage(lineage);
  for (const auto& [name, text] : byte_tokenizer_files(shape.vocab)) writer->write_side_file(name, text);
  writer->finish();
}

}  // namespace qg
