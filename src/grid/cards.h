#pragma once
// Cards: one row a board. Data-sheet figures (dense rates, FP32 accumulation); sources stand at the rows in cards.cc.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"

namespace qg {

// Shares of the data-sheet figure that well-made kernels are assumed to reach; used for estimates only.
struct CardEfficiency {
  double bandwidth = 0.85, fp16 = 0.7, eight_bit = 0.6;
};

struct Card {
  std::string id;                          // "a100"
  std::string label;                       // "A100 80 GB SXM"
  std::vector<std::string> product_names;  // as NVML names the board, in full
  int cc_major = 0, cc_minor = 0;          // compute capability; 0.0 for the CPU
  int64_t memory_bytes = 0;                // visible to programs; 0: not known (the CPU row)
  double bandwidth_gbps = 0;               // 1e9 bytes/s; 0: not known
  double fp16_tflops = 0;
  double fp8_tflops = 0;  // 0: the card has no FP8 arithmetic
  double int8_tops = 0;
  int sms = 0;
  int64_t shared_bytes_per_sm = 0;
  CardEfficiency efficiency;

  int cc() const { return cc_major * 10 + cc_minor; }  // 89
  // The most that one block can have: CUDA keeps 1 KiB of a multiprocessor's for itself.
  int64_t shared_bytes_per_block() const { return shared_bytes_per_sm > 1024 ? shared_bytes_per_sm - 1024 : 0; }
  bool is_cpu() const { return cc_major == 0; }
  bool has_fp8() const { return cc() >= 89; }  // mma.sync e4m3 and e4m3 conversion
};

// All rows: a100 a10 h100 l4 l40, then the other boards people have, then "cpu".
const std::vector<Card>& cards();
const Card* find_card(std::string_view id);  // null when there is none
std::vector<std::string> card_ids();

// Which row a board in this machine is. By whole product name, compute capability and memory, never by a part of the
// name: an A10 is not an A100, an L4 not an L40, an A10G not an A10.
struct CardMatch {
  const Card* card = nullptr;
  std::string reason;  // why there is none; empty when there is one
};
CardMatch identify_card(std::string_view product_name, int cc_major, int cc_minor, int64_t memory_bytes);

// 1e12 operations a second that the card can do on this path with FP16 and 8-bit inputs at data-sheet rate. FP8 weights
// on a card without FP8 arithmetic are multiplied as FP16.
double peak_tflops(const Card& card, WeightFormat weights);

}  // namespace qg
