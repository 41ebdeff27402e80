// The TOML grid, the tables of src/grid and the test plan, held against each other.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "grid/engines.h"
#include "grid/formats.h"
#include "grid/grid.h"
#include "grid/models.h"
#include "grid/names.h"
#include "grid/support.h"
#include "grid/toml_reader.h"

namespace qg {
namespace {

const std::filesystem::path kRoot = QG_SOURCE_DIR;

const Grid& plan_grid() {
  static const Grid kGrid = load_grid(kRoot / "grids/trt-llm-45.toml");
  return kGrid;
}

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> parts;
  std::istringstream in(line);
  for (std::string part; std::getline(in, part, '|');) {
    part.erase(0, part.find_first_not_of(' '));
    part.erase(part.find_last_not_of(' ') + 1);
    parts.push_back(part);
  }
  return parts;
}

// The plan's words for formats and cards.
const std::map<std::string, WeightFormat> kPlanWeights{{"W4A16 AWQ", WeightFormat::int4_awq},
                                                       {"FP8", WeightFormat::fp8},
                                                       {"FP16", WeightFormat::fp16},
                                                       {"INT8 SmoothQuant (W8A8)", WeightFormat::int8_sq}};
const std::map<std::string, KvFormat> kPlanKv{{"FP16", KvFormat::fp16}, {"FP8", KvFormat::fp8}};

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(c));
  return text;
}

std::vector<Case> plan_table() {
  std::ifstream in(kRoot / "tests/grid/plan_table.txt");
  std::vector<Case> cases;
  Section section = Section::must;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("#")) {
      section = parse_section(line.substr(2)).value_or(section);
      continue;
    }
    const auto parts = split(line);
    cases.push_back({std::stoi(parts.at(0)), section, lower(parts.at(1)), lower(parts.at(2)),
                     kPlanWeights.at(parts.at(3)), kPlanKv.at(parts.at(4))});
  }
  return cases;
}

TEST(PlanGrid, HasTheCasesOfThePlanInItsOrder) {
  const std::vector<Case> expected = plan_table();
  ASSERT_EQ(expected.size(), 45u);
  ASSERT_EQ(plan_grid().cases.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(plan_grid().cases[i], expected[i]) << expected[i].number << " " << expected[i].id();
    EXPECT_EQ(expected[i].number, static_cast<int>(i) + 1);
  }
}

TEST(PlanGrid, HasThirtyThreeTwelve) {
  std::map<Section, int> count;
  for (const Case& c : plan_grid().cases) ++count[c.section];
  EXPECT_EQ(count[Section::must], 30);
  EXPECT_EQ(count[Section::baseline], 3);
  EXPECT_EQ(count[Section::int8], 12);
  EXPECT_EQ(count.size(), 3u);
}

// The plan's index: what is tested for each (model, card), FP16 KV first.
TEST(PlanGrid, IndexByModelAndCard) {
  for (const char* model : {"llama-3.2-3b", "llama-3.1-8b", "mistral-7b"})
    for (const char* gpu : {"a100", "a10", "h100", "l4", "l40"}) {
      const bool ampere = std::string(gpu).starts_with("a1");
      std::vector<std::pair<WeightFormat, KvFormat>> must, int8;
      for (const Case& c : plan_grid().cases) {
        if (c.model != model || c.gpu != gpu) continue;
        if (c.section == Section::must) must.emplace_back(c.weights, c.kv);
        if (c.section == Section::int8) int8.emplace_back(c.weights, c.kv);
      }
      const WeightFormat w = ampere ? WeightFormat::int4_awq : WeightFormat::fp8;
      EXPECT_EQ(must, (decltype(must){{w, KvFormat::fp16}, {w, KvFormat::fp8}})) << model << " " << gpu;
      EXPECT_EQ(int8.size(), ampere ? 2u : 0u) << model << " " << gpu;
    }
}

TEST(PlanGrid, ImpliedBaselinesAreThoseThatThePlanLacks) {
  const auto implied = plan_grid().implied_baselines();
  EXPECT_EQ(implied.size(), 12u);  // 15 (model, card) less the three of the H100
  for (const Case& c : implied) {
    EXPECT_NE(c.gpu, "h100");
    EXPECT_TRUE(c.is_fp16_baseline());
    EXPECT_EQ(c.section, Section::implied);
  }
  EXPECT_EQ(plan_grid().baseline_of(*plan_grid().find_case(6)).number, 31);
  EXPECT_EQ(plan_grid().baseline_of(*plan_grid().find_case(1)).number, 0);
}

TEST(PlanGrid, WorkloadsOfTheProfiles) {
  EXPECT_EQ(plan_grid().workloads_of(Profile::quick).size(), 4u);
  EXPECT_EQ(plan_grid().workloads_of(Profile::full).size(), 13u);  // three decode, ten (ISL, OSL)
}

TEST(DemoGrid, IsEightCasesOnTheCpu) {
  const Grid grid = load_grid(kRoot / "grids/demo.toml");
  ASSERT_EQ(grid.cases.size(), 8u);
  std::set<std::pair<WeightFormat, KvFormat>> seen;
  for (const Case& c : grid.cases) {
    EXPECT_EQ(c.model, "smollm2-135m");
    EXPECT_TRUE(grid.card(c.gpu).is_cpu());
    seen.emplace(c.weights, c.kv);
  }
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_TRUE(grid.cases.front().is_fp16_baseline());
  EXPECT_TRUE(grid.implied_baselines().empty());
  EXPECT_EQ(grid.models.front().folder, kRoot / "models/smollm2-135m-instruct");
  EXPECT_EQ(grid.accuracy.text, kRoot / "models/texts/evaluation.txt");
}

// grids/support.toml: the status and the source of every cell.
TEST(Support, AgreesWithTheTable) {
  const std::string file = (kRoot / "grids/support.toml").string();
  const toml::table root = parse_toml(read_file(file), file);
  const TomlReader top(root, file, "");
  const TomlReader sources = *top.get_table("sources"), table = *top.get_table("table");
  const std::vector<std::string> columns = table.get_strings("columns");
  ASSERT_EQ(columns.size(), 4u);
  int rows = 0;
  for (const toml::node& node : *table.get_array("rows")) {
    const toml::array& row = *node.as_array();
    const Case* c = plan_grid().find_case(static_cast<int>(*row.get(0)->value<int64_t>()));
    ASSERT_NE(c, nullptr);
    ++rows;
    EXPECT_EQ(c->id(), *row.get(1)->value<std::string>());
    for (size_t i = 0; i < columns.size(); ++i) {
      const auto& cell = *row.get(2 + i)->as_array();
      const auto slash = columns[i].find('/');
      const EngineSpec& engine =
          find_engine(columns[i].substr(0, slash), slash == std::string::npos ? "" : columns[i].substr(slash + 1));
      const Support s = support(plan_grid(), *c, engine.id);
      EXPECT_EQ(to_string(s.status), *cell.get(0)->value<std::string>()) << c->id() << " on " << columns[i];
      EXPECT_EQ(s.source, sources.get_string(*cell.get(1)->value<std::string>())) << c->id() << " on " << columns[i];
      EXPECT_GT(s.reason.size(), 20u);
    }
  }
  EXPECT_EQ(rows, 45);
}

// Beyond the 45: what the reference documents say about combinations that users ask for.
TEST(Support, CombinationsOutsideThePlan) {
  const auto status = [](EngineId engine, const char* card, WeightFormat w, KvFormat kv) {
    return support(engine, *find_card(card), w, kv).status;
  };
  using enum SupportStatus;
  EXPECT_EQ(status(EngineId::native, "a10", WeightFormat::fp8, KvFormat::fp16), emulated);
  EXPECT_EQ(status(EngineId::native, "rtx4090", WeightFormat::fp8, KvFormat::fp8), native);
  EXPECT_EQ(status(EngineId::native, "a6000", WeightFormat::int8_sq, KvFormat::int8), native);
  EXPECT_EQ(status(EngineId::native, "cpu", WeightFormat::int4_awq, KvFormat::fp8), emulated);
  EXPECT_EQ(status(EngineId::trtllm_tensorrt, "a100", WeightFormat::fp8, KvFormat::fp16), unsupported);
  EXPECT_EQ(status(EngineId::trtllm_pytorch, "h100", WeightFormat::int8_sq, KvFormat::fp16), unsupported);
  EXPECT_EQ(status(EngineId::trtllm_pytorch, "h100", WeightFormat::fp8, KvFormat::int8), unsupported);
  EXPECT_EQ(status(EngineId::trtllm_tensorrt, "h100", WeightFormat::fp8, KvFormat::int8), native);
  EXPECT_EQ(status(EngineId::vllm, "a100", WeightFormat::fp8, KvFormat::fp16), emulated);
  EXPECT_EQ(status(EngineId::vllm, "l4", WeightFormat::fp8, KvFormat::int8), unsupported);
  EXPECT_EQ(status(EngineId::vllm, "cpu", WeightFormat::fp16, KvFormat::fp16), unsupported);
}

TEST(Support, CardsBelowAmpereAreRefusedWithTheReason) {
  Card t4 = *find_card("a10");
  t4.label = "T4";
  t4.cc_major = 7;
  t4.cc_minor = 5;
  const Support s = support(EngineId::native, t4, WeightFormat::fp16, KvFormat::fp16);
  EXPECT_EQ(s.status, SupportStatus::unsupported);
  EXPECT_NE(s.reason.find("T4 has 7.5"), std::string::npos) << s.reason;
}

TEST(Engines, KvRuleDecidesTheCheckpoint) {
  const EngineSpec& tensorrt = find_engine("tensorrt-llm", "tensorrt");
  EXPECT_EQ(case_checkpoint(tensorrt, "x", WeightFormat::fp8, KvFormat::fp8), "x-trtllm-ckpt-wq_fp8-kv_fp8");
  EXPECT_EQ(case_checkpoint(tensorrt, "x", WeightFormat::fp8, KvFormat::fp16), "x-trtllm-ckpt-wq_fp8-kv_fp16");
  for (EngineId id : {EngineId::native, EngineId::trtllm_pytorch, EngineId::vllm})
    for (KvFormat kv : kKvFormats)
      EXPECT_EQ(case_checkpoint(engine_spec(id), "x", WeightFormat::int4_awq, kv), "x-trtllm-ckpt-wq_int4_awq-kv_fp16");
  EXPECT_TRUE(runs_original_model(engine_spec(EngineId::native), WeightFormat::fp16));
  EXPECT_FALSE(runs_original_model(tensorrt, WeightFormat::fp16));
}

TEST(Engines, UnknownNamesSayWhatIsAllowed) {
  EXPECT_THROW(find_engine("tensorrt-llm"), Error);
  EXPECT_THROW(find_engine("tensorrt-llm", "onnx"), Error);
  EXPECT_THROW(find_engine("native", "pytorch"), Error);
  try {
    find_engine("sglang");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(e.fix().find("tensorrt-llm"), std::string::npos) << e.fix();
  }
}

// The plan's list of checkpoints to produce.
TEST(Engines, CheckpointsOfThePlan) {
  std::set<std::string> must, all, tensorrt;
  for (const Case& c : plan_grid().cases) {
    if (c.weights == WeightFormat::fp16) continue;
    const std::string& stem = plan_grid().model(c.model).stem;
    const std::string name = case_checkpoint(engine_spec(EngineId::native), stem, c.weights, c.kv);
    if (c.section == Section::must) must.insert(name);
    all.insert(name);
    tensorrt.insert(case_checkpoint(engine_spec(EngineId::trtllm_tensorrt), stem, c.weights, c.kv));
  }
  EXPECT_EQ(must, (std::set<std::string>{"llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16",
                                         "llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16",
                                         "llama-3.1-8b-instruct-trtllm-ckpt-wq_fp8-kv_fp16",
                                         "llama-3.1-8b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16",
                                         "mistral-7b-instruct-v0.3-trtllm-ckpt-wq_fp8-kv_fp16",
                                         "mistral-7b-instruct-v0.3-trtllm-ckpt-wq_int4_awq-kv_fp16"}));
  EXPECT_EQ(all.size(), 9u);
  EXPECT_EQ(tensorrt.size(), 18u);
}

TEST(Models, RowsAgreeWithTheGridsAndDerivedSizes) {
  for (const char* name : {"llama-3.2-3b", "llama-3.1-8b", "mistral-7b", "smollm2-135m"})
    ASSERT_NE(find_known_model(name), nullptr) << name;
  EXPECT_EQ(find_known_model("llama-3.2-3b")->shape.linear_params(), 2818572288);
  EXPECT_EQ(find_known_model("llama-3.1-8b")->shape.linear_params(), 6979321856);
  EXPECT_EQ(find_known_model("mistral-7b")->shape.embedding_params(), 134217728);
  // 134,515,008 parameters: linear layers, one embedding, norms.
  const ModelShape& smol = find_known_model("smollm2-135m")->shape;
  EXPECT_EQ(smol.linear_params() + smol.embedding_params() + (2 * smol.layers + 1) * smol.hidden, 134515008);
  EXPECT_EQ(int4_group_size(smol), 64);
  EXPECT_EQ(int4_group_size(find_known_model("llama-3.1-8b")->shape), 128);
}

TEST(Engines, RecordsMayNameAPartOfAnEngine) {
  const auto id = [](const char* engine) {
    const EngineSpec* row = engine_of_record(engine);
    return row ? row->key() : std::string("none");
  };
  EXPECT_EQ(id("native"), "native");
  EXPECT_EQ(id("native/served"), "native");
  EXPECT_EQ(id("openai/llama.cpp"), "openai");
  EXPECT_EQ(id("tensorrt-llm/pytorch"), "tensorrt-llm/pytorch");
  EXPECT_EQ(id("tensorrt-llm"), "none");
  EXPECT_EQ(id("nativeness"), "none");
}

}  // namespace
}  // namespace qg
