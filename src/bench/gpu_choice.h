#pragma once
// Which GPU a program runs on: --gpu and --shared. CUDA and NVML count cards differently (CUDA_VISIBLE_DEVICES hides
// and reorders them), so that cards are matched by UUID.
#include <span>
#include <string>
#include <vector>

#include "bench/nvml.h"

namespace qg {

// `visible`: UUIDs of the cards that CUDA shows, in its order. wanted: an index of `gpus` (what `quantgrid devices`
// prints), a UUID or the unique beginning of one, or empty for the first visible card. Returns the number of the card
// among `visible`. Throws Error: no such card (exit code 1), or none that CUDA can use (4).
int pick_gpu(std::span<const std::string> visible, const GpuInventory& gpus, const std::string& wanted);

// Why measuring or serving on a card would disturb, or be disturbed by, others; empty when it is free. Other processes
// are counted where the driver tells of them; in a container it may not, but their memory is seen.
std::string why_busy(const GpuConditions& conditions, const GpuReading& reading);

// Both for this machine: the number of the card, as CUDA counts. A busy card is refused (exit code 4) unless `shared`;
// a card that this process has been given once is not asked about again.
int choose_gpu(const std::string& wanted, bool shared);

}  // namespace qg
