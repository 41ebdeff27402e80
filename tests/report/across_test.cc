// Engines side by side: the same case on each, with the tie rule of the pick.
#include "report/across.h"

#include <gtest/gtest.h>

#include "core/hash.h"
#include "report/open_study.h"
#include "tests/record/sample.h"
#include "tests/report/sample_results.h"

namespace qg {
namespace {

struct Figure {
  const char* engine;
  double value;
  bool synthetic = false, cross = false, valid = true;
  int64_t requests = 0;
  bool window = false;
};

void write(const std::filesystem::path& file, const std::vector<Figure>& figures,
           const std::string& workload = "decode/b8") {
  JournalWriter journal(file, sample::box(new_run_id(), "NVIDIA H100 80GB HBM3", "2026-11-26T10:00:00Z"));
  const Case c{5, Section::must, "llama-3.2-3b", "h100", WeightFormat::fp8, KvFormat::fp16};
  for (const Figure& f : figures) {
    Record r = sample::about_case(c, f.cross ? "h200" : "h100", workload);
    r.engine = f.engine;
    r.case_key = sha256_hex(f.engine).substr(0, 16);
    r.synthetic = f.synthetic;
    if (f.requests > 0) r.num_requests = f.requests;
    // As other engines' drivers write it; the native engine leaves it out, and names a window in its protocol.
    if (std::string_view(f.engine) != "native") r.window_s = 200;
    if (f.window) r.protocol = "steady window of 60 s, requests started at random depths";
    CaseDone done;
    done.subject = r;
    Record row = sample::between(measured(r, "output_tok_s", f.value), 0.01);
    if (!f.valid) {
      done.subject.valid = row.valid = false;
      done.subject.status = row.status = "invalid";
    }
    journal.append_case(done, {row});
  }
}

std::vector<AcrossRow> rows_of(const std::vector<Figure>& figures, Study& study,
                               const std::string& workload = "decode/b8") {
  sample::Folder folder;
  write(folder / "j.jsonl", figures, workload);
  study =
      open_study({.results = {folder / "j.jsonl"}, .grid = {}, .max_ppl_ratio = {}, .max_kld_nats = {}, .engines = {}});
  return across_engines(study);
}

TEST(AcrossEngines, TheFastestFirstWithItsLead) {
  Study study;
  const auto rows = rows_of({{"native", 700}, {"vllm", 900}, {"tensorrt-llm/pytorch", 890}}, study);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].workload, "decode/b8");
  ASSERT_EQ(rows[0].entries.size(), 3u);
  EXPECT_EQ(rows[0].entries[0].cell->engine, "vllm");
  EXPECT_EQ(rows[0].ties, std::vector<std::string>{"tensorrt-llm/pytorch"});
  const std::string text = across_sentence(study, rows[0], Speaker(Language::en));
  EXPECT_NE(text.find("vllm 900 tok/s, not told apart from tensorrt-llm/pytorch (890), 1.29 times native (700)"),
            std::string::npos)
      << text;
  EXPECT_NE(across_sentence(study, rows[0], Speaker(Language::zh)).find("无法区分"), std::string::npos);
  const Json json = across_engines_as_json(study);
  EXPECT_EQ(json[0]["engines"][2]["engine"], "native");
}

TEST(AcrossEngines, OnlyWhatMayBeCompared) {
  Study study;
  EXPECT_TRUE(rows_of({{"native", 700}}, study).empty());
  EXPECT_TRUE(rows_of({{"native", 700}, {"vllm", 900, true}}, study).empty());  // random weights against real ones
  EXPECT_EQ(rows_of({{"native", 700, true}, {"vllm", 900, true}}, study).size(), 1u);
  EXPECT_TRUE(rows_of({{"native", 700}, {"vllm", 900, false, true}}, study).empty());          // another card
  EXPECT_TRUE(rows_of({{"native", 700}, {"vllm", 900, false, false, false}}, study).empty());  // invalid
}

TEST(AcrossEngines, ThroughputOfAsManyRequests) {
  Study study;
  const auto figure = [](const char* engine, double value, int64_t requests, bool window = false) {
    return Figure{engine, value, false, false, true, requests, window};
  };
  const auto native = figure("native", 700, 16), vllm = figure("vllm", 900, 3000),
             other = figure("tensorrt-llm", 800, 3000);
  EXPECT_TRUE(rows_of({native, vllm}, study, "1000/1000").empty());
  const auto rows = rows_of({native, vllm, other}, study, "1000/1000");
  ASSERT_EQ(rows.size(), 1u);
  ASSERT_EQ(rows[0].entries.size(), 2u);
  EXPECT_EQ(rows[0].entries[1].cell->engine, "tensorrt-llm");
  EXPECT_EQ(across_sentence(study, rows[0], Speaker(Language::en)).find("methods"), std::string::npos);
  const auto mixed = rows_of({figure("native", 700, 80, true), vllm}, study, "1000/1000");
  ASSERT_EQ(mixed.size(), 1u) << "a window's are counted";
  const std::string text = across_sentence(study, mixed[0], Speaker(Language::en));
  EXPECT_NE(text.find("measured by different methods: vllm 3,000 requests, native steady window"), std::string::npos)
      << text;
  EXPECT_EQ(rows_of({native, vllm}, study).size(), 1u) << "decode says how many run at once";
}

TEST(AcrossEngines, ResultsOfSomeEnginesOnly) {
  sample::Folder folder;
  write(folder / "j.jsonl", {{"native", 700}, {"vllm", 900}, {"tensorrt-llm/pytorch", 800}});
  StudyFiles files;
  files.results = {folder / "j.jsonl"};
  files.engines = {"vllm", "tensorrt-llm"};
  const Study study = open_study(files);
  ASSERT_EQ(study.groups.size(), 2u);
  for (const Group& group : study.groups) EXPECT_NE(group.engine, "native");
  files.engines = {"tensorrt"};
  EXPECT_ANY_THROW(open_study(files));
}

}  // namespace
}  // namespace qg
