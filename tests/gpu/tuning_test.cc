// Tuning on the device: what is measured is taken, a table gives the same choices again, and one that lies is not
// believed.
#include <gtest/gtest.h>

#include "tests/gpu/linear_case.h"

namespace qg {
namespace {

constexpr int64_t kRows = 256;

test::Case make_case(test::Kind kind, CudaLinearContext& context) {
  test::Case c(kind, {1024, 2048, 128}, kRows, context);
  c.expect_at({0, 1, 50, 100, 255}, {0, 1, 511, 1000, 1023});
  return c;
}

class Tuning : public ::testing::TestWithParam<test::Kind> {};

TEST_P(Tuning, MeasuredChoicesAreRightAndComeAgain) {
  CudaLinearContext context(test::capabilities(), kRows, test::type_of(GetParam()));
  context.set_tuning({}, true);
  test::Case c = make_case(GetParam(), context);
  for (const int64_t m : tuned_rows(kRows)) c.layer().tune(m);
  for (int64_t m = 16; m <= kRows; m += 16) c.layer().prepare(m);
  const TuningTable table = context.tuning();
  ASSERT_EQ(table.routes.size(), tuned_rows(kRows).size());
  for (const TunedRoute& route : table.routes) {
    EXPECT_TRUE(route.us.contains(route.route)) << route.layer;
    for (const auto& [name, us] : route.us) EXPECT_GT(us, 0) << name;
  }
  for (const int64_t m : {1, 16, 24, 31, 64, 100, 256}) c.check(m);
  c.layer().tune(64);
  EXPECT_EQ(context.tuning().routes, table.routes) << "what is in the table was measured again";

  CudaLinearContext later(test::capabilities(), kRows, test::type_of(GetParam()));
  later.set_tuning(table, false);
  EXPECT_EQ(later.tuning().products, table.products);
  test::Case again = make_case(GetParam(), later);
  for (const int64_t m : {1, 16, 24, 31, 64, 100, 256}) {
    EXPECT_EQ(again.layer().kernel_name(m), c.layer().kernel_name(m)) << "m=" << m;
    again.check(m);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Tuning, ::testing::ValuesIn(test::kKinds));

TEST(TuningTables, ImpossibleEntriesAreLeftOut) {
  CudaLinearContext plain(test::capabilities(), kRows), lied(test::capabilities(), kRows);
  test::Case honest = make_case(test::Kind::f16, plain);
  TuningTable table;
  table.routes.push_back({"w16a16 1024x2048", 64, "expand", {{"expand", 1.0}}});  // there is nothing to expand
  table.routes.push_back({"w16a16 1024x2048", 96, "by magic", {{"by magic", 1.0}}});
  table.products.push_back({"f16", "F16", 128, 1024, 2048, 2048, 1024, std::string(128, 'f'), 1.0});
  table.products.push_back({"f17", "F16", 128, 1024, 2048, 2048, 1024, std::string(128, '0'), 1.0});
  lied.set_tuning(table, false);
  EXPECT_TRUE(lied.tuning().products.empty());
  test::Case c = make_case(test::Kind::f16, lied);
  for (const int64_t m : {64, 80, 128}) {
    EXPECT_EQ(c.layer().kernel_name(m), honest.layer().kernel_name(m));
    c.check(m);
  }
}

}  // namespace
}  // namespace qg
