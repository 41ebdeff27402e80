#include "runtime/weight_budget.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace qg {
namespace {

int64_t linear_bytes(const LinearSpec& linear, const QuantSpec& quant) {
  const int64_t n = linear.n, k = linear.k;
  switch (quant.weights) {
    case WeightFormat::fp16:
      return 2 * n * k;
    case WeightFormat::fp8:
    case WeightFormat::int8_sq:
      return n * k + 4 * n;
    case WeightFormat::int4_awq:
      return n * k / 2 + n * k / std::max<int64_t>(1, quant.group_size) * (quant.zero_points ? 4 : 2);
  }
  return 0;
}

double gb(int64_t bytes) {
  return static_cast<double>(bytes) * 1e-9;
}

}  // namespace

int64_t device_weight_bytes(const ModelTable& table, const QuantSpec& quant) {
  int64_t bytes = 2 * 2 * table.shape.vocab * table.shape.hidden;
  for (const LinearSpec& linear : table.linears) bytes += linear_bytes(linear, quant);
  for (const TensorSpec& tensor : table.tensors)
    if (tensor.shape.size() == 1) bytes += 4 * tensor.shape.front();  // norms
  return bytes;
}

void check_weights_fit(const WeightBudget& b, const std::string& where) {
  const int64_t used = b.card_bytes - b.free_bytes;
  int64_t left = b.free_bytes - b.reserved_bytes;
  if (b.limit_bytes > 0) left = std::min(left, b.limit_bytes - used - b.reserved_bytes);
  if (b.weight_bytes <= left) return;
  throw Error(
      fmt::format("the weights do not fit: they take {:.2f} GB; of the card's {:.2f} GB{} {:.2f} GB are in use, "
                  "{:.2f} GB are kept free and {:.2f} GB are left",
                  gb(b.weight_bytes), gb(b.card_bytes),
                  b.limit_bytes > 0 ? fmt::format(", of which {:.2f} GB may be used,", gb(b.limit_bytes)) : "",
                  gb(used), gb(b.reserved_bytes), gb(std::max<int64_t>(left, 0))),
      where, "take a smaller weight format, a card with more memory, or end what else runs on this one",
      ExitCode::cannot_here);
}

}  // namespace qg
