#include "runtime/weight_budget.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "grid/memory.h"
#include "grid/models.h"
#include "model/architecture.h"

namespace qg {
namespace {

ModelTable llama_8b() {
  return make_model_table(find_known_model("llama-3.1-8b")->shape);
}

QuantSpec quant_of(WeightFormat weights, int64_t group = 0) {
  QuantSpec quant;
  quant.weights = weights;
  quant.group_size = group;
  return quant;
}

TEST(WeightBudget, BytesOfAnEightBillionModel) {
  const ModelTable table = llama_8b();
  const int64_t linear = table.shape.linear_params(), embeddings = 4 * table.shape.embedding_params();
  EXPECT_NEAR(static_cast<double>(device_weight_bytes(table, quant_of(WeightFormat::fp16))), 16.06e9, 0.01e9);
  EXPECT_NEAR(static_cast<double>(device_weight_bytes(table, quant_of(WeightFormat::fp8)) - linear - embeddings), 6e6,
              2e6);
  EXPECT_NEAR(static_cast<double>(device_weight_bytes(table, quant_of(WeightFormat::int4_awq, 128)) - embeddings),
              static_cast<double>(linear) * (4 + 16.0 / 128) / 8, 2e6);
}

// What the engine asks of a card before it loads and what `plan` and the memory rows say are the same bytes, but for
// norms (floats on the device), FP8's scales and those of inputs. A tied embedding is in both twice.
TEST(WeightBudget, PlansCountWhatTheEngineHolds) {
  for (const char* model : {"llama-3.2-3b", "llama-3.1-8b"}) {
    const ModelShape& shape = find_known_model(model)->shape;
    const ModelTable table = make_model_table(shape);
    for (const WeightFormat weights :
         {WeightFormat::fp16, WeightFormat::fp8, WeightFormat::int8_sq, WeightFormat::int4_awq}) {
      const int64_t held = device_weight_bytes(table, quant_of(weights, 128));
      const int64_t planned = weights_bytes(shape, weights, tied_embedding(EngineId::native, true));
      EXPECT_NEAR(static_cast<double>(planned), static_cast<double>(held), 10e6) << model << " " << to_string(weights);
    }
  }
}

std::string message(const WeightBudget& budget) {
  try {
    check_weights_fit(budget, "a model");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::cannot_here);
    return e.what();
  }
  return "";
}

TEST(WeightBudget, TooLittleIsAMessageWithTheBudget) {
  WeightBudget b;
  b.card_bytes = 24'000'000'000;
  b.free_bytes = 20'000'000'000;
  b.reserved_bytes = 1'000'000'000;
  b.weight_bytes = 19'000'000'000;
  EXPECT_EQ(message(b), "");
  b.weight_bytes += 1;
  const std::string text = message(b);
  for (const char* part : {"19.00 GB", "24.00 GB", "4.00 GB are in use", "1.00 GB are kept free", "a model"})
    EXPECT_NE(text.find(part), std::string::npos) << text;
  b.weight_bytes = 16'000'000'000;
  b.limit_bytes = 20'000'000'000;  // another card's: 4 are used, 1 is kept free
  EXPECT_NE(message(b).find("15.00 GB are left"), std::string::npos) << message(b);
}

}  // namespace
}  // namespace qg
