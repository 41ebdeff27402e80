// INT4 with activation-aware scales (Lin et al., "AWQ", 2023): channels that matter are scaled up before rounding, by
// an exponent searched per group of layers; then each range is shrunk where that lowers the error, and the codes are
// chosen with error feedback (error_feedback.h).
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "quantize/error_feedback.h"
#include "quantize/group.h"

namespace qg {
namespace {

// One group's grid: w ~ (u - zero) * scale with u = 0..15.
struct GroupGrid {
  float scale = 1;
  float zero = 8;
};

float grid_value(const GroupGrid& g, float w, uint8_t* code = nullptr) {
  const float u = std::clamp(std::nearbyint(w / g.scale) + g.zero, 0.0f, 15.0f);
  if (code) *code = static_cast<uint8_t>(u);
  return (u - g.zero) * g.scale;
}

// The grid that spans a share of the group's range. Symmetric codes run from -8 to 7, so the negative side reaches an
// eighth further.
GroupGrid spanning_grid(float low, float high, float share, bool zero_points) {
  low = std::min(low, 0.0f) * share;
  high = std::max(high, 0.0f) * share;
  GroupGrid g;
  if (zero_points) {
    g.scale = (high - low) / 15.0f;
    if (!(g.scale > 1e-12f)) return {1.0f, 8.0f};
    g.zero = std::clamp(std::nearbyint(-low / g.scale), 0.0f, 15.0f);
    return g;
  }
  g.scale = std::max(high / 7.0f, -low / 8.0f);
  if (!(g.scale > 1e-12f)) g.scale = 1.0f;
  return g;
}

struct Grids {
  int64_t groups_per_row = 0, group = 0;
  std::vector<GroupGrid> grid;  // [n, groups_per_row]
  const GroupGrid& at(int64_t row, int64_t column) const {
    return grid[static_cast<size_t>(row * groups_per_row + column / group)];
  }
};

// Chooses each group's grid; importance[k] weighs the squared error of a column.
Grids choose_grids(const std::vector<float>& w, int64_t n, int64_t k, int64_t group, bool zero_points,
                   const std::vector<float>& importance, int clip_steps) {
  Grids grids{k / group, group, {}};
  grids.grid.resize(static_cast<size_t>(n * grids.groups_per_row));
  parallel_for(n, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t b = 0; b < grids.groups_per_row; ++b) {
        const float* x = w.data() + r * k + b * group;
        const float* weight = importance.data() + b * group;
        const auto [low, high] = std::minmax_element(x, x + group);
        GroupGrid best_grid = spanning_grid(*low, *high, 1.0f, zero_points);
        double best = 1e300;
        for (int i = 0; i <= clip_steps; ++i) {
          const GroupGrid g = spanning_grid(*low, *high, 1.05f - 0.025f * static_cast<float>(i), zero_points);
          double e = 0;
          for (int64_t c = 0; c < group; ++c) {
            const float gap = x[c] - grid_value(g, x[c]);
            e += static_cast<double>(weight[c] * gap * gap);
          }
          if (clip_steps > 0 && e < best) {
            best = e;
            best_grid = g;
          }
        }
        grids.grid[static_cast<size_t>(r * grids.groups_per_row + b)] = best_grid;
      }
  });
  return grids;
}

std::vector<float> rounded(const std::vector<float>& w, int64_t n, int64_t k, const Grids& grids) {
  std::vector<float> out(w.size());
  parallel_for(n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < k; ++c)
        out[static_cast<size_t>(r * k + c)] = grid_value(grids.at(r, c), w[static_cast<size_t>(r * k + c)]);
  });
  return out;
}

std::vector<float> gram_diagonal(const GroupProblem& p, const std::vector<float>& factor) {
  std::vector<float> diagonal(static_cast<size_t>(p.k));
  for (int64_t j = 0; j < p.k; ++j) {
    const float f = factor[static_cast<size_t>(j)];
    const auto i = static_cast<size_t>(j);
    float moment = 0;
    if (!p.input.gram.empty()) {
      moment = p.input.gram[i * static_cast<size_t>(p.k) + i] / static_cast<float>(p.input.rows);
    } else {
      for (int64_t r = 0; r < p.input.sampled; ++r) {
        const float v = p.input.sample[static_cast<size_t>(r * p.k + j)];
        moment += v * v / static_cast<float>(p.input.sampled);
      }
    }
    diagonal[i] = moment * f * f;
  }
  return diagonal;
}

constexpr int kClipSteps = 18;      // shares 1.05 to 0.60
constexpr int kTrialClipSteps = 6;  // a coarser search is enough to rank exponents

struct Scales {
  std::vector<float> down, up;  // [k]: what inputs and weights are multiplied by; down is as stored
};

Scales scales_at(const GroupProblem& p, const std::vector<double>& weight_mean, double alpha) {
  std::vector<double> act(static_cast<size_t>(p.k));
  for (int64_t j = 0; j < p.k; ++j) act[static_cast<size_t>(j)] = p.input.mean_abs(j);
  share_values(act, p.shared_scales, false);
  const std::vector<float> s = alpha == 0 ? std::vector<float>(act.size(), 1.0f) : smoothing(act, weight_mean, alpha);
  Scales result{std::vector<float>(s.size()), std::vector<float>(s.size())};
  for (size_t j = 0; j < s.size(); ++j) {
    result.down[j] = storable_prequant(1.0 / static_cast<double>(s[j]));
    result.up[j] = 1.0f / result.down[j];
  }
  return result;
}

std::vector<float> scaled_sample(const GroupProblem& p, const std::vector<float>& down) {
  std::vector<float> x = p.input.sample;
  for (int64_t r = 0; r < p.input.sampled; ++r)
    for (int64_t c = 0; c < p.k; ++c) x[static_cast<size_t>(r * p.k + c)] *= down[static_cast<size_t>(c)];
  return x;
}

Scales search_scales(const GroupProblem& p, const Recipe& recipe, const QuantSpec& spec, const OutputError& error) {
  const std::vector<double> weight_mean(static_cast<size_t>(p.k), 1.0);
  if (recipe.alpha_steps == 0) return scales_at(p, weight_mean, recipe.fixed_alpha);
  double best = 1e300;
  Scales best_scales;
  for (int i = 0; i < recipe.alpha_steps; ++i) {
    Scales s = scales_at(p, weight_mean, static_cast<double>(i) / recipe.alpha_steps);
    std::vector<float> w = p.weight;
    scale_columns(w, p.n, p.k, s.up);
    const Grids grids = choose_grids(w, p.n, p.k, spec.group_size, spec.zero_points, gram_diagonal(p, s.down),
                                     recipe.clip_search ? kTrialClipSteps : 0);
    const double e = error.of(scaled_sample(p, s.down), rounded(w, p.n, p.k, grids));
    if (e < best) {
      best = e;
      best_scales = std::move(s);
    }
  }
  return best_scales;
}

LinearWeights pack(const std::vector<uint8_t>& codes, const Grids& grids, const GroupProblem& p, int64_t first,
                   int64_t rows, const QuantSpec& spec, const std::vector<float>& down) {
  LinearWeights w;
  w.format = WeightFormat::int4_awq;
  w.n = rows;
  w.k = p.k;
  w.group_size = spec.group_size;
  const NewTensor packed = new_tensor(DType::u8, {rows, p.k / 2});
  const NewTensor scale = new_tensor(DType::f32, {rows, grids.groups_per_row});
  const NewTensor zero = new_tensor(DType::u8, {rows, grids.groups_per_row});
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* from = codes.data() + (first + r) * p.k;
    for (int64_t c = 0; c < p.k / 2; ++c)
      packed.as<uint8_t>()[r * p.k / 2 + c] = static_cast<uint8_t>(from[2 * c] | (from[2 * c + 1] << 4));
    for (int64_t b = 0; b < grids.groups_per_row; ++b) {
      const GroupGrid& g = grids.grid[static_cast<size_t>((first + r) * grids.groups_per_row + b)];
      scale.as<float>()[r * grids.groups_per_row + b] = g.scale;
      zero.as<uint8_t>()[r * grids.groups_per_row + b] = static_cast<uint8_t>(g.zero);
    }
  }
  w.weight = packed.tensor;
  w.weight_scale = scale.tensor;
  if (spec.zero_points) w.zero_point = zero.tensor;
  w.prequant_scale = tensor_from_f32(down, {p.k});
  return w;
}

}  // namespace

GroupResult quantize_group_int4(GroupProblem p, const Recipe& recipe, const QuantSpec& spec) {
  const OutputError error(p.input.sample, p.input.sampled, p.weight, p.n, p.k);
  const Scales s = search_scales(p, recipe, spec, error);
  scale_columns(p.weight, p.n, p.k, s.up);
  const Grids grids = choose_grids(p.weight, p.n, p.k, spec.group_size, spec.zero_points, gram_diagonal(p, s.down),
                                   recipe.clip_search ? kClipSteps : 0);
  std::vector<uint8_t> codes(p.weight.size());
  const auto round = [&](int64_t r, int64_t c, float value) {
    return grid_value(grids.at(r, c), value, &codes[static_cast<size_t>(r * p.k + c)]);
  };
  if (recipe.error_feedback) {
    scale_gram(p.input.gram, p.k, s.down);
    const FeedbackFactor factor(std::move(p.input.gram), p.k, recipe.damp, true);
    round_with_feedback(p.weight, p.n, factor, round);
  } else {
    for (int64_t r = 0; r < p.n; ++r)
      for (int64_t c = 0; c < p.k; ++c) round(r, c, p.weight[static_cast<size_t>(r * p.k + c)]);
  }
  for (int64_t r = 0; r < p.n; ++r)
    for (int64_t c = 0; c < p.k; ++c) {
      const auto i = static_cast<size_t>(r * p.k + c);
      p.weight[i] = (static_cast<float>(codes[i]) - grids.at(r, c).zero) * grids.at(r, c).scale;
    }
  GroupResult result;
  result.relative_error = error.of(scaled_sample(p, s.down), p.weight);
  int64_t first = 0;
  for (int64_t rows : p.rows) {
    result.linears.push_back(pack(codes, grids, p, first, rows, spec, s.down));
    first += rows;
  }
  return result;
}

}  // namespace qg
