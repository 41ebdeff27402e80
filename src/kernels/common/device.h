#pragma once
// What a kernel may be chosen by: the card, and the family of kernels that may run on it. No CUDA here, so that the
// choice is made and tested on any machine.
#include <cstdint>
#include <string>

namespace qg {

// Named by the lowest architecture that runs them; a card runs its own family and those before it. Forcing an earlier
// family on a later card (`--target a10` on an H100) runs exactly what the earlier card would run.
enum class KernelFamily { sm80, sm89, sm90a };

struct DeviceCapabilities {
  std::string name;            // "NVIDIA H100 80GB HBM3"
  int compute_capability = 0;  // 80, 86, 89, 90
  int multiprocessors = 0;
  int64_t shared_bytes_per_block = 0;  // the opt-in limit
  int64_t l2_bytes = 0;
  int64_t memory_bytes = 0;
  KernelFamily family = KernelFamily::sm80;  // the latest that may be used here
};

inline const char* to_string(KernelFamily family) {
  return family == KernelFamily::sm80 ? "sm80" : family == KernelFamily::sm89 ? "sm89" : "sm90a";
}

// The family of a card's own; e.g. 86 → sm80, 90 → sm90a.
inline KernelFamily family_of(int compute_capability) {
  return compute_capability >= 90   ? KernelFamily::sm90a
         : compute_capability >= 89 ? KernelFamily::sm89
                                    : KernelFamily::sm80;
}

}  // namespace qg
