// Measuring: the library's algorithms, and which kernel is fastest for a layer and a number of rows.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kernels/common/cuda_time.h"
#include "kernels/linear/cuda_state.h"
#include "kernels/pointwise/cuda.h"

namespace qg {
namespace {

constexpr std::array<const char*, 8> kRouteNames{"skinny",        "bulk",           "wide",         "library",
                                                 "library_parts", "library_scaled", "library_sums", "expand"};
constexpr std::array<const char*, 6> kKindNames{"f16", "e4m3", "e4m3_scaled", "int8", "f32", "bf16"};  // GemmKind
constexpr int64_t kTunedRows[] = {24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048};
constexpr int kTimedRuns = 7;
constexpr double kWorthChanging = 0.95;  // of the built-in choice's time

std::string name_of(LinearRoute route) {
  return kRouteNames[static_cast<size_t>(route)];
}

std::optional<LinearRoute> route_named(const std::string& name) {
  for (size_t i = 0; i < kRouteNames.size(); ++i)
    if (name == kRouteNames[i]) return static_cast<LinearRoute>(i);
  return {};
}

// Times the library's algorithms for a route and bucket of m, once.
void prepare_route(const LinearState& s, LinearRoute route, int64_t m, DType y_type) {
  if (runs_few_rows(route) || route == LinearRoute::wide) return;
  const int64_t rows = CublasLt::bucket(std::min(m, rows_a_piece(s, route, m)));
  GemmShape shape = library_shape(s, route, rows, y_type);
  const auto was_timed = [&] {
    GemmShape one = shape;
    if (route == LinearRoute::library_parts) one.n = s.parts.front().n;
    return s.context->library.was_timed(one);
  };
  if (was_timed()) return;
  const size_t width = is_w16(s.path) || route == LinearRoute::expand ? 2 : 1;
  const size_t x_bytes = static_cast<size_t>(rows * s.k) * width, y_bytes = static_cast<size_t>(rows * s.n) * 4;
  const size_t flush_bytes = static_cast<size_t>(2 * s.context->device.l2_bytes);
  const DeviceBuffer x(x_bytes), y(y_bytes), flush(flush_bytes), scales(static_cast<size_t>(rows) * sizeof(float));
  // Halves near 0.37 and codes that are neither zero nor NaN: zeros would flatter the clock.
  QG_CUDA(cudaMemset(x.data(), 0x35, x_bytes));
  QG_CUDA(cudaMemset(scales.data(), 0x35, static_cast<size_t>(rows) * sizeof(float)));
  GemmPointers p;
  p.weight = route == LinearRoute::expand ? s.context->scratch.data() : s.weight.data();
  p.x = x.data();
  p.y = y.data();
  p.weight_scales = s.channel_scales.as<float>();
  p.x_scales = scales.as<float>();
  if (route == LinearRoute::expand)
    QG_CUDA(cudaMemset(s.context->scratch.data(), 0x25, static_cast<size_t>(s.n * s.k) * 2));
  if (route != LinearRoute::library_parts) {
    s.context->library.find_fastest_us(shape, p, flush.data(), flush_bytes, nullptr);
    return;
  }
  for (const LinearPart& part : s.parts) {
    shape.n = part.n;
    s.context->library.find_fastest_us(shape, p, flush.data(), flush_bytes, nullptr);
  }
}

const TunedRoute* find_tuned(const LinearState& layer, int64_t m) {
  if (m < kTunedFromRows || layer.context->tuning.routes.empty()) return nullptr;
  const auto* rows = std::lower_bound(std::begin(kTunedRows), std::end(kTunedRows), m);
  if (rows == std::end(kTunedRows)) return nullptr;
  const std::string name = tuning_name(layer);
  for (const TunedRoute& tuned : layer.context->tuning.routes)
    if (tuned.m == *rows && tuned.layer == name) return &tuned;
  return nullptr;
}

std::string hexadecimal(const GemmAlgorithm& bytes) {
  std::string text;
  for (const uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

GemmAlgorithm bytes_of(const std::string& text) {
  GemmAlgorithm bytes = {};
  for (size_t i = 0; i < bytes.size() && 2 * i + 1 < text.size(); ++i)
    bytes[i] = static_cast<uint8_t>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
  return bytes;
}

std::optional<FoundGemm> found_gemm(const TunedProduct& p) {
  FoundGemm found;
  const auto kind = std::find(kKindNames.begin(), kKindNames.end(), p.kind);
  if (kind == kKindNames.end()) return {};
  found.shape.kind = static_cast<GemmKind>(kind - kKindNames.begin());
  if (p.y_type == "F16")
    found.shape.y_type = DType::f16;
  else if (p.y_type == "BF16")
    found.shape.y_type = DType::bf16;
  else if (p.y_type == "F32")
    found.shape.y_type = DType::f32;
  else if (p.y_type == "I32")
    found.shape.y_type = DType::i32;
  else
    return {};
  found.shape.m = p.m;
  found.shape.n = p.n;
  found.shape.k = p.k;
  found.shape.weight_pitch = p.weight_pitch;
  found.shape.y_pitch = p.y_pitch;
  found.algorithm = bytes_of(p.algorithm);
  found.us = static_cast<float>(p.us);
  return found;
}

TunedProduct tuned_product(const FoundGemm& found) {
  const GemmShape& s = found.shape;
  return {kKindNames[static_cast<size_t>(s.kind)],
          std::string(to_string(s.y_type)),
          s.m,
          s.n,
          s.k,
          s.weight_pitch,
          s.y_pitch,
          hexadecimal(found.algorithm),
          static_cast<double>(found.us)};
}

}  // namespace

std::vector<int64_t> tuned_rows(int64_t most) {
  std::vector<int64_t> rows;
  for (const int64_t m : kTunedRows)
    if (m <= most) rows.push_back(m);
  return rows;
}

std::string tuning_name(const LinearState& layer) {
  std::string name = fmt::format("{} {}x{}", to_string(layer.path), layer.n, layer.k);
  if (layer.alternating) name += " alternating";
  if (layer.path == ComputePath::w4a16)
    name += fmt::format(" group {}{}", layer.int4.group_size, layer.int4.zeros ? " zeros" : "");
  if (layer.path == ComputePath::w8a8_fp8 || layer.path == ComputePath::w8a8_int8)
    name += fmt::format("{}{} of {} parts", layer.per_token ? " per token" : " static",
                        layer.uniform         ? " one scale"
                        : layer.tensor_scales ? " a scale a part"
                                              : " a scale a row",
                        layer.parts.size());
  return name;
}

std::optional<LinearRoute> tuned_route(const LinearState& layer, int64_t m) {
  const TunedRoute* tuned = find_tuned(layer, m);
  if (!tuned) return {};
  // A file says what it likes: only what can run is taken.
  const std::optional<LinearRoute> route = route_named(tuned->route);
  const std::vector<LinearRoute> possible = possible_routes(layer, m);
  if (!route || std::find(possible.begin(), possible.end(), *route) == possible.end()) return {};
  return route;
}

bool is_tuned_to(const LinearState& layer, LinearRoute route) {
  const std::string name = tuning_name(layer), wanted = name_of(route);
  return std::any_of(layer.context->tuning.routes.begin(), layer.context->tuning.routes.end(),
                     [&](const TunedRoute& tuned) { return tuned.layer == name && tuned.route == wanted; });
}

void CudaLinearContext::set_tuning(const TuningTable& table, bool measures) {
  state_->tuning.routes = table.routes;
  state_->measures = measures;
  for (const TunedProduct& product : table.products)
    if (const std::optional<FoundGemm> found = found_gemm(product)) state_->library.adopt(*found);
}

TuningTable CudaLinearContext::tuning() const {
  TuningTable table;
  table.routes = state_->tuning.routes;
  for (const FoundGemm& found : state_->library.timed()) table.products.push_back(tuned_product(found));
  return table;
}

void CudaLinear::prepare(int64_t m, std::optional<DType> y_type) {
  prepare_route(*state_, choose_route(*state_, m), m, y_type.value_or(output_type()));
}

void CudaLinear::tune(int64_t m) {
  LinearState& s = *state_;
  if (m < kTunedFromRows || find_tuned(s, m)) return;
  const LinearRoute built_in = choose_route(s, m);
  const size_t width = static_cast<size_t>(bytes_of(input().form));
  const auto rows = static_cast<size_t>(most_rows_read(s, m));
  const size_t flush_bytes = static_cast<size_t>(2 * s.context->device.l2_bytes);
  const DeviceBuffer x(rows * static_cast<size_t>(s.k) * width), scales(rows * sizeof(float)),
      y(rows * static_cast<size_t>(s.n) * 2), flush(flush_bytes);
  QG_CUDA(cudaMemset(x.data(), 0x35, x.bytes()));  // as in prepare_route
  QG_CUDA(cudaMemset(scales.data(), 0x35, scales.bytes()));
  TunedRoute tuned;
  tuned.layer = tuning_name(s);
  tuned.m = m;
  // What follows a gate and its up counts as theirs: some ways do it in the same launch. In the form that such a layer
  // reads, which is the one that the next wants too; a scale per token is never made in a product.
  const bool gates = s.alternating && !s.per_token;
  ActivationRequest gated = input();
  gated.prequant = nullptr;
  const DeviceBuffer out(gates ? rows * static_cast<size_t>(s.n) : 0);
  const CudaQueue queue;
  for (const LinearRoute route : possible_routes(s, m)) {
    prepare_route(s, route, m, output_type());
    s.routes[static_cast<size_t>(m)] = static_cast<int8_t>(route);
    const ActivationBuffer in = {x.data(), scales.as<float>()};
    tuned.us[name_of(route)] = median_us(queue.stream, flush.data(), flush_bytes, kTimedRuns, [&] {
      if (gates && can_gate(m, gated)) return run_gated(queue, m, in, gated, y.data());
      run(queue, m, in, y.data(), output_type());
      if (gates) silu_mul(queue, m, s.n / 2, y.data(), gated, {out.data(), nullptr});
    });
  }
  tuned.route = name_of(built_in);
  if (!tuned.us.contains(tuned.route)) {  // a route that is not measured stays
    s.routes[static_cast<size_t>(m)] = static_cast<int8_t>(built_in);
    return;
  }
  for (const auto& [name, us] : tuned.us)
    if (us < kWorthChanging * tuned.us[name_of(built_in)] && us < tuned.us[tuned.route]) tuned.route = name;
  s.context->tuning.routes.push_back(tuned);
  s.routes.clear();  // rows below go as this one does
}

}  // namespace qg
