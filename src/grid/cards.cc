#include "grid/cards.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace qg {
namespace {

constexpr int64_t kKib = 1024;

// NVML reports a little less or more than the row, by firmware and ECC: within this share it is the same board.
constexpr double kMemoryTolerance = 0.06;

// Sources. Rates, bandwidth, SMs: NVIDIA data sheets of A100, A10, H100, L4, L40, L40S, H200 and RTX A6000, and the Ada
// architecture paper for the RTX 4090 (its FP32-accumulate column); dense, without sparsity. Memory: what programs see
// (23,034 MiB on A10 and L4, 46,068 MiB on L40 and L40S with ECC). Shared memory: CUDA programming guide, table of
// compute capabilities. Efficiencies: bandwidth and FP16 of the H100 were measured; its 8-bit share is a published GEMM
// rate; A100 and L40 are what cuBLAS usually reaches; A10 and L4 are lowered because their power limits (150 W, 72 W)
// do not hold boost clocks under matrix load; rtx4090 and a6000 are taken from L40S and A10-class silicon.
std::vector<Card> make_cards() {
  std::vector<Card> rows;
  const auto add = [&rows](Card card) { rows.push_back(std::move(card)); };
  add({.id = "a100",
       .label = "A100 80 GB SXM",
       .product_names = {"A100-SXM4-80GB"},
       .cc_major = 8,
       .cc_minor = 0,
       .memory_bytes = 85'900'000'000,
       .bandwidth_gbps = 2039,
       .fp16_tflops = 312,
       .fp8_tflops = 0,
       .int8_tops = 624,
       .sms = 108,
       .shared_bytes_per_sm = 164 * kKib,
       .efficiency = {0.90, 0.80, 0.65}});
  add({.id = "a10",
       .label = "A10 24 GB",
       .product_names = {"A10"},
       .cc_major = 8,
       .cc_minor = 6,
       .memory_bytes = 24'100'000'000,
       .bandwidth_gbps = 600,
       .fp16_tflops = 125,
       .fp8_tflops = 0,
       .int8_tops = 250,
       .sms = 72,
       .shared_bytes_per_sm = 100 * kKib,
       .efficiency = {0.83, 0.55, 0.55}});
  add({.id = "h100",
       .label = "H100 80 GB SXM5",
       .product_names = {"H100 80GB HBM3"},
       .cc_major = 9,
       .cc_minor = 0,
       .memory_bytes = 85'900'000'000,
       .bandwidth_gbps = 3352,
       .fp16_tflops = 989,
       .fp8_tflops = 1979,
       .int8_tops = 1979,
       .sms = 132,
       .shared_bytes_per_sm = 228 * kKib,
       .efficiency = {0.90, 0.78, 0.68}});
  add({.id = "l4",
       .label = "L4 24 GB",
       .product_names = {"L4"},
       .cc_major = 8,
       .cc_minor = 9,
       .memory_bytes = 24'100'000'000,
       .bandwidth_gbps = 300,
       .fp16_tflops = 121,
       .fp8_tflops = 242,
       .int8_tops = 242,
       .sms = 58,
       .shared_bytes_per_sm = 100 * kKib,
       .efficiency = {0.88, 0.50, 0.50}});
  add({.id = "l40",
       .label = "L40 48 GB",
       .product_names = {"L40"},
       .cc_major = 8,
       .cc_minor = 9,
       .memory_bytes = 48'300'000'000,
       .bandwidth_gbps = 864,
       .fp16_tflops = 181,
       .fp8_tflops = 362,
       .int8_tops = 362,
       .sms = 142,
       .shared_bytes_per_sm = 100 * kKib,
       .efficiency = {0.88, 0.80, 0.75}});
  add({.id = "a100-40g",
       .label = "A100 40 GB",
       .product_names = {"A100-SXM4-40GB", "A100-PCIE-40GB"},
       .cc_major = 8,
       .cc_minor = 0,
       .memory_bytes = 42'900'000'000,
       .bandwidth_gbps = 1555,
       .fp16_tflops = 312,
       .fp8_tflops = 0,
       .int8_tops = 624,
       .sms = 108,
       .shared_bytes_per_sm = 164 * kKib,
       .efficiency = {0.90, 0.80, 0.65}});
  add({.id = "a100-pcie",
       .label = "A100 80 GB PCIe",
       .product_names = {"A100 80GB PCIe"},
       .cc_major = 8,
       .cc_minor = 0,
       .memory_bytes = 85'900'000'000,
       .bandwidth_gbps = 1935,
       .fp16_tflops = 312,
       .fp8_tflops = 0,
       .int8_tops = 624,
       .sms = 108,
       .shared_bytes_per_sm = 164 * kKib,
       .efficiency = {0.90, 0.75, 0.62}});
  add({.id = "h100-pcie",
       .label = "H100 80 GB PCIe",
       .product_names = {"H100 PCIe"},
       .cc_major = 9,
       .cc_minor = 0,
       .memory_bytes = 85'900'000'000,
       .bandwidth_gbps = 2039,
       .fp16_tflops = 756,
       .fp8_tflops = 1513,
       .int8_tops = 1513,
       .sms = 114,
       .shared_bytes_per_sm = 228 * kKib,
       .efficiency = {0.90, 0.65, 0.60}});
  add({.id = "h200",
       .label = "H200 141 GB SXM",
       .product_names = {"H200"},
       .cc_major = 9,
       .cc_minor = 0,
       .memory_bytes = 150'000'000'000,
       .bandwidth_gbps = 4800,
       .fp16_tflops = 989,
       .fp8_tflops = 1979,
       .int8_tops = 1979,
       .sms = 132,
       .shared_bytes_per_sm = 228 * kKib,
       .efficiency = {0.90, 0.78, 0.68}});
  add({.id = "l40s",
       .label = "L40S 48 GB",
       .product_names = {"L40S"},
       .cc_major = 8,
       .cc_minor = 9,
       .memory_bytes = 48'300'000'000,
       .bandwidth_gbps = 864,
       .fp16_tflops = 362,
       .fp8_tflops = 733,
       .int8_tops = 733,
       .sms = 142,
       .shared_bytes_per_sm = 100 * kKib,
       .efficiency = {0.88, 0.70, 0.60}});
  add({.id = "a6000",
       .label = "RTX A6000 48 GB",
       .product_names = {"RTX A6000"},
       .cc_major = 8,
       .cc_minor = 6,
       .memory_bytes = 51'500'000'000,
       .bandwidth_gbps = 768,
       .fp16_tflops = 154.8,
       .fp8_tflops = 0,
       .int8_tops = 309.7,
       .sms = 84,
       .shared_bytes_per_sm = 100 * kKib,
       .efficiency = {0.83, 0.65, 0.60}});
  add({.id = "rtx4090",
       .label = "GeForce RTX 4090 24 GB",
       .product_names = {"GeForce RTX 4090"},
       .cc_major = 8,
       .cc_minor = 9,
       .memory_bytes = 25'750'000'000,
       .bandwidth_gbps = 1008,
       .fp16_tflops = 165.2,
       .fp8_tflops = 330.3,
       .int8_tops = 660.6,
       .sms = 128,
       .shared_bytes_per_sm = 100 * kKib,
       .efficiency = {0.88, 0.80, 0.70}});
  add({.id = "cpu", .label = "this machine's CPU (reference executor)", .product_names = {}, .efficiency = {}});
  return rows;
}

// Drivers before 470 left the vendor out.
std::string_view without_vendor(std::string_view name) {
  constexpr std::string_view kVendor = "NVIDIA ";
  return name.starts_with(kVendor) ? name.substr(kVendor.size()) : name;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\0')) text.remove_suffix(1);
  return text;
}

}  // namespace

const std::vector<Card>& cards() {
  static const std::vector<Card> kRows = make_cards();
  return kRows;
}

const Card* find_card(std::string_view id) {
  for (const Card& card : cards())
    if (card.id == id) return &card;
  return nullptr;
}

std::vector<std::string> card_ids() {
  std::vector<std::string> ids;
  for (const Card& card : cards()) ids.push_back(card.id);
  return ids;
}

CardMatch identify_card(std::string_view product_name, int cc_major, int cc_minor, int64_t memory_bytes) {
  const std::string_view name = without_vendor(trimmed(product_name));
  if (name.find(" MIG ") != std::string_view::npos)
    return {nullptr, fmt::format("\"{}\" is a slice of a card (MIG); its speed is not the card's", product_name)};
  for (const Card& card : cards()) {
    if (std::find(card.product_names.begin(), card.product_names.end(), name) == card.product_names.end()) continue;
    if (card.cc_major != cc_major || card.cc_minor != cc_minor)
      return {nullptr, fmt::format("\"{}\" should have compute capability {}.{}, but the driver says {}.{}",
                                   product_name, card.cc_major, card.cc_minor, cc_major, cc_minor)};
    const double share = static_cast<double>(memory_bytes) / static_cast<double>(card.memory_bytes);
    if (std::abs(share - 1) > kMemoryTolerance)
      return {nullptr,
              fmt::format("\"{}\" should have {:.1f} GB of memory, but the driver says {:.1f} GB", product_name,
                          static_cast<double>(card.memory_bytes) / 1e9, static_cast<double>(memory_bytes) / 1e9)};
    return {&card, {}};
  }
  return {nullptr, fmt::format("\"{}\" (compute capability {}.{}) is not a card that the program knows; describe it in "
                               "the grid file under [cards.NAME]",
                               product_name, cc_major, cc_minor)};
}

double peak_tflops(const Card& card, WeightFormat weights) {
  switch (weights) {
    case WeightFormat::fp16:
    case WeightFormat::int4_awq:
      return card.fp16_tflops;
    case WeightFormat::fp8:
      return card.has_fp8() ? card.fp8_tflops : card.fp16_tflops;
    case WeightFormat::int8_sq:
      return card.int8_tops;
  }
  throw Error("unknown weight format");
}

}  // namespace qg
