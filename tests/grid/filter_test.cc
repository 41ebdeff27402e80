#include "grid/filter.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "grid/grid.h"

namespace qg {
namespace {

const Grid& grid() {
  static const Grid kGrid = load_grid(std::filesystem::path(QG_SOURCE_DIR) / "grids/trt-llm-45.toml");
  return kGrid;
}

std::vector<int> numbers(const std::string& expression) {
  std::vector<int> out;
  for (const Case& c : filtered(grid().cases, Filter(expression, grid()))) out.push_back(c.number);
  return out;
}

TEST(Filter, Conditions) {
  EXPECT_EQ(numbers("gpu=a100 & weights=int4_awq"), (std::vector<int>{1, 2, 11, 12, 21, 22}));
  EXPECT_EQ(numbers("section=baseline"), (std::vector<int>{31, 32, 33}));
  EXPECT_EQ(numbers("number=1-3,31"), (std::vector<int>{1, 2, 3, 31}));
  EXPECT_EQ(numbers("number<=2 | number>44"), (std::vector<int>{1, 2, 45}));
  EXPECT_EQ(numbers("number<2"), (std::vector<int>{1}));
  EXPECT_EQ(numbers("number>=45"), (std::vector<int>{45}));
  EXPECT_EQ(numbers("id=mistral-7b/l4/fp8/kv_fp8"), (std::vector<int>{28}));
  EXPECT_EQ(numbers("id=*/l4/*/kv_fp8"), (std::vector<int>{8, 18, 28}));
  EXPECT_EQ(numbers("model=llama* & gpu=h100 & weights!=fp16").size(), 4u);
  EXPECT_EQ(numbers("GPU=A10").size(), 12u);  // not the A100
  EXPECT_EQ(numbers("gpu!=a100,a10").size(), 21u);
  EXPECT_EQ(Filter().keeps(grid().cases[0]), true);
}

TEST(Filter, AndBindsTighterThanOr) {
  EXPECT_EQ(numbers("number=1 | number=2 & gpu=h100"), (std::vector<int>{1}));
  EXPECT_EQ(numbers("(number=1 | number=2) & gpu=a100"), (std::vector<int>{1, 2}));
  EXPECT_EQ(numbers("number=1||number=2&&gpu==a100"), (std::vector<int>{1, 2}));
  EXPECT_EQ(numbers("!(number>2) & !kv=fp8"), (std::vector<int>{1}));
  EXPECT_EQ(numbers("!!number=1"), (std::vector<int>{1}));
}

struct Bad {
  const char* expression;
  size_t caret;  // column, from 0
  const char* said;
};

class BadFilter : public testing::TestWithParam<Bad> {};

TEST_P(BadFilter, PointsAtThePlace) {
  try {
    Filter(GetParam().expression, grid());
    FAIL() << GetParam().expression;
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find("\n    " + std::string(GetParam().caret, ' ') + "^"), std::string::npos) << message;
    EXPECT_NE(message.find(GetParam().said), std::string::npos) << message;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BadFilter,
                         testing::Values(Bad{"", 0, "empty"}, Bad{"   ", 3, "empty"}, Bad{"gpu", 3, "operator"},
                                         Bad{"gpu=", 4, "a value for gpu"}, Bad{"card=a100", 0, "not a key"},
                                         Bad{"weight=fp8", 0, "did you mean \"weights\""},
                                         Bad{"gpu=a100 & weights=awq", 19, "did you mean \"int4_awq\""},
                                         Bad{"gpu=h200", 4, "no case of this grid"}, Bad{"gpu=a1", 4, "a100"},
                                         Bad{"gpu<a100", 3, "does not go with gpu"}, Bad{"(gpu=a100", 0, "not closed"},
                                         Bad{"gpu=a100)", 8, "no opening"},
                                         Bad{"gpu=a100 weights=fp8", 9, "\"&\" or \"|\""},
                                         Bad{"gpu=a100 &", 10, "a condition"}, Bad{"number=x", 7, "not a number"},
                                         Bad{"number=9-1", 7, "backwards"}, Bad{"number<1-2", 7, "not a number"},
                                         Bad{"number=99999999999", 7, "not a number"},
                                         Bad{"kv=fp8,", 7, "a value for kv"}));

TEST(Filter, DeepNestingIsRefused) {
  EXPECT_THROW(Filter(std::string(1000, '('), grid()), Error);
  EXPECT_THROW(Filter(std::string(1000, '!') + "number=1", grid()), Error);
  EXPECT_THROW(Filter(std::string(5000, 'a'), grid()), Error);
}

}  // namespace
}  // namespace qg
