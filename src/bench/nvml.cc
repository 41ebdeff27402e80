#include "bench/nvml.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <utility>

namespace qg {
namespace {

// The part of NVML's C interface that is used here. It is stable: structures only grow under new names.
using Handle = void*;
struct MemoryInfo {
  unsigned long long total_bytes, free_bytes, used_bytes;
};
constexpr int kSuccess = 0;
constexpr const char* kLibrary = "libnvidia-ml.so.1";

class Library {
 public:
  Library() : handle_(dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL)) {}
  ~Library() {
    if (handle_) dlclose(handle_);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  bool is_open() const { return handle_ != nullptr; }
  template <class Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(handle_, name));
  }

 private:
  void* handle_;
};

struct Functions {
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*device_count)(unsigned*) = nullptr;
  int (*device_handle)(unsigned, Handle*) = nullptr;
  int (*device_name)(Handle, char*, unsigned) = nullptr;
  int (*device_uuid)(Handle, char*, unsigned) = nullptr;
  int (*device_memory)(Handle, MemoryInfo*) = nullptr;
  int (*device_capability)(Handle, int*, int*) = nullptr;

  explicit Functions(const Library& library) {
    init = library.find<int()>("nvmlInit_v2");
    shutdown = library.find<int()>("nvmlShutdown");
    error_string = library.find<const char*(int)>("nvmlErrorString");
    driver_version = library.find<int(char*, unsigned)>("nvmlSystemGetDriverVersion");
    device_count = library.find<int(unsigned*)>("nvmlDeviceGetCount_v2");
    device_handle = library.find<int(unsigned, Handle*)>("nvmlDeviceGetHandleByIndex_v2");
    device_name = library.find<int(Handle, char*, unsigned)>("nvmlDeviceGetName");
    device_uuid = library.find<int(Handle, char*, unsigned)>("nvmlDeviceGetUUID");
    device_memory = library.find<int(Handle, MemoryInfo*)>("nvmlDeviceGetMemoryInfo");
    device_capability = library.find<int(Handle, int*, int*)>("nvmlDeviceGetCudaComputeCapability");
  }

  bool are_complete() const {
    return init && shutdown && error_string && driver_version && device_count && device_handle && device_name &&
           device_uuid && device_memory && device_capability;
  }
};

// Reads a string through an NVML call; empty and a note in `problem` when the call fails.
template <class Call>
std::string read_text(const Functions& nvml, std::string& problem, const char* what, Call call) {
  std::array<char, 128> text{};
  const int status = call(text.data(), static_cast<unsigned>(text.size()));
  text.back() = '\0';
  if (status == kSuccess) return text.data();
  problem = std::string("NVML could not read ") + what + ": " + nvml.error_string(status);
  return {};
}

GpuDevice read_device(const Functions& nvml, unsigned index, std::string& problem) {
  GpuDevice device;
  device.index = static_cast<int>(index);
  Handle handle = nullptr;
  if (const int status = nvml.device_handle(index, &handle); status != kSuccess) {
    problem = "NVML could not open GPU " + std::to_string(index) + ": " + nvml.error_string(status);
    return device;
  }
  device.name =
      read_text(nvml, problem, "a GPU's name", [&](char* t, unsigned n) { return nvml.device_name(handle, t, n); });
  device.uuid =
      read_text(nvml, problem, "a GPU's UUID", [&](char* t, unsigned n) { return nvml.device_uuid(handle, t, n); });
  MemoryInfo memory{};
  if (nvml.device_memory(handle, &memory) == kSuccess) device.memory_bytes = static_cast<int64_t>(memory.total_bytes);
  nvml.device_capability(handle, &device.cc_major, &device.cc_minor);
  return device;
}

}  // namespace

GpuInventory list_gpus() {
  GpuInventory found;
  const Library library;
  if (!library.is_open()) {
    found.problem =
        std::filesystem::exists("/proc/driver/nvidia/version")
            ? "the NVIDIA kernel module is loaded, but libnvidia-ml.so.1 is not there: install the driver's "
              "user-space package of the same version"
            : "no NVIDIA driver was found";
    return found;
  }
  const Functions nvml(library);
  if (!nvml.are_complete()) {
    found.problem = "libnvidia-ml.so.1 is there, but too old or not NVIDIA's";
    return found;
  }
  if (const int status = nvml.init(); status != kSuccess) {
    found.problem = std::string("the NVIDIA driver does not answer: ") + nvml.error_string(status);
    return found;
  }
  found.driver_found = true;
  found.driver_version = read_text(nvml, found.problem, "the driver's version",
                                   [&](char* t, unsigned n) { return nvml.driver_version(t, n); });
  if (auto* cuda_version = library.find<int(int*)>("nvmlSystemGetCudaDriverVersion_v2"))
    if (cuda_version(&found.cuda_version) != kSuccess) found.cuda_version = 0;
  unsigned count = 0;
  if (const int status = nvml.device_count(&count); status != kSuccess)
    found.problem = std::string("NVML could not count the GPUs: ") + nvml.error_string(status);
  for (unsigned i = 0; i < count; ++i) found.devices.push_back(read_device(nvml, i, found.problem));
  nvml.shutdown();
  return found;
}

struct GpuMeter::State {
  Library library;
  Functions nvml{library};
  int (*energy)(Handle, unsigned long long*) = nullptr;  // mJ
  int (*clock)(Handle, int, unsigned*) = nullptr;        // MHz
  int (*temperature)(Handle, int, unsigned*) = nullptr;  // degrees Celsius
  int (*power)(Handle, unsigned*) = nullptr;             // mW
  Handle device = nullptr;
  bool started = false;
};

GpuMeter::GpuMeter(const std::string& uuid) : state_(std::make_unique<State>()) {
  State& s = *state_;
  if (!s.library.is_open() || !s.nvml.are_complete() || s.nvml.init() != kSuccess) return;
  s.started = true;
  auto* by_uuid = s.library.find<int(const char*, Handle*)>("nvmlDeviceGetHandleByUUID");
  const int status = by_uuid ? by_uuid(uuid.c_str(), &s.device) : -1;
  if (status != kSuccess) s.device = nullptr;
  s.energy = s.library.find<int(Handle, unsigned long long*)>("nvmlDeviceGetTotalEnergyConsumption");
  s.clock = s.library.find<int(Handle, int, unsigned*)>("nvmlDeviceGetClockInfo");
  s.temperature = s.library.find<int(Handle, int, unsigned*)>("nvmlDeviceGetTemperature");
  s.power = s.library.find<int(Handle, unsigned*)>("nvmlDeviceGetPowerUsage");
}

GpuMeter::~GpuMeter() {
  if (state_->started) state_->nvml.shutdown();
}

GpuReading GpuMeter::read() const {
  constexpr int kSmClock = 1, kGpuSensor = 0;
  const State& s = *state_;
  GpuReading reading;
  if (!s.device) return reading;
  unsigned long long millijoules = 0;
  if (s.energy && s.energy(s.device, &millijoules) == kSuccess)
    reading.energy_j = 1e-3 * static_cast<double>(millijoules);
  MemoryInfo memory{};
  if (s.nvml.device_memory(s.device, &memory) == kSuccess)
    reading.memory_used_bytes = static_cast<int64_t>(memory.used_bytes);
  unsigned number = 0;
  if (s.clock && s.clock(s.device, kSmClock, &number) == kSuccess) reading.sm_mhz = number;
  if (s.temperature && s.temperature(s.device, kGpuSensor, &number) == kSuccess) reading.temperature_c = number;
  if (s.power && s.power(s.device, &number) == kSuccess) reading.power_w = 1e-3 * number;
  return reading;
}

namespace {

// One entry of nvmlDeviceGetComputeRunningProcesses_v3.
struct ProcessInfo {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance, compute_instance;
};

std::optional<int64_t> count_other_processes(const Library& library, Handle device) {
  auto* running = library.find<int(Handle, unsigned*, ProcessInfo*)>("nvmlDeviceGetComputeRunningProcesses_v3");
  std::array<ProcessInfo, 256> processes{};
  auto count = static_cast<unsigned>(processes.size());
  if (!running || running(device, &count, processes.data()) != kSuccess) return std::nullopt;
  const auto self = static_cast<unsigned>(::getpid());
  return std::count_if(processes.begin(), processes.begin() + count,
                       [&](const ProcessInfo& p) { return p.pid != self; });
}

std::optional<double> read_watts(const Library& library, const char* function, Handle device) {
  auto* read = library.find<int(Handle, unsigned*)>(function);
  unsigned milliwatts = 0;
  if (!read || read(device, &milliwatts) != kSuccess) return std::nullopt;
  return 1e-3 * milliwatts;
}

// Bits of nvmlDeviceGetCurrentClocksThrottleReasons (nvml.h: nvmlClocksThrottleReason*); idleness and clocks that a
// program asked for are no fault.
constexpr std::pair<unsigned long long, const char*> kSlowedBy[] = {
    {0x4, "power cap"}, {0x8, "hardware slowdown"}, {0x20, "heat"}, {0x40, "heat (hardware)"}, {0x80, "power brake"}};

}  // namespace

GpuConditions GpuMeter::conditions() const {
  const State& s = *state_;
  GpuConditions found;
  if (!s.device) return found;
  found.other_processes = count_other_processes(s.library, s.device);
  found.power_limit_w = read_watts(s.library, "nvmlDeviceGetEnforcedPowerLimit", s.device);
  found.default_power_limit_w = read_watts(s.library, "nvmlDeviceGetPowerManagementDefaultLimit", s.device);
  unsigned current = 0, pending = 0;
  if (auto* ecc = s.library.find<int(Handle, unsigned*, unsigned*)>("nvmlDeviceGetEccMode"))
    if (ecc(s.device, &current, &pending) == kSuccess) found.ecc = current != 0;
  unsigned long long reasons = 0;
  if (auto* read = s.library.find<int(Handle, unsigned long long*)>("nvmlDeviceGetCurrentClocksThrottleReasons"))
    if (read(s.device, &reasons) == kSuccess)
      for (const auto& [bit, name] : kSlowedBy)
        if (reasons & bit) found.slowed_by.emplace_back(name);
  return found;
}

}  // namespace qg
