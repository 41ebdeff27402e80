// Which kernel runs a layer for which m.
#include <algorithm>
#include <array>

#include "kernels/linear/cuda_state.h"

namespace qg {
namespace {

// Up to how many rows the skinny kernel is the faster one (measured by `bench_gpu linear`). split:
// for 8-bit layers whose scales the library cannot apply in a single call.
// before_wide: where Hopper's kernel follows.
struct Crossover {
  ComputePath path;
  int64_t skinny_rows, skinny_rows_split, before_wide;
};
constexpr std::array kCrossovers{
    Crossover{ComputePath::w16a16, 8, 8, 8},       Crossover{ComputePath::w8a8_fp8, 16, 16, 16},
    Crossover{ComputePath::w8a8_int8, 16, 16, 16}, Crossover{ComputePath::w8a16_fp8, 64, 64, 64},
    Crossover{ComputePath::w4a16, 64, 64, 8},      Crossover{ComputePath::w16a16_bf16, 8, 8, 8},
};
constexpr int64_t kPartsFromRows = 256;    // a library call per part rather than sums and a scaling pass
constexpr int64_t kScaledFromRows = 512;   // the library's own row and column scales rather than that
constexpr int64_t kGatedRows = 128;        // up to which the library is not asked for a gate and its up
constexpr int64_t kGatedFromRows16 = 640;  // nor of 16 bits from here on
constexpr int64_t kSumsBytes = 64 << 20;   // of sums at a time
// Up to which a last tile that is cut off costs 16-bit products more time than rows of nothing cost power
// (docs/kernels.md).
constexpr int64_t kWholeRows = 512;

// What the library asks of a layer's shape: 16-byte rows, and for 8-bit types multiples of 16.
bool library_can(const LinearState& layer) {
  const bool bytes = layer.path == ComputePath::w8a8_fp8 || layer.path == ComputePath::w8a8_int8;
  for (const LinearPart& part : layer.parts)
    if (part.n % (bytes ? 16 : 8) != 0) return false;
  return true;
}

LinearRoute library_route(const LinearState& layer, int64_t m) {
  switch (layer.path) {
    case ComputePath::w16a16:
    case ComputePath::w16a16_bf16:
      return LinearRoute::library;
    case ComputePath::w4a16:
    case ComputePath::w8a16_fp8:
      return LinearRoute::expand;
    case ComputePath::w8a8_int8:
      return LinearRoute::library_sums;
    case ComputePath::w8a8_fp8:
      break;
  }
  const bool row_scales = layer.hopper && m >= kScaledFromRows;
  if (!layer.per_token) {
    if (layer.uniform) return LinearRoute::library;
    if (layer.alternating) return row_scales ? LinearRoute::library_scaled : LinearRoute::library_sums;
    return layer.tensor_scales && m >= kPartsFromRows ? LinearRoute::library_parts : LinearRoute::library_sums;
  }
  return row_scales ? LinearRoute::library_scaled : LinearRoute::library_sums;
}

// Where Hopper's own kernel is faster than what the library makes of these scales.
bool prefers_wide(const LinearState& layer, int64_t m) {
  if (!layer.wide) return false;
  // With the gating in it (`bench_gpu linear_gate`) it beats the library's product and a launch that gates.
  if (layer.alternating && m <= kGatedRows) return true;
  if (layer.alternating && layer.path == ComputePath::w16a16 && m >= kGatedFromRows16) return true;
  if (layer.path == ComputePath::w16a16) return false;
  if (layer.path != ComputePath::w8a8_fp8) return true;
  if (layer.per_token || (layer.alternating && !layer.uniform)) return m < kScaledFromRows;
  return !layer.uniform && (!layer.tensor_scales || m < kPartsFromRows);
}

int64_t skinny_rows(const LinearState& layer) {
  const bool split = layer.path == ComputePath::w8a8_int8 || layer.per_token || !layer.uniform;
  for (const Crossover& c : kCrossovers)
    if (c.path == layer.path)
      return prefers_wide(layer, c.before_wide + 1) ? c.before_wide : split ? c.skinny_rows_split : c.skinny_rows;
  return kSkinnyMaxTokens;
}

LinearRoute find_route(const LinearState& layer, int64_t m) {
  const std::optional<LinearRoute>& asked = layer.context->wanted;
  // One token of 4-bit weights is the one case in which the loads of the older kernel are faster (45 µs against 53 over
  // the four layers of Llama-3.1-8B).
  const bool one_int4 = !asked && m == 1 && layer.path == ComputePath::w4a16;
  const LinearRoute few = layer.hopper && !one_int4 ? LinearRoute::bulk : LinearRoute::skinny;
  if (asked == LinearRoute::skinny) return LinearRoute::skinny;
  if (asked == LinearRoute::bulk) return few;
  if (layer.wide && asked == LinearRoute::wide) return LinearRoute::wide;
  if (!asked) {
    if (const std::optional<LinearRoute> tuned = tuned_route(layer, m)) return *tuned;
    if (m <= skinny_rows(layer)) return few;
  }
  if (!asked && prefers_wide(layer, m)) return LinearRoute::wide;
  if (!library_can(layer)) return few;
  const LinearRoute route = library_route(layer, m);
  GemmShape shape = library_shape(layer, route, std::min(m, rows_a_piece(layer, route, m)), type_16(layer));
  if (route == LinearRoute::library_parts) shape.n = layer.parts.front().n;
  return layer.context->library.can_run(shape) ? route : few;
}

// Whether scratch holds the weights as halves.
bool keeps_expanded(const LinearState& layer) {
  const LinearContextState& context = *layer.context;
  return !layer.wide || context.wanted || context.measures || is_tuned_to(layer, LinearRoute::expand);
}

}  // namespace

std::vector<LinearRoute> possible_routes(const LinearState& layer, int64_t m) {
  constexpr int64_t kMostFewRows = 4 * kSkinnyMaxTokens;  // beyond, a kernel for few rows is never the fastest
  std::vector<LinearRoute> routes;
  if (m <= kMostFewRows) routes.push_back(layer.hopper ? LinearRoute::bulk : LinearRoute::skinny);
  if (layer.wide) routes.push_back(LinearRoute::wide);
  if (!library_can(layer)) return routes;
  const LinearRoute route = library_route(layer, m);
  if (route == LinearRoute::expand && !keeps_expanded(layer)) return routes;
  GemmShape shape = library_shape(layer, route, std::min(m, rows_a_piece(layer, route, m)), type_16(layer));
  if (route == LinearRoute::library_parts) shape.n = layer.parts.front().n;
  if (layer.context->library.can_run(shape)) routes.push_back(route);
  return routes;
}

int64_t whole_tiles(const LinearState& layer, int64_t first, int64_t m, int64_t tile) {
  return std::max(m, std::min((m + tile - 1) / tile * tile, layer.room - first));
}

int64_t library_rows(const LinearState& layer, int64_t first, int64_t m) {
  // A piece whose sums lie in scratch is a multiple of 128 rows: rounding up stays inside of it.
  const int64_t tile = m <= 64 || m > kWholeRows ? 1 : m <= 128 ? 128 : 64;
  return whole_tiles(layer, first, m, tile);
}

int64_t read_rows(const LinearState& layer, int64_t m, int64_t tile) {
  return m <= kWholeRows || *layer.wide == WideFormat::e4m3 || *layer.wide == WideFormat::int8
             ? whole_tiles(layer, 0, m, tile)
             : m;
}

int64_t most_rows_read(const LinearState& layer, int64_t m) {
  constexpr int64_t kLargestTile = 256;
  return std::max(m, std::min(m + kLargestTile - 1, layer.room));
}

WeightsAhead weights_ahead(const LinearState& layer, int64_t parts) {
  WeightsAhead ahead;
  if (!layer.next || !layer.hopper || layer.path != ComputePath::w4a16 || parts == 0) return ahead;
  const LinearState& next = *layer.next;
  const auto bytes = static_cast<int64_t>(next.weight.bytes()), most = std::min(bytes, layer.context->ahead_bytes);
  const auto scale_bytes = static_cast<int64_t>(next.group_scales.bytes());
  ahead.weight = next.weight.data();
  ahead.weight_bytes = static_cast<uint32_t>(most / parts / 16 * 16);
  ahead.scales = next.group_scales.data();
  ahead.scale_bytes = bytes == 0 ? 0 : static_cast<uint32_t>(scale_bytes * most / bytes / parts / 16 * 16);
  return ahead;
}

BulkPlan bulk_plan(const LinearState& layer, int64_t m) {
  return plan_bulk(layer.skinny, m, layer.n, layer.k,
                   kBulkBlocksPerMultiprocessor * layer.context->device.multiprocessors);
}

LinearRoute choose_route(const LinearState& layer, int64_t m) {
  const auto at = static_cast<size_t>(m);
  if (layer.routes.size() <= at) layer.routes.resize(at + 1, -1);
  if (layer.routes[at] < 0) layer.routes[at] = static_cast<int8_t>(find_route(layer, m));
  return static_cast<LinearRoute>(layer.routes[at]);
}

GemmShape library_shape(const LinearState& layer, LinearRoute route, int64_t m, DType y_type) {
  GemmShape shape;
  shape.m = m;
  shape.n = layer.n;
  shape.k = layer.k;
  shape.weight_pitch = route == LinearRoute::expand ? layer.k : layer.pitch;
  shape.y_pitch = layer.n;
  shape.y_type = y_type;
  if (layer.path == ComputePath::w8a8_int8) {
    shape.kind = GemmKind::int8;
    shape.y_type = DType::i32;
  } else if (layer.path == ComputePath::w8a8_fp8) {
    shape.kind = route == LinearRoute::library_scaled ? GemmKind::e4m3_scaled : GemmKind::e4m3;
    if (route == LinearRoute::library_sums) shape.y_type = DType::f32;
  } else if (layer.path == ComputePath::w16a16_bf16) {
    shape.kind = GemmKind::bf16;
    if (y_type == DType::f16) shape.y_type = DType::bf16;  // the library has no halves of these: converted after it
  }
  return shape;
}

int64_t rows_a_piece(const LinearState& layer, LinearRoute route, int64_t m) {
  if (runs_few_rows(route)) return kSkinnyMaxTokens;
  if (route == LinearRoute::wide) return m;
  if (route != LinearRoute::library_sums) return m;
  return std::max<int64_t>(128, kSumsBytes / 4 / layer.n / 128 * 128);
}

int64_t scratch_bytes(const LinearState& layer) {
  const LinearContextState& context = *layer.context;
  int64_t bytes = 0;
  for (int64_t m = 1; m <= std::min<int64_t>(context.max_rows, kSkinnyMaxTokens); ++m) {
    if (!layer.hopper || context.wanted)
      bytes = std::max(bytes,
                       skinny_partial_bytes(plan_skinny(layer.skinny, m, layer.n, layer.k, context.device), layer.n));
    if (layer.hopper) bytes = std::max(bytes, bulk_partial_bytes(bulk_plan(layer, m), layer.n));
  }
  if (context.max_rows <= skinny_rows(layer) && !context.wanted && !context.measures) return bytes;
  if (layer.wide) bytes = std::max(bytes, wide_partial_bytes(*layer.wide, context.device));
  const bool sums = layer.path == ComputePath::w8a8_int8 ||
                    (layer.path == ComputePath::w8a8_fp8 && (layer.per_token || !layer.uniform));
  const bool expands = layer.path == ComputePath::w4a16 || layer.path == ComputePath::w8a16_fp8;
  if (expands && keeps_expanded(layer)) bytes = std::max(bytes, layer.n * layer.k * 2);
  if (sums)
    bytes = std::max(
        bytes,
        layer.n * 4 * std::min(context.max_rows, rows_a_piece(layer, LinearRoute::library_sums, context.max_rows)));
  return bytes;
}

}  // namespace qg
