// quantgrid doctor: is this machine fit to measure on.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "bench/nvml.h"
#include "core/json_text.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/linear/gemm.h"
#include "runtime/device_probe.h"
#include "runtime/make_executor.h"
#include "verb.h"

namespace qg {
namespace {

enum class Verdict { good, warning, bad };

struct Finding {
  std::string what;
  Verdict verdict;
  std::string said, fix;
};

const char* mark(Verdict v) {
  return v == Verdict::good ? "ok  " : v == Verdict::warning ? "warn" : "BAD ";
}

Finding gpu_finding(const GpuInventory& gpus) {
  if (gpus.devices.empty())
    return {"graphics cards", Verdict::warning, "none found: " + gpus.problem,
            "cases of cards cannot be measured here; the CPU executor measures accuracy"};
  std::string names;
  for (const GpuDevice& gpu : gpus.devices) names += (names.empty() ? "" : ", ") + gpu.name;
  return {"graphics cards", Verdict::good, names, ""};
}

// A CUDA program runs on drivers of its toolkit's major version or later.
Finding driver_finding(const GpuInventory& gpus) {
  constexpr int kToolkit = 13000;
  const std::string said = fmt::format("{}, runs CUDA up to {}.{}", gpus.driver_version, gpus.cuda_version / 1000,
                                       gpus.cuda_version % 1000 / 10);
  if (gpus.cuda_version >= kToolkit || gpus.cuda_version == 0) return {"NVIDIA driver", Verdict::good, said, ""};
  return {"NVIDIA driver", has_cuda_executor() ? Verdict::bad : Verdict::warning, said,
          "CUDA 13 needs driver 580 or later: install it from your distribution or from NVIDIA"};
}

std::vector<Finding> condition_findings(const GpuDevice& gpu) {
  const std::string name = fmt::format("GPU {}", gpu.index);
  const GpuConditions c = GpuMeter(gpu.uuid).conditions();
  std::vector<Finding> findings;
  if (c.other_processes)
    findings.push_back({name + " processes", *c.other_processes > 0 ? Verdict::warning : Verdict::good,
                        fmt::format("{} other", *c.other_processes),
                        *c.other_processes > 0 ? "speeds measured now would be too low: end them first" : ""});
  if (c.power_limit_w && c.default_power_limit_w) {
    const bool lowered = *c.power_limit_w < 0.99 * *c.default_power_limit_w;
    findings.push_back({name + " power", lowered ? Verdict::warning : Verdict::good,
                        fmt::format("{:.0f} W of {:.0f} W", *c.power_limit_w, *c.default_power_limit_w),
                        lowered ? "its speeds are not those of a card at full power: say so beside them" : ""});
  }
  if (c.ecc)
    findings.push_back({name + " ECC", Verdict::good,
                        *c.ecc ? "on" : "off: some cards read memory 6 % faster so than with it on", ""});
  findings.push_back(
      {name + " clocks", c.slowed_by.empty() ? Verdict::good : Verdict::warning,
       c.slowed_by.empty() ? "nothing holds them down" : fmt::format("held down by {}", fmt::join(c.slowed_by, ", ")),
       c.slowed_by.empty() ? "" : "let it cool, or mend power and cooling, before measuring"});
  return findings;
}

Finding load_finding() {
  double load = 0;
  std::ifstream("/proc/loadavg") >> load;
  const double share = load / num_threads();
  return {"other work", share > 0.5 ? Verdict::warning : Verdict::good,
          fmt::format("load average {:.2f} on {} processors", load, num_threads()),
          share > 0.5 ? "speeds measured now would be too low: wait until the machine is idle" : ""};
}

Finding governor_finding() {
  std::string governor;
  std::ifstream("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") >> governor;
  if (governor.empty())
    return {"clock governor", Verdict::good, "not visible (a virtual machine, or fixed clocks)", ""};
  const bool good = governor == "performance";
  return {"clock governor", good ? Verdict::good : Verdict::warning, governor,
          good ? "" : "set it to performance before measuring the processor"};
}

Finding memory_finding() {
  const double gb = static_cast<double>(physical_memory_bytes()) * 1e-9;
  return {"memory", gb < 4 ? Verdict::bad : Verdict::good, fmt::format("{:.1f} GB", gb),
          gb < 4 ? "4 GB are needed for the demo" : ""};
}

// Why no file can be made in the folder; empty where one can. Tried, since permissions do not tell it all: root passes
// them, and some file systems take no files.
std::string why_not_writable(const std::filesystem::path& folder) {
  std::string name = (folder / ".quantgrid-doctor-XXXXXX").string();  // mkstemp() puts letters of its own for the X
  const int file = mkstemp(name.data());
  if (file < 0) return std::strerror(errno);
  close(file);
  unlink(name.c_str());
  return {};
}

Finding disk_finding() {
  std::error_code code;
  const std::filesystem::path here = std::filesystem::current_path(code);
  const auto space = code ? std::filesystem::space_info{} : std::filesystem::space(here, code);
  if (code) return {"disk here", Verdict::bad, code.message(), "work in a folder that can be written to"};
  if (const std::string why = why_not_writable(here); !why.empty())
    return {
        "disk here", Verdict::bad, fmt::format("{} cannot be written to: {}", here.string(), why),
        "journals and checkpoints are written here: work in a folder of your own (cd), or have this one opened to you"};
  const double gb = static_cast<double>(space.available) * 1e-9;
  return {"disk here", gb < 5 ? Verdict::warning : Verdict::good, fmt::format("{:.1f} GB free", gb),
          gb < 5 ? "the demo needs about 2 GB, checkpoints of an 8B model 6 to 9 GB each" : ""};
}

struct ProbeResult {
  double copy_gbps = 0, read_gbps = 0, gemm_gflops = 0;
};

// Best of several passes: other work can only slow a pass down.
template <class Fn>
double best_seconds(int passes, const Fn& fn) {
  double best = 1e300;
  for (int i = 0; i < passes; ++i) {
    const auto start = std::chrono::steady_clock::now();
    fn();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

ProbeResult probe() {
  constexpr int64_t kBytes = int64_t{256} << 20, kGrain = int64_t{4} << 20;
  HostBuffer from(kBytes), to(kBytes);
  std::memset(from.data(), 1, kBytes);
  std::memset(to.data(), 2, kBytes);
  ProbeResult r;
  r.copy_gbps = 2e-9 * kBytes / best_seconds(5, [&] {
                  parallel_for(kBytes, kGrain, [&](int64_t begin, int64_t end) {
                    std::memcpy(to.data() + begin, from.data() + begin, static_cast<size_t>(end - begin));
                  });
                });
  std::vector<uint64_t> sums(kBytes / kGrain);
  r.read_gbps = 1e-9 * kBytes / best_seconds(5, [&] {
                  parallel_for(kBytes, kGrain, [&](int64_t begin, int64_t end) {
                    const auto* p = reinterpret_cast<const uint64_t*>(from.data() + begin);
                    sums[static_cast<size_t>(begin / kGrain)] = std::accumulate(p, p + (end - begin) / 8, uint64_t{0});
                  });
                });
  constexpr int64_t kSide = 768;
  std::vector<float> a(kSide * kSide, 0.5f), b(kSide * kSide, 0.25f), c(kSide * kSide);
  r.gemm_gflops = 2e-9 * kSide * kSide * kSide /
                  best_seconds(4, [&] { matmul_nt(a.data(), b.data(), c.data(), kSide, kSide, kSide); });
  return r;
}

std::vector<Finding> examine(const GpuInventory& gpus) {
  std::vector<Finding> findings{gpu_finding(gpus)};
  if (gpus.driver_found) findings.push_back(driver_finding(gpus));
  for (const GpuDevice& gpu : gpus.devices)
    for (Finding& f : condition_findings(gpu)) findings.push_back(std::move(f));
  for (const Finding& f : {memory_finding(), disk_finding(), load_finding(), governor_finding()}) findings.push_back(f);
  return findings;
}

// A card that CUDA does not show is not probed; CUDA counts them in an order of its own.
struct GpuProbe {
  int index = 0;  // as NVML counts
  DeviceProbe found;
};
std::vector<GpuProbe> probe_gpus(const GpuInventory& gpus) {
  std::vector<GpuProbe> probes;
  const std::vector<std::string> visible = visible_devices();
  for (const GpuDevice& gpu : gpus.devices) {
    const auto at = std::find(visible.begin(), visible.end(), gpu.uuid);
    if (at != visible.end()) probes.push_back({gpu.index, probe_device(static_cast<int>(at - visible.begin()))});
  }
  return probes;
}

void print_probe(const ProbeResult& cpu, const std::vector<GpuProbe>& gpus) {
  fmt::print(
      "processor: copy {:.1f} GB/s (bytes read and written), read {:.1f} GB/s, reference product {:.0f} GFLOP/s\n",
      cpu.copy_gbps, cpu.read_gbps, cpu.gemm_gflops);
  for (const auto& [index, gpu] : gpus)
    fmt::print(
        "GPU {}: copy {:.0f} GB/s, read {:.0f} GB/s; products of 8,192 cubed: FP16 {:.0f} TFLOP/s, FP8 {:.0f}, "
        "INT8 {:.0f} TOP/s\n",
        index, gpu.copy_gbps, gpu.read_gbps, gpu.f16_tflops, gpu.fp8_tflops, gpu.int8_tops);
}

Json probe_json(const ProbeResult& cpu, const std::vector<GpuProbe>& gpus) {
  Json j{{"copy_gbps", cpu.copy_gbps}, {"read_gbps", cpu.read_gbps}, {"float_gflops", cpu.gemm_gflops}};
  for (const auto& [index, gpu] : gpus)
    j["gpus"].push_back({{"index", index},
                         {"copy_gbps", gpu.copy_gbps},
                         {"read_gbps", gpu.read_gbps},
                         {"f16_tflops", gpu.f16_tflops},
                         {"fp8_tflops", gpu.fp8_tflops},
                         {"int8_tops", gpu.int8_tops}});
  return j;
}

ExitCode run(bool with_probe, bool json) {
  const GpuInventory gpus = list_gpus();
  const std::vector<Finding> findings = examine(gpus);
  const ProbeResult measured = with_probe ? probe() : ProbeResult{};
  const std::vector<GpuProbe> gpu_probes = with_probe ? probe_gpus(gpus) : std::vector<GpuProbe>{};
  const bool bad =
      std::any_of(findings.begin(), findings.end(), [](const Finding& f) { return f.verdict == Verdict::bad; });
  if (json) {
    Json out;
    for (const Finding& f : findings)
      out["findings"].push_back({{"what", f.what},
                                 {"verdict", f.verdict == Verdict::good      ? "good"
                                             : f.verdict == Verdict::warning ? "warning"
                                                                             : "bad"},
                                 {"said", f.said},
                                 {"fix", f.fix}});
    if (with_probe) out["probe"] = probe_json(measured, gpu_probes);
    fmt::print("{}\n", json_text(out, 2));
  } else {
    for (const Finding& f : findings) {
      fmt::print("{}  {:<16} {}\n", mark(f.verdict), f.what, f.said);
      if (!f.fix.empty()) fmt::print("{:24}{}\n", "", f.fix);
    }
    if (with_probe) print_probe(measured, gpu_probes);
  }
  return bad ? ExitCode::cannot_here : ExitCode::done;
}

const RegisterVerb kVerb({20, "doctor", "Is this machine fit to measure on", "quantgrid doctor --probe",
                          [](CLI::App& command) -> std::function<ExitCode()> {
                            auto with_probe = std::make_shared<bool>(false), json = std::make_shared<bool>(false);
                            command.add_flag("--probe", *with_probe,
                                             "measure bandwidth and arithmetic too (a few seconds)");
                            command.add_flag("--json", *json, "print JSON");
                            return [with_probe, json] { return run(*with_probe, *json); };
                          }});

}  // namespace
}  // namespace qg
