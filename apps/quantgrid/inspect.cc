// quantgrid inspect: what a checkpoint holds, where it comes from, whether it is sound.
#include <fmt/format.h>

#include "checkpoint/inspect.h"
#include "core/json_text.h"
#include "model/open_model.h"
#include "verb.h"

namespace qg {
namespace {

std::string bytes_text(int64_t bytes) {
  if (bytes >= 10'000'000) return fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6);
  return fmt::format("{} bytes", bytes);
}

void print_shape(const ModelShape& s) {
  fmt::print("model      {}: {} layers, width {}, {} heads of {} ({} for K and V), MLP {}, vocabulary {}{}\n", s.family,
             s.layers, s.hidden, s.heads, s.head_dim, s.kv_heads, s.ffn, s.vocab,
             s.tied_embeddings ? ", lm_head is the embedding" : "");
  fmt::print("positions  {}, RoPE base {}", s.max_position, s.rope_theta);
  if (s.rope_scaling) fmt::print(", llama3 scaling by {}", s.rope_scaling->factor);
  if (s.sliding_window) fmt::print(", sliding window {}", *s.sliding_window);
  fmt::print("\n");
}

void print_quant(const Checkpoint& checkpoint, const Json& json) {
  const QuantSpec& quant = checkpoint.quant();
  fmt::print("weights    {}", to_string(quant.weights));
  if (quant.weights != WeightFormat::fp16) {
    fmt::print(", a scale per {}", json["quantization"]["weight_scaling"].get<std::string>());
    if (quant.group_size > 0) fmt::print(" of {}", quant.group_size);
    fmt::print(", activations {}", json["quantization"]["activations"].get<std::string>());
    if (quant.prequant_scales) fmt::print(", input scaled");
  }
  fmt::print("; other tensors {}\n", to_string(checkpoint.dtype()));
  const KvScales& scales = checkpoint.kv_scales();
  fmt::print("KV cache   {}; calibrated scales: {}{}{}{}\n",
             quant.fixed_kv ? fmt::format("fixed to {}", to_string(*quant.fixed_kv)) : "chosen at run time",
             scales.fp8.empty() ? "" : "fp8 ", scales.int8.empty() ? "" : "int8",
             scales.fp8.empty() && scales.int8.empty() ? "none" : "",
             scales.shaping.empty() ? "" : ", with shaped keys");
}

void print_lineage(const std::optional<Lineage>& lineage) {
  if (!lineage) {
    fmt::print("lineage    none\n");
    return;
  }
  fmt::print("lineage    from {}, made{}{} by quantgrid {} ({}), seed {}\n", lineage->base_model,
             lineage->created.empty() ? "" : " ", lineage->created, lineage->tool_version, lineage->tool_commit,
             lineage->seed);
  if (!lineage->base_hash.empty()) fmt::print("           base sha256 {}\n", lineage->base_hash);
  fmt::print("           recipe {}\n", json_text(lineage->recipe));
  if (!lineage->calibration_hash.empty())
    fmt::print("           calibration text sha256 {}\n", lineage->calibration_hash);
}

void print(const Checkpoint& checkpoint, const Inspection& inspection, const Json& json) {
  fmt::print("{}\nlayout     {}\n", checkpoint.folder().string(), to_string(checkpoint.layout()));
  print_shape(checkpoint.table().shape);
  print_quant(checkpoint, json);
  fmt::print("tensors    {} in {}: linear weights {}, embedding {}, lm_head {}, norms {}, scales {}\n",
             inspection.tensors, bytes_text(checkpoint.stored_bytes()), bytes_text(inspection.linear_bytes),
             bytes_text(inspection.embedding_bytes), bytes_text(inspection.lm_head_bytes),
             bytes_text(inspection.norm_bytes), bytes_text(inspection.scale_bytes));
  print_lineage(checkpoint.lineage());
  fmt::print("sound      {}\n", inspection.sound() ? "yes" : "no");
  for (const std::string& problem : inspection.problems) fmt::print("           {}\n", problem);
}

// A folder that cannot be opened is a result too when a program asks.
ExitCode print_unopened(const std::string& folder, const Error& error) {
  const Json json{{"folder", folder}, {"sound", false}, {"problems", {std::string(error.what())}}};
  fmt::print("{}\n", json_text(json, 2));
  return error.code();
}

ExitCode inspect(const std::string& folder, bool json_wanted) {
  std::unique_ptr<Checkpoint> checkpoint;
  try {
    checkpoint = open_model(resolve_model(folder));
  } catch (const Error& error) {
    if (!json_wanted) throw;
    return print_unopened(folder, error);
  }
  const Inspection inspection = inspect_checkpoint(*checkpoint);
  const Json json = to_json(*checkpoint, inspection);
  if (json_wanted)
    fmt::print("{}\n", json_text(json, 2));
  else
    print(*checkpoint, inspection, json);
  return inspection.sound() ? ExitCode::done : ExitCode::wrong_input;
}

struct InspectFlags {
  std::string folder;
  bool json = false;
};

const RegisterVerb kInspect{
    {45, "inspect", "What a checkpoint holds, its lineage, and whether it is sound",
     "quantgrid inspect models/smollm2-135m-instruct", [](CLI::App& command) {
       auto flags = std::make_shared<InspectFlags>();
       command.add_option("folder", flags->folder, "model folder, or \"org/name\" in the Hugging Face cache")
           ->required();
       command.add_flag("--json", flags->json, "print everything as JSON");
       return [flags] { return inspect(flags->folder, flags->json); };
     }}};

}  // namespace
}  // namespace qg
