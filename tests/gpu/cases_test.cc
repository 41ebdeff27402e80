// The 45 cases of the test matrix on this card: each model's real shape with two layers, the case's weights and cache
// formats, and the kernels, shared memory and memory of the case's own card. Every operation against the CPU's
// definition of it on the same values (layer_check.h), and the logits against cpu_executor's.
//
// scripts/gpu_cases.sh runs it and keeps the lines that it writes to QG_CASES_OUT, one JSON object a case.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "core/json.h"
#include "grid/grid.h"
#include "model/architecture.h"
#include "quantize/recipe.h"
#include "quantize/synthetic_checkpoint.h"
#include "runtime/cpu_forward.h"
#include "runtime/make_executor.h"
#include "tests/gpu/layer_check.h"

namespace qg::testing {
namespace {

constexpr int64_t kLayers = 2, kPageTokens = 64, kPages = 8;
constexpr uint64_t kSeed = 7;

// Keeps what another one makes, for executors that load the same model one after the other.
class KeptCheckpoint : public Checkpoint {
 public:
  explicit KeptCheckpoint(std::unique_ptr<Checkpoint> made) : made_(std::move(made)) {}
  Layout layout() const override { return made_->layout(); }
  const ModelTable& table() const override { return made_->table(); }
  const QuantSpec& quant() const override { return made_->quant(); }
  DType dtype() const override { return made_->dtype(); }
  Tensor tensor(const TensorSpec& spec) const override {
    Tensor& kept = tensors_[{static_cast<int>(spec.role), spec.layer}];
    if (kept.empty()) kept = made_->tensor(spec);
    return kept;
  }
  LinearWeights linear(const LinearSpec& spec) const override {
    LinearWeights& kept = linears_[{static_cast<int>(spec.role), spec.layer}];
    if (kept.n == 0) kept = made_->linear(spec);
    return kept;
  }
  const KvScales& kv_scales() const override { return made_->kv_scales(); }
  const std::optional<Lineage>& lineage() const override { return made_->lineage(); }
  const std::filesystem::path& folder() const override { return made_->folder(); }
  int64_t stored_bytes() const override { return made_->stored_bytes(); }
  std::string weights_hash() const override { return made_->weights_hash(); }

 private:
  std::unique_ptr<Checkpoint> made_;
  mutable std::map<std::pair<int, int>, Tensor> tensors_;
  mutable std::map<std::pair<int, int>, LinearWeights> linears_;
};

std::shared_ptr<const Checkpoint> make_model(ModelShape shape, WeightFormat weights) {
  shape.layers = kLayers;
  const ModelTable table = make_model_table(shape);
  QuantSpec quant;
  if (weights != WeightFormat::fp16) {
    std::vector<int64_t> widths;
    for (const LinearSpec& linear : table.linears) widths.push_back(linear.k);
    quant = default_recipe(weights).spec(widths);
    quant.prequant_scales = false;
  }
  SyntheticOptions options;
  options.seed = kSeed;
  return std::make_shared<KeptCheckpoint>(make_synthetic_checkpoint(table, quant, options));
}

ExecutorOptions executor_options(KvFormat kv) {
  ExecutorOptions options;
  options.kv = kv;
  options.page_tokens = kPageTokens;
  options.num_pages = kPages;
  options.max_rows = 128;
  options.max_pieces = 4;
  return options;
}

// Three sequences in three steps: prefill of two; one that decodes, one that goes on over its cached pages, one that
// starts; all decode. Few and many rows, every kind of attention.
struct StepPieces {
  struct Piece {
    size_t sequence;
    int64_t context, tokens;
  };
  std::vector<Piece> pieces;
};
const std::vector<StepPieces> kSteps{
    {{{0, 0, 40}, {1, 0, 25}}}, {{{1, 25, 1}, {0, 40, 34}, {2, 0, 19}}}, {{{0, 74, 1}, {1, 26, 1}, {2, 19, 1}}}};
const std::vector<std::vector<int32_t>> kSequencePages{{5, 2}, {0}, {7}};

int32_t token_of(size_t sequence, int64_t position, int64_t vocab) {
  return static_cast<int32_t>(Rng(11, sequence).below(static_cast<uint64_t>(position), static_cast<uint64_t>(vocab)));
}

struct Ran {
  std::vector<StepTaps> taps;  // of each step
  std::vector<float> logits;   // of all rows of all steps
  std::vector<std::string> kernels;
};

std::vector<AttentionPiece> attention_pieces(const StepPieces& step) {
  std::vector<AttentionPiece> pieces;
  int64_t row = 0;
  for (const StepPieces::Piece& p : step.pieces) {
    pieces.push_back({row, p.tokens, p.context, kSequencePages[p.sequence]});
    row += p.tokens;
  }
  return pieces;
}

Ran run_steps(Executor& executor, bool tapped) {
  const int64_t vocab = executor.table().shape.vocab;
  Ran ran;
  for (const StepPieces& step : kSteps) {
    StepTaps& taps = ran.taps.emplace_back();
    if (tapped)
      executor.set_tap([&](const std::string& name, std::span<const float> values, int64_t rows, int64_t width) {
        taps[name] = {{values.begin(), values.end()}, rows, width};
      });
    std::vector<int32_t> tokens;
    std::vector<SequencePiece> pieces;
    const std::vector<AttentionPiece> places = attention_pieces(step);
    for (size_t i = 0; i < places.size(); ++i) {
      SequencePiece& piece = pieces.emplace_back();
      piece.first_row = places[i].first_row;
      piece.num_tokens = places[i].num_tokens;
      piece.context_tokens = places[i].context_tokens;
      piece.pages = places[i].pages;
      for (int64_t t = 0; t < piece.num_tokens; ++t)
        tokens.push_back(token_of(step.pieces[i].sequence, piece.context_tokens + t, vocab));
    }
    StepOutput out;
    executor.step({tokens, pieces, LogitsWanted::all}, out);
    ran.logits.insert(ran.logits.end(), out.logits.begin(), out.logits.end());
  }
  executor.set_tap({});
  ran.kernels = executor.kernels();
  return ran;
}

struct Distance {
  double relative = 0, kl = 0, top1 = 0;
};

// Of two executors' logits, [rows, vocab] each.
Distance distance(const std::vector<float>& got, const std::vector<float>& want, int64_t vocab) {
  const int64_t rows = static_cast<int64_t>(want.size()) / vocab;
  std::vector<double> error(static_cast<size_t>(rows)), norm(error), kl(error), same(error);
  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float *g = got.data() + r * vocab, *w = want.data() + r * vocab;
      const double top_g = static_cast<double>(*std::max_element(g, g + vocab));
      const double top_w = static_cast<double>(*std::max_element(w, w + vocab));
      double sum_g = 0, sum_w = 0, product = 0;
      const auto at = static_cast<size_t>(r);
      for (int64_t i = 0; i < vocab; ++i) {
        const double a = static_cast<double>(g[i]), b = static_cast<double>(w[i]);
        error[at] += (a - b) * (a - b);
        norm[at] += b * b;
        sum_g += std::exp(a - top_g);
        sum_w += std::exp(b - top_w);
        product += std::exp(b - top_w) * ((b - top_w) - (a - top_g));
      }
      kl[at] = product / sum_w - std::log(sum_w) + std::log(sum_g);
      same[at] = std::max_element(g, g + vocab) - g == std::max_element(w, w + vocab) - w ? 1 : 0;
    }
  });
  const auto total = [](const std::vector<double>& x) { return std::accumulate(x.begin(), x.end(), 0.0); };
  return {std::sqrt(total(error) / total(norm)), total(kl) / static_cast<double>(rows),
          total(same) / static_cast<double>(rows)};
}

LayerForm form_of(const Checkpoint& checkpoint, ComputePath path) {
  LayerForm form;
  const bool fixed = checkpoint.quant().activations == ActivationScaling::static_tensor;
  form.kind = path == ComputePath::w4a16       ? test::Kind::w4
              : path == ComputePath::w8a16_fp8 ? test::Kind::fp8_f16
              : path == ComputePath::w8a8_fp8  ? (fixed ? test::Kind::fp8_static : test::Kind::fp8_dynamic)
              : path == ComputePath::w8a8_int8 ? (fixed ? test::Kind::int8_static : test::Kind::int8_dynamic)
                                               : test::Kind::f16;
  const LinearWeights first = checkpoint.linear(checkpoint.table().linears.front());
  if (!first.input_scale.empty()) form.static_scale = *first.input_scale.as<float>();
  return form;
}

CheckReport check_operations(const Checkpoint& checkpoint, KvFormat kv, ComputePath path, const Ran& ran) {
  const ModelShape& shape = checkpoint.table().shape;
  AttentionDesc desc;
  desc.heads = shape.heads;
  desc.kv = {kv, shape.kv_heads, shape.head_dim, kPageTokens};
  desc.sliding_window = shape.sliding_window;
  desc.score_scale = attention_score_scale(shape);
  const std::vector<KvLayerStorage> storage = kv_storage_for(checkpoint, kv);
  const LayerForm form = form_of(checkpoint, path);
  const CpuHead head = load_cpu_head(checkpoint);
  CheckReport report;
  for (int layer = 0; layer < kLayers; ++layer) {
    const CpuLayer weights = load_cpu_layer(checkpoint, layer);
    LayerCheck check(shape, weights, storage[static_cast<size_t>(layer)], desc, form, kPages);
    for (size_t step = 0; step < kSteps.size(); ++step) {
      const std::string before = layer == 0 ? "embedding" : fmt::format("layers.{}.out", layer - 1);
      check.check(ran.taps[step], layer, ran.taps[step].at(before).values, attention_pieces(kSteps[step]), report);
    }
  }
  for (const StepTaps& taps : ran.taps)
    LayerCheck::check_head(taps, head, shape, taps.at(fmt::format("layers.{}.out", kLayers - 1)).values, report);
  return report;
}

// Logits of two layers, as executor_test.cc derives it: half's rounding; codes of K and V on the edge between two; or,
// where activations are rounded to 8 bits, two independent errors of the format's own size.
double logits_tolerance(ComputePath path, KvFormat kv, double format_error) {
  if (path == ComputePath::w8a8_fp8 || path == ComputePath::w8a8_int8) return std::sqrt(2.0) * format_error;
  return kv == KvFormat::fp16 ? 3e-3 : 2e-2;
}

std::filesystem::path grid_file() {
  const std::filesystem::path here = "grids/trt-llm-45.toml";
  return std::filesystem::exists(here) ? here : QG_SOURCE_DIR / here;
}

class GridCases : public ::testing::TestWithParam<const char*> {};

TEST_P(GridCases, EveryOperationMatchesTheCpuOnTheSameValues) {
  const Grid grid = load_grid(grid_file());
  const char* out = std::getenv("QG_CASES_OUT");
  const std::string model = GetParam();
  const auto exact = make_model(*grid.model(model).shape, WeightFormat::fp16);
  const int64_t vocab = exact->table().shape.vocab;
  const Ran base = run_steps(*make_executor("cpu", exact, executor_options(KvFormat::fp16)), false);
  int cases = 0;
  for (const WeightFormat weights : kWeightFormats) {
    const auto checkpoint = weights == WeightFormat::fp16 ? exact : make_model(exact->table().shape, weights);
    std::map<KvFormat, Ran> on_cpu;
    for (const Case& c : grid.cases) {
      if (c.model != model || c.weights != weights) continue;
      ++cases;
      if (!on_cpu.contains(c.kv))
        on_cpu[c.kv] =
            c.is_fp16_baseline() ? base : run_steps(*make_executor("cpu", checkpoint, executor_options(c.kv)), false);
      const Card& card = grid.card(c.gpu);
      CudaExecutorOptions cuda;
      cuda.family = family_of(card.cc());
      cuda.memory_bytes = card.memory_bytes;
      cuda.shared_bytes = card.shared_bytes_per_block();
      const auto gpu = make_executor("cuda", checkpoint, executor_options(c.kv), cuda);
      const ComputePath path = gpu->compute_path();
      const Ran ran = run_steps(*gpu, true);
      const CheckReport report = check_operations(*checkpoint, c.kv, path, ran);
      const Distance off = distance(ran.logits, on_cpu[c.kv].logits, vocab);
      const double format = distance(on_cpu[c.kv].logits, base.logits, vocab).relative;
      const double allowed = logits_tolerance(path, c.kv, format);
      for (const std::string& problem : report.problems) ADD_FAILURE() << c.number << " " << c.id() << ": " << problem;
      EXPECT_LE(off.relative, allowed) << c.number << " " << c.id() << ": logits";
      for (const char* operation : {"norm", "linear", "rope", "attention", "gate", "residual"})
        EXPECT_TRUE(report.shares.contains(operation)) << c.number << ": no " << operation << " was compared";
      const bool passed = report.problems.empty() && off.relative <= allowed;
      std::string shares;
      for (const auto& [operation, share] : report.shares) shares += fmt::format(" {} {:.2f}", operation, share);
      fmt::print("{:>2} {:<40} {} logits {:.1e} of {:.1e}, format {:.1e}, KL {:.1e}, top-1 {:.3f}; of tolerances:{}\n",
                 c.number, c.id(), to_string(path), off.relative, allowed, format, off.kl, off.top1, shares);
      std::fflush(stdout);
      if (out) {
        const Json line{{"number", c.number},
                        {"case", c.id()},
                        {"family", to_string(*cuda.family)},
                        {"compute_path", std::string(to_string(path))},
                        {"kernels", ran.kernels},
                        {"logits_relative_error", off.relative},
                        {"logits_tolerance", allowed},
                        {"format_error", format},
                        {"kld_mean", off.kl},
                        {"top1", off.top1},
                        {"share_of_tolerance", report.shares},
                        {"passed", passed}};
        std::ofstream(out, std::ios::app) << line.dump() << "\n";
      }
    }
  }
  EXPECT_EQ(cases, 15);
}

INSTANTIATE_TEST_SUITE_P(Models, GridCases, ::testing::Values("llama-3.2-3b", "llama-3.1-8b", "mistral-7b"),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

}  // namespace
}  // namespace qg::testing
