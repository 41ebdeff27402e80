#include "engines/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "engines/trtllm_commands.h"
#include "engines/vllm_commands.h"
#include "grid/models.h"

namespace qg {
namespace {

[[noreturn]] void not_driven(EngineId engine) {
  throw Error(fmt::format("{} is not driven by commands of its own", engine_spec(engine).label), "--engine",
              "name tensorrt-llm or vllm");
}

CommandLine quantize_command(const Grid& grid, const EngineCase& e) {
  const EngineSpec& engine = engine_spec(e.engine);
  const CalibrationSettings& c = grid.calibration;
  CommandLine command;
  command.argv = {"quantgrid", "quantize",
                  "--model",   e.original.string(),
                  "--weights", std::string(to_string(e.c.weights)),
                  "--layout",  std::string(engine.layout)};
  if (engine.kv_rule == KvRule::fixed_in_checkpoint && e.c.kv != KvFormat::fp16)
    command.argv.insert(command.argv.end(), {"--kv", std::string(to_string(e.c.kv))});
  command.argv.insert(command.argv.end(),
                      {"--calib", c.text.string(), "--calib-sequences", fmt::format("{}", c.samples), "--calib-tokens",
                       fmt::format("{}", c.sample_tokens), "--search-tokens", fmt::format("{}", c.search_tokens),
                       "--seed", fmt::format("{}", c.seed), "--out", e.checkpoint.string()});
  return command;
}

}  // namespace

EngineCase engine_case(const Grid& grid, const PlanRow& row, const PlanOptions& options,
                       const std::filesystem::path& dir) {
  const GridModel& model = grid.model(row.c.model);
  const KnownModel* known = find_known_model(row.c.model);
  EngineCase e;
  e.engine = options.engine;
  e.c = row.c;
  e.model_id = known ? known->hub : model.stem;
  e.original = model.folder;
  // The name says formats, not the layout: folders of other layouts than the native engine's lie apart.
  const std::string_view layout = engine_spec(options.engine).layout;
  const std::filesystem::path made = layout == "trtllm" ? grid.models_dir : grid.models_dir / layout;
  e.checkpoint = row.origin == CheckpointOrigin::original ? model.folder : made / row.checkpoint;
  e.tools = dir;
  e.out = dir / "results";
  e.workloads = grid.workloads_of(options.profile);
  e.shape = model.shape;
  if (row.origin != CheckpointOrigin::original && !grid.calibration.text.empty())
    e.make_checkpoint = quantize_command(grid, e);
  return e;
}

std::filesystem::path EngineCase::engine_folder() const {
  return out / "engines" / fmt::format("{}-{}", checkpoint.filename().string(), c.gpu);
}

std::optional<CommandLine> build_command(const EngineCase& e) {
  if (e.engine != EngineId::trtllm_tensorrt) return std::nullopt;
  return trtllm_build_command(e);
}

bool has_benchmark(const Workload& workload) {
  return workload.kind != WorkloadKind::rate;
}

Measurement measurement(const EngineCase& e, const Workload& workload) {
  if (!has_benchmark(workload))
    throw Error("the engine's own benchmark offers no requests at a rate", workload.name, "load its server: --served");
  switch (e.engine) {
    case EngineId::trtllm_tensorrt:
    case EngineId::trtllm_pytorch:
      return trtllm_measurement(e, workload);
    case EngineId::vllm:
      return vllm_measurement(e, workload);
    case EngineId::native:
    case EngineId::openai:
      break;
  }
  not_driven(e.engine);
}

ServeCommand serve_command(const EngineCase& e, int port) {
  switch (e.engine) {
    case EngineId::trtllm_tensorrt:
    case EngineId::trtllm_pytorch:
      return trtllm_serve_command(e, port);
    case EngineId::vllm:
      return vllm_serve_command(e, port);
    case EngineId::native:
    case EngineId::openai:
      break;
  }
  not_driven(e.engine);
}

std::string tokens_program() {
  return R"py(#!/usr/bin/env python3
"""Random prompts for trtllm-bench: one JSON object a line, the same for the same arguments.

    random_tokens.py --model FOLDER --input N --output N --requests N --seed N --out FILE
"""
import argparse
import json
import os
import random

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True, help="Hugging Face folder; its config.json has vocab_size")
parser.add_argument("--input", type=int, required=True, help="tokens of each prompt")
parser.add_argument("--output", type=int, required=True, help="tokens to generate for each")
parser.add_argument("--requests", type=int, required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

with open(os.path.join(args.model, "config.json"), encoding="utf-8") as file:
    vocabulary = json.load(file)["vocab_size"]
# Special tokens lie at one end of a vocabulary: the first ids (Mistral) or the last (Llama 3).
margin = min(1000, vocabulary // 4)
choose = random.Random(args.seed)
os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
partial = args.out + ".partial"
with open(partial, "w", encoding="utf-8") as file:
    for number in range(args.requests):
        ids = [choose.randrange(margin, vocabulary - margin) for _ in range(args.input)]
        file.write(json.dumps({"task_id": number, "input_ids": ids, "output_tokens": args.output}) + "\n")
os.replace(partial, args.out)
)py";
}

}  // namespace qg
