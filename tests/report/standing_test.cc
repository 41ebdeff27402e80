// What may stand side by side in a cell and in a pick: figures of one checkpoint, by one method, that no newer failure
// overtook.
#include <gtest/gtest.h>

#include "core/hash.h"
#include "report/across.h"
#include "report/explain.h"
#include "report/page.h"
#include "tests/record/sample.h"
#include "tests/report/sample_results.h"

namespace qg {
namespace {

constexpr const char* kFp8 = "llama-3.2-3b/h100/fp8/kv_fp16";

// One attempt at a measurement; a speed unless the workload is "accuracy".
struct Part {
  WeightFormat weights = WeightFormat::fp8;
  std::string workload = "decode/b1";
  double value = 100;
  std::string day = "01";  // of the month in which it ended
  std::string recipe = "a";
  std::string engine = "native";
  std::string status = "ok";
  std::string protocol;
  int64_t requests = 0;
  KvFormat kv = KvFormat::fp16;
  std::string key;  // tells case keys apart: of one key the store chooses one attempt
};

void append(const std::filesystem::path& folder, const Part& part) {
  static int count = 0;
  const std::string run_id = "run-" + part.day + "-" + std::to_string(count++);
  const std::string time = "2026-11-" + part.day + "T10:00:00Z";
  JournalWriter journal(folder / "j.jsonl", sample::box(run_id, "NVIDIA H100 80GB HBM3", time));
  const Case c{0, Section::implied, "llama-3.2-3b", "h100", part.weights, part.kv};
  Record r = sample::about_case(c, "h100", part.workload);
  r.engine = part.engine;
  r.base_ckpt_sha = "base";
  if (part.weights != WeightFormat::fp16) r.recipe_sha = part.recipe;
  r.protocol = part.protocol;
  if (part.requests > 0) r.num_requests = part.requests;
  r.case_key = sha256_hex(part.engine + part.recipe + part.workload + part.key + r.weights + r.kv).substr(0, 16);
  CaseDone done{r, 0, 1};
  done.subject.status = part.status;
  done.subject.ended_at = time;
  std::vector<Record> rows;
  if (part.status != "ok") {
    done.subject.valid = false;
    done.subject.error_msg = "the card fell off the bus";
  } else if (part.workload == "accuracy") {
    rows = {measured(r, "ppl", 10 * part.value), measured(r, "base_ppl", 10), measured(r, "kld_mean", 0.01)};
  } else {
    rows = {sample::between(measured(r, "output_tok_s", part.value), 0.001)};
  }
  journal.append_case(done, rows);
}

// A baseline of 100 tok/s, and whatever the test adds.
Study study_of(std::vector<Part> parts, const std::string& workload = "decode/b1", int64_t requests = 0) {
  sample::Folder folder;
  Part baseline;
  baseline.weights = WeightFormat::fp16, baseline.workload = workload, baseline.requests = requests;
  parts.push_back(baseline);
  for (const Part& part : parts) append(folder / "", part);
  return make_study(load_results({folder / "j.jsonl"}), std::nullopt, {});
}

Part accuracy(const std::string& day, const std::string& recipe = "a", const std::string& engine = "native") {
  Part part;
  part.workload = "accuracy", part.value = 1, part.day = day, part.recipe = recipe, part.engine = engine;
  return part;
}

Part speed(double value, const std::string& day, const std::string& recipe = "a",
           const std::string& engine = "native") {
  Part part;
  part.value = value, part.day = day, part.recipe = recipe, part.engine = engine;
  return part;
}

const Group& group_of(const Study& study, std::string_view engine) {
  for (const Group& group : study.groups)
    if (group.engine == engine) return group;
  throw std::runtime_error("no such group");
}

std::string winner(const Study& study, Use use = Use::latency, std::string_view engine = "native") {
  const auto& pick = group_of(study, engine).for_use(use).pick;
  return pick.winner ? pick.winner->case_id : std::string();
}

std::string left_out(const Study& study, Use use = Use::latency, std::string_view engine = "native") {
  return excluded_sentence(study, group_of(study, engine), use, Speaker(Language::en));
}

std::string page_of(const Study& study, bool html) {
  PageOptions options;
  options.made_at = "2026-11-22T12:00:00Z";
  return html ? html_page(study, options) : markdown_page(study, options);
}

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(Standing, OneCheckpointIsPicked) {
  const Study study = study_of({accuracy("02"), speed(200, "03")});
  EXPECT_EQ(winner(study), kFp8);
  EXPECT_FALSE(has(page_of(study, true), "‡"));
}

// The new recipe's accuracy is there, its speed failed: the old recipe's speed is not the new one's.
TEST(Standing, SpeedAndAccuracyOfTwoCheckpointsAreNoPick) {
  Part failed = speed(0, "05", "b");
  failed.status = "failed";
  const Study study = study_of({accuracy("02"), speed(200, "03"), accuracy("04", "b"), failed});
  EXPECT_NE(winner(study), kFp8);
  EXPECT_TRUE(has(left_out(study), "its speed and its accuracy are of different checkpoints")) << left_out(study);
  EXPECT_TRUE(has(left_out(study), "measured again since, and that failed")) << left_out(study);
  for (bool html : {true, false}) {
    EXPECT_TRUE(has(page_of(study, html), "200†‡"));
    EXPECT_TRUE(has(page_of(study, html), "‡ of another checkpoint than the accuracy beside it"));
  }
  // Without a failure too: the new recipe's speed was just not measured yet.
  EXPECT_NE(winner(study_of({accuracy("02"), speed(200, "03"), accuracy("04", "b")})), kFp8);
  EXPECT_EQ(winner(study_of({accuracy("02"), speed(200, "03"), accuracy("04", "b"), speed(210, "05", "b")})), kFp8);
}

TEST(Standing, ANewerFailureIsShownAndDecides) {
  Part failed = speed(0, "05");
  failed.status = "crash";
  for (const char* key : {"", "of a newer build"}) {  // at the same key the store keeps the older as chosen
    failed.key = key;
    const Study study = study_of({accuracy("02"), speed(200, "03"), failed});
    EXPECT_NE(winner(study), kFp8) << key;
    for (bool html : {true, false}) {
      const std::string page = page_of(study, html);
      EXPECT_TRUE(has(page, "200†")) << key;
      EXPECT_TRUE(has(page, "decode/b1: crash: the card fell off the bus (2026-11-05; an older figure is shown"))
          << key << html;
    }
  }
  Part no_accuracy = accuracy("06");
  no_accuracy.status = "failed";
  EXPECT_NE(winner(study_of({accuracy("02"), speed(200, "03"), no_accuracy})), kFp8);
}

TEST(Standing, EnginesAreNotComparedByAnOvertakenSpeed) {
  Part failed = speed(0, "05", "a", "vllm");
  failed.status = "crash";
  EXPECT_EQ(across_engines(study_of({speed(150, "03"), speed(200, "03", "a", "vllm")})).size(), 1u);
  EXPECT_TRUE(across_engines(study_of({speed(150, "03"), speed(200, "03", "a", "vllm"), failed})).empty());
}

TEST(Standing, AFailureThatWasMendedIsOver) {
  Part failed = speed(0, "02");
  failed.status = "crash", failed.key = "older build";
  const Study study = study_of({accuracy("02"), failed, speed(200, "03")});
  EXPECT_EQ(winner(study), kFp8);
  EXPECT_FALSE(has(page_of(study, true), "fell off the bus"));
}

// A window has no ramp and no tail, few requests never fill a card.
TEST(Standing, OnlySpeedsByOneMethodAreRanked) {
  Part whole = speed(200, "03");
  whole.workload = "1000/1000", whole.requests = 1024;
  Part window = whole, few = whole;
  window.protocol = "steady window of 60 s, requests started at random depths";
  few.requests = 16;
  EXPECT_EQ(winner(study_of({accuracy("02"), whole}, "1000/1000", 1024), Use::throughput), kFp8);
  for (const auto& [other, said] : {std::pair{window, "steady window"}, {few, "16 requests"}}) {
    const Study study = study_of({accuracy("02"), other}, "1000/1000", 1024);
    EXPECT_NE(winner(study, Use::throughput), kFp8) << said;
    const std::string out = left_out(study, Use::throughput);
    EXPECT_TRUE(has(out, std::string("measured by another method: ") + said + "; those ranked: 1,024 requests")) << out;
    for (bool html : {true, false}) EXPECT_TRUE(has(page_of(study, html), said));
  }
}

TEST(Standing, AnotherEngineTakesTheNativeAccuracyOfTheSameCheckpoint) {
  const Study study = study_of({accuracy("02"), speed(150, "03"), speed(200, "03", "a", "vllm")});
  EXPECT_EQ(winner(study, Use::latency, "vllm"), kFp8);
  EXPECT_TRUE(has(pick_sentence(study, group_of(study, "vllm"), Use::latency, Speaker(Language::en)),
                  "(accuracy from native)"));
  EXPECT_FALSE(has(pick_sentence(study, group_of(study, "native"), Use::latency, Speaker(Language::en)),
                   "(accuracy from native)"));
  for (bool html : {true, false}) EXPECT_TRUE(has(page_of(study, html), "§ accuracy from the native engine"));
  for (const Json& pick : picks_as_json(study)) {
    if (pick["use"] != "latency") continue;
    EXPECT_EQ(pick["winner"].contains("accuracy_engine"), pick["engine"] == "vllm") << pick;
  }
}

// Each engine scales such a cache in its own way; behind our server it is the same engine.
TEST(Standing, AccuracyWithASmallCacheIsTakenBehindOurServerOnly) {
  for (const char* engine : {"vllm", "native/served"}) {
    Part own = accuracy("02"), other = speed(200, "03", "a", engine);
    own.kv = other.kv = KvFormat::fp8;
    const bool taken = !winner(study_of({own, other}), Use::latency, engine).empty();
    EXPECT_EQ(taken, std::string_view(engine) == "native/served");
  }
}

TEST(Standing, NoAccuracyIsTakenOfAnotherCheckpoint) {
  const Study study = study_of({accuracy("02"), speed(200, "03", "b", "vllm")});
  EXPECT_EQ(winner(study, Use::latency, "vllm"), "");
  EXPECT_TRUE(has(left_out(study, Use::latency, "vllm"), "accuracy not measured"));
}

TEST(Standing, BothPagesListWhatFailed) {
  Part failed = speed(0, "03");
  failed.status = "oom";
  const Study study = study_of({accuracy("02"), failed});
  for (bool html : {true, false}) {
    EXPECT_TRUE(has(page_of(study, html), "decode/b1: oom: the card fell off the bus")) << html;
    EXPECT_TRUE(has(page_of(study, html), "Measurements that failed")) << html;
  }
}

}  // namespace
}  // namespace qg
