#include "report/study.h"

#include <set>

#include "core/error.h"
#include "core/file.h"
#include "grid/plan.h"
#include "report/assets.h"
#include "report/explain.h"
#include "report/prices.h"
#include "tests/record/sample.h"
#include "tests/report/sample_results.h"

namespace qg {
namespace {

Grid plan() {
  return parse_grid(kDefaultGrid, "trt-llm-45.toml");
}

Study demo_study(const Gates& gates = {}) {
  sample::Folder folder;
  sample::write_demo(folder / "demo.jsonl");
  return make_study(load_results({folder / "demo.jsonl"}), plan(), gates);
}

Study plan_study() {
  sample::Folder folder;
  const Grid grid = plan();
  sample::write_h100(folder / "h100.jsonl", grid);
  sample::write_l4(folder / "l4.jsonl", grid);
  sample::write_synthetic(folder / "a100.jsonl", grid);
  return make_study(load_results({folder / "h100.jsonl", folder / "l4.jsonl", folder / "a100.jsonl"}), grid,
                    grid.gates);
}

const Group& group_of(const Study& study, std::string_view model, std::string_view gpu) {
  for (const Group& group : study.groups)
    if (group.model == model && group.gpu == gpu) return group;
  throw Error("no such group");
}

const Cell& cell_of(const Study& study, int number) {
  for (const Cell& cell : study.cells)
    if (cell.in_grid && cell.about.number == number) return cell;
  throw Error("no such cell");
}

TEST(Study, DefaultGridIsTheFileOfThePlan) {
  EXPECT_EQ(kDefaultGrid, read_file(std::string(QG_SOURCE_DIR) + "/grids/trt-llm-45.toml"));
}

// The greatest batch, as `run` records it.
void add_max_batch(JournalWriter& journal, const Case& c, int64_t context, double batch, const std::string& ended_at) {
  Record r = sample::about_case(c, c.gpu, "memory");
  r.case_key += std::to_string(context);
  CaseDone done{r, 0, 0};
  done.subject.ended_at = ended_at;
  Record row = measured(r, "max_batch", batch);
  row.context_len = context;
  journal.append_case(done, {row});
}

// A batch that was counted at another context says nothing of this one, however new it is.
TEST(Study, TheGreatestBatchIsThatOfTheGatesContext) {
  sample::Folder folder;
  const Case c{1, Section::must, "smollm2-135m", "cpu", WeightFormat::fp16, KvFormat::fp16};
  {
    JournalWriter journal(folder / "j.jsonl", sample::box("0193-demo", "", "2026-11-21T09:00:00Z"));
    add_max_batch(journal, c, 4096, 230, "2026-11-21T10:00:00Z");
    add_max_batch(journal, c, 8192, 115, "2026-11-21T11:00:00Z");
  }
  for (const auto& [context, batch] : {std::pair{4096, 230.0}, {8192, 115.0}}) {
    Gates gates;
    gates.context_tokens = context;
    const Study study = make_study(load_results({folder / "j.jsonl"}), std::nullopt, gates);
    ASSERT_EQ(study.groups.size(), 1u);
    const Measure measure{MeasureKind::max_batch, "max_batch"};
    EXPECT_EQ(value_of(study, *study.groups[0].cells[0], measure), batch);
  }
  Gates other;
  other.context_tokens = 1024;
  const Study none = make_study(load_results({folder / "j.jsonl"}), std::nullopt, other);
  for (const Group& group : none.groups) EXPECT_NE(group.for_use(Use::memory).measure.kind, MeasureKind::max_batch);
}

// Where no row says it, as `run` would count it: on a GPU the native engine holds a tied embedding twice.
TEST(Study, MemoryThatWasNotRecordedIsCountedAsTheEngineHoldsIt) {
  const Grid grid = plan();
  const Study study = make_study(Results{}, grid, grid.gates);
  const Measure measure{MeasureKind::max_batch, "max_batch"};
  for (const PlanRow& row : make_plan(grid, grid.cases, {})) {
    const Cell& cell = cell_of(study, row.c.number);
    EXPECT_EQ(weights_bytes_of(study, cell), static_cast<double>(*row.weights_bytes)) << row.c.id();
    EXPECT_EQ(value_of(study, cell, measure), static_cast<double>(*row.max_batch)) << row.c.id();
    Cell shared = cell;
    shared.engine = "vllm";
    const bool tied = row.c.model == "llama-3.2-3b";
    EXPECT_EQ(*weights_bytes_of(study, cell) - *weights_bytes_of(study, shared), tied ? 2.0 * 128256 * 3072 : 0.0);
  }
}

TEST(Study, DemoPicks) {
  const Study study = demo_study();
  ASSERT_EQ(study.groups.size(), 1u);
  const Group& group = study.groups[0];
  EXPECT_TRUE(group.on_cpu);
  EXPECT_EQ(group.cells.size(), 8u);
  const Pick& latency = group.for_use(Use::latency).pick;
  ASSERT_TRUE(latency.winner);
  EXPECT_EQ(latency.winner->case_id, "smollm2-135m/cpu/int8_sq/kv_fp16");
  // The fastest, int4, is out by its accuracy.
  std::set<std::string> out;
  for (const Reason& reason : latency.excluded) out.insert(reason.case_id);
  EXPECT_EQ(out, (std::set<std::string>{"smollm2-135m/cpu/int4_awq/kv_fp16", "smollm2-135m/cpu/int4_awq/kv_fp8"}));
  // A grid without 1000/1000 is judged by its prefill, and a card without a known memory by bytes.
  EXPECT_EQ(group.for_use(Use::throughput).measure.workload, "prefill/512");
  EXPECT_EQ(group.for_use(Use::memory).measure.kind, MeasureKind::footprint);
  EXPECT_EQ(group.for_use(Use::memory).pick.winner->case_id, "smollm2-135m/cpu/fp8/kv_fp8");
}

TEST(Study, GatesDecideWhoMayWin) {
  Gates gates;
  gates.max_ppl_ratio = 2;
  gates.max_kld_nats = 1;
  EXPECT_EQ(demo_study(gates).groups[0].for_use(Use::latency).pick.winner->weights, WeightFormat::int4_awq);
  gates.max_ppl_ratio = 1.001;
  gates.max_kld_nats = 0.001;
  EXPECT_EQ(demo_study(gates).groups[0].for_use(Use::latency).pick.winner->weights, WeightFormat::fp16);
}

TEST(Study, EveryCaseOfThePlanHasACell) {
  const Study study = plan_study();
  std::set<int> numbers;
  for (const Cell& cell : study.cells)
    if (cell.in_grid) numbers.insert(cell.about.number);
  EXPECT_EQ(numbers.size(), 45u);
  EXPECT_EQ(cell_of(study, 15).state, CellState::measured);
  EXPECT_EQ(cell_of(study, 13).state, CellState::elsewhere);
  EXPECT_EQ(cell_of(study, 11).state, CellState::speed_only);
  EXPECT_EQ(cell_of(study, 28).state, CellState::failed);
  EXPECT_NE(cell_of(study, 28).problem.find("23.4 GB"), std::string::npos);
  EXPECT_EQ(cell_of(study, 1).state, CellState::not_run);
  EXPECT_EQ(cell_of(study, 15).compute_path, "w8a8_fp8");
}

TEST(Study, AnotherCardsSpeedNeverRanks) {
  const Study study = plan_study();
  const Group& a10 = group_of(study, "llama-3.1-8b", "a10");
  EXPECT_FALSE(a10.for_use(Use::latency).pick.winner);
  EXPECT_FALSE(a10.for_use(Use::latency).any_value);
  EXPECT_TRUE(a10.for_use(Use::memory).pick.winner) << "memory is arithmetic, accuracy counts";
  const Record* row = cell_of(study, 13).row("decode/b1", "output_tok_s");
  ASSERT_NE(row, nullptr);
  EXPECT_TRUE(row->cross_target);
}

TEST(Study, RandomWeightsNeverWin) {
  const Study study = plan_study();
  for (Use use : kUses) EXPECT_FALSE(group_of(study, "llama-3.1-8b", "a100").for_use(use).pick.winner);
}

TEST(Study, OwnCardReplacesAnotherCards) {
  sample::Folder folder;
  const Grid grid = plan();
  sample::write_h100(folder / "h100.jsonl", grid);
  {
    JournalWriter journal(folder / "a10.jsonl", sample::box("0197-a10", "NVIDIA A10", "2026-11-20T00:00:00Z"));
    sample::add_speed(journal, *grid.find_case(14), "a10", "decode/b1", 77, "w4a16");
  }
  const Study study = make_study(load_results({folder / "h100.jsonl", folder / "a10.jsonl"}), grid, grid.gates);
  const Cell& cell = cell_of(study, 14);
  EXPECT_EQ(cell.row("decode/b1", "output_tok_s")->value, 77);
  EXPECT_EQ(cell.accuracy("ppl")->measured_on, "h100");
  EXPECT_EQ(cell.state, CellState::emulated) << "an FP8 cache on an A10";
}

TEST(Study, UnsupportedIsAState) {
  sample::Folder folder;
  const Grid grid = plan();
  {
    JournalWriter journal(folder / "j.jsonl", sample::box("r", "NVIDIA A10", "2026-11-20T00:00:00Z"));
    CaseDone done{sample::about_case(*grid.find_case(4), "a10", "decode/b1"), 0, 0};
    done.subject.engine = "tensorrt-llm/tensorrt";
    done.subject.status = "skipped_unsupported";
    done.subject.error_msg = "the TensorRT back end has no FP8 cache on this card";
    journal.append_case(done, {});
  }
  const Study study = make_study(load_results({folder / "j.jsonl"}), grid, grid.gates);
  EXPECT_EQ(cell_of(study, 4).state, CellState::unsupported);
  EXPECT_EQ(cell_of(study, 4).engine, "tensorrt-llm/tensorrt");
}

TEST(Explain, SentencesNameThePickAndWhy) {
  const Study study = demo_study();
  const Speaker en(Language::en), zh(Language::zh);
  const std::string latency = pick_sentence(study, study.groups[0], Use::latency, en);
  for (const char* part : {"serve INT8 SmoothQuant + FP16 KV", "25.3 tok/s", "ties with", "+1.6 %", "0.0172 nats"})
    EXPECT_NE(latency.find(part), std::string::npos) << latency;
  EXPECT_NE(pick_sentence(study, study.groups[0], Use::latency, zh).find("选 INT8 SmoothQuant + FP16 KV"),
            std::string::npos);
  EXPECT_NE(group_title(study, study.groups[0], en).find("not a graphics card's speed"), std::string::npos);
  const Json json = picks_as_json(study);
  ASSERT_EQ(json.size(), 3u);
  EXPECT_EQ(json[0]["winner"]["weights"], "int8_sq");
  EXPECT_EQ(json[0]["excluded"][0]["code"], "ppl_too_high");
}

TEST(Prices, TomlAndJson) {
  const Prices toml = parse_prices("currency = \"EUR\"\nh100 = 3.6\n", "p.toml");
  EXPECT_EQ(toml.currency, "EUR");
  EXPECT_NEAR(*toml.per_million_tokens("h100", 1000), 1.0, 1e-12);  // 3.6 an hour = 0.001 a second = 1000 tokens
  EXPECT_FALSE(toml.per_million_tokens("l4", 1000));
  EXPECT_EQ(parse_prices("{\"per_hour\": {\"l4\": 0.5}}", "p.json").per_hour.at("l4"), 0.5);
  for (const char* wrong :
       {"", "h100 = \"much\"", "h100 = -1", "{\"h100\": null}", "= 3", "[1]", "\"../x\" = 1", "h100 = nan"})
    EXPECT_THROW(parse_prices(wrong, "p"), Error) << wrong;
}

TEST(Prices, AreOfCardsAndWhatIsNotUsedIsSaid) {
  const Study study = demo_study();  // of the CPU
  const auto said = [&](const char* text) {
    try {
      return unused_prices(parse_prices(text, "p"), study, "p");
    } catch (const Error& e) {
      return std::string("refused: ") + e.what();
    }
  };
  EXPECT_EQ(said("cpu = 0.1"), "");
  EXPECT_EQ(said("cpu = 0.1\nh100 = 2\nl4 = 1"),
            "p: there are no results of h100, l4, whose prices are not used; the report has cpu");
  EXPECT_EQ(said("h100 = 2"), "p: none of the prices is used, there are no results of h100; the report has cpu");
  const std::string slip = said("cpu = 0.1\nh1000 = 2\nmy_card = 1");
  for (const char* part : {"refused: ", "no card is called h1000, my_card", "did you mean \"h100\"?", "has cpu"})
    EXPECT_NE(slip.find(part), std::string::npos) << slip;
}

}  // namespace
}  // namespace qg
