#include "bench/gpu_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"
#include "runtime/device_probe.h"

namespace qg {
namespace {

constexpr int64_t kBusyBytes = int64_t{2} << 30;  // a driver's own share of a large card is below 1 GB

std::string list_of(const GpuInventory& gpus) {
  std::string text;
  for (const GpuDevice& gpu : gpus.devices)
    text += fmt::format("{}{} ({}, {})", text.empty() ? "" : "; ", gpu.index, gpu.name, gpu.uuid);
  return text.empty() ? "there are none" : "there are: " + text;
}

// The UUID that `wanted` stands for.
std::string uuid_of(const GpuInventory& gpus, const std::string& wanted) {
  int index = -1;
  const auto [end, code] = std::from_chars(wanted.data(), wanted.data() + wanted.size(), index);
  const bool is_number = code == std::errc() && end == wanted.data() + wanted.size();
  std::vector<std::string> found;
  for (const GpuDevice& gpu : gpus.devices)
    if (is_number ? gpu.index == index : gpu.uuid.starts_with(wanted)) found.push_back(gpu.uuid);
  if (found.size() == 1) return found.front();
  throw Error(found.empty() ? "no GPU \"" + wanted + "\" is here" : "\"" + wanted + "\" begins several GPUs' UUIDs",
              "--gpu", list_of(gpus));
}

}  // namespace

int pick_gpu(std::span<const std::string> visible, const GpuInventory& gpus, const std::string& wanted) {
  if (visible.empty())
    throw Error("CUDA shows no GPU" + (gpus.problem.empty() ? "" : ": " + gpus.problem), "--executor cuda",
                "run `quantgrid doctor`; look at CUDA_VISIBLE_DEVICES, or use --executor cpu", ExitCode::cannot_here);
  if (wanted.empty()) return 0;
  const std::string uuid = uuid_of(gpus, wanted);
  const auto at = std::find(visible.begin(), visible.end(), uuid);
  if (at == visible.end())
    throw Error("GPU " + uuid + " is here, but CUDA does not show it", "--gpu " + wanted,
                "CUDA_VISIBLE_DEVICES hides it: change or unset that", ExitCode::cannot_here);
  return static_cast<int>(at - visible.begin());
}

std::string why_busy(const GpuConditions& conditions, const GpuReading& reading) {
  if (conditions.other_processes.value_or(0) > 0)
    return fmt::format("{} other process{} compute{} on it", *conditions.other_processes,
                       *conditions.other_processes == 1 ? "" : "es", *conditions.other_processes == 1 ? "s" : "");
  if (reading.memory_used_bytes.value_or(0) > kBusyBytes)
    return fmt::format("{:.1f} GB of its memory are in use", static_cast<double>(*reading.memory_used_bytes) * 1e-9);
  return {};
}

int choose_gpu(const std::string& wanted, bool shared) {
  static std::set<std::string> given;
  const std::vector<std::string> visible = visible_devices();
  const int device = pick_gpu(visible, list_gpus(), wanted);
  const std::string& uuid = visible[static_cast<size_t>(device)];
  if (shared || given.contains(uuid)) return device;
  const GpuMeter meter(uuid);
  const std::string why = why_busy(meter.conditions(), meter.read());
  if (!why.empty())
    throw Error("the GPU is busy: " + why, uuid,
                "wait, choose another with --gpu, or say --shared (speeds are then not the card's)",
                ExitCode::cannot_here);
  given.insert(uuid);
  return device;
}

}  // namespace qg
