// quantgrid doctor: is this machine fit to measure on.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "bench/nvml.h"
#include "core/json.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/linear/gemm.h"
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

Finding gpu_finding() {
  const GpuInventory gpus = list_gpus();
  if (gpus.devices.empty())
    return {"graphics cards", Verdict::warning, "none found: " + gpus.problem,
            "cases of cards cannot be measured here; the CPU executor measures accuracy"};
  std::string names;
  for (const GpuDevice& gpu : gpus.devices) names += (names.empty() ? "" : ", ") + gpu.name;
  return {"graphics cards", Verdict::good, names, ""};
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

Finding disk_finding() {
  std::error_code code;
  const auto space = std::filesystem::space(".", code);
  if (code) return {"disk here", Verdict::bad, code.message(), "work in a folder that can be written to"};
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

ExitCode run(bool with_probe, bool json) {
  std::vector<Finding> findings{gpu_finding(), memory_finding(), disk_finding(), load_finding(), governor_finding()};
  const ProbeResult measured = with_probe ? probe() : ProbeResult{};
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
    if (with_probe)
      out["probe"] = {
          {"copy_gbps", measured.copy_gbps}, {"read_gbps", measured.read_gbps}, {"float_gflops", measured.gemm_gflops}};
    fmt::print("{}\n", out.dump(2));
  } else {
    for (const Finding& f : findings) {
      fmt::print("{}  {:<16} {}\n", mark(f.verdict), f.what, f.said);
      if (!f.fix.empty()) fmt::print("{:24}{}\n", "", f.fix);
    }
    if (with_probe)
      fmt::print(
          "processor: copy {:.1f} GB/s (bytes read and written), read {:.1f} GB/s, reference product {:.0f} GFLOP/s\n",
          measured.copy_gbps, measured.read_gbps, measured.gemm_gflops);
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
