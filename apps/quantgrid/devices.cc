// devices: the GPUs of this machine, and which formats each computes natively.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "bench/nvml.h"
#include "core/json_text.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "grid/cards.h"
#include "grid/support.h"
#include "runtime/tuning_file.h"
#include "verb.h"

namespace qg {
namespace {

Json paths_of(const Card& card) {
  Json paths = Json::object();
  for (WeightFormat w : kWeightFormats) {
    const Support s = support(EngineId::native, card, w, KvFormat::fp16);
    paths[std::string(to_string(w))] = {{"status", to_string(s.status)},
                                        {"compute_path", to_string(expected_path(card, w))}};
  }
  return paths;
}

Json describe_gpu(const GpuDevice& gpu) {
  const CardMatch match = identify_card(gpu.name, gpu.cc_major, gpu.cc_minor, gpu.memory_bytes);
  Json j{{"index", gpu.index},
         {"name", gpu.name},
         {"uuid", gpu.uuid},
         {"compute_capability", fmt::format("{}.{}", gpu.cc_major, gpu.cc_minor)},
         {"memory_bytes", gpu.memory_bytes},
         {"card", match.card ? Json(match.card->id) : Json(nullptr)}};
  if (!match.card) {
    j["reason"] = match.reason;
    return j;
  }
  j["bandwidth_gbps"] = match.card->bandwidth_gbps;
  j["weights"] = paths_of(*match.card);
  j["kv_fp8"] = to_string(support(EngineId::native, *match.card, WeightFormat::fp16, KvFormat::fp8).status);
  return j;
}

Json describe_machine(const GpuInventory& found) {
  Json gpus = Json::array();
  for (const GpuDevice& gpu : found.devices) gpus.push_back(describe_gpu(gpu));
  Json j{{"driver", found.driver_found ? Json(found.driver_version) : Json(nullptr)},
         {"gpus", gpus},
         {"cpu", {{"threads", num_threads()}, {"memory_bytes", physical_memory_bytes()}}}};
  if (!found.problem.empty()) j["problem"] = found.problem;
  return j;
}

std::string formats_with(const Json& weights, std::string_view status) {
  std::string text;
  for (const auto& [name, row] : weights.items())
    if (row["status"].get<std::string>() == status) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

void print_gpu(const Json& gpu) {
  fmt::print("GPU {}: {}, compute capability {}, {:.1f} GB\n", gpu["index"].get<int>(), gpu["name"].get<std::string>(),
             gpu["compute_capability"].get<std::string>(), gpu["memory_bytes"].get<double>() / 1e9);
  if (gpu["card"].is_null()) {
    fmt::print("  not in the table of cards: {}\n", gpu["reason"].get<std::string>());
    return;
  }
  fmt::print("  card {}; {:.0f} GB/s by its data sheet\n", gpu["card"].get<std::string>(),
             gpu["bandwidth_gbps"].get<double>());
  fmt::print("  weights computed natively: {}; emulated: {}; FP8 KV cache: {}\n",
             formats_with(gpu["weights"], "native"), formats_with(gpu["weights"], "emulated"),
             gpu["kv_fp8"].get<std::string>());
}

// Of every table in the default folder.
ExitCode show_tuning() {
  const std::filesystem::path folder = default_tuning_file({}).parent_path();
  int shown = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    if (!entry.path().filename().string().starts_with("tuning-")) continue;
    const TuningFile file = read_any_tuning(entry.path());
    const TuningIdentity& on = file.measured_on;
    fmt::print("{}\n{}, {} kernels {}, cuBLASLt {}\n{}\n", entry.path().string(), on.card, on.family, on.kernels,
               on.library, describe_tuning(file.table));
    ++shown;
  }
  if (shown == 0)
    throw Error("nothing was measured here yet", folder.string(),
                "`quantgrid bench` measures what it needs and keeps it", ExitCode::cannot_here);
  return ExitCode::done;
}

ExitCode show(bool json) {
  const GpuInventory found = list_gpus();
  const Json machine = describe_machine(found);
  if (json) {
    fmt::print("{}\n", json_text(machine, 2));
    return ExitCode::done;
  }
  if (found.driver_found) fmt::print("NVIDIA driver {}, {} GPUs\n", found.driver_version, found.devices.size());
  if (!found.problem.empty()) fmt::print("{}{}\n", found.driver_found ? "note: " : "No GPU to run on: ", found.problem);
  for (const Json& gpu : machine["gpus"]) print_gpu(gpu);
  fmt::print("CPU: {} threads, {:.1f} GB of memory; runs every format by the reference executor{}\n", num_threads(),
             static_cast<double>(physical_memory_bytes()) / 1e9,
             found.devices.empty() ? ", the only executor here" : "");
  return ExitCode::done;
}

const RegisterVerb kVerb({.order = 10,
                          .name = "devices",
                          .summary = "the GPUs of this machine, and which formats each computes natively",
                          .example = "quantgrid devices",
                          .declare = [](CLI::App& command) -> std::function<ExitCode()> {
                            auto json = std::make_shared<bool>(false), tuning = std::make_shared<bool>(false);
                            command.add_flag("--json", *json, "print JSON");
                            command
                                .add_flag("--tuning", *tuning,
                                          "print instead what was measured to be fastest on the GPUs here")
                                ->excludes("--json");
                            return [json, tuning] { return *tuning ? show_tuning() : show(*json); };
                          }});

}  // namespace
}  // namespace qg
