// Grid files that people write: what is accepted, and that every error names file, line, key and the allowed values.
#include <gtest/gtest.h>

#include "core/error.h"
#include "grid/grid.h"
#include "grid/points.h"

namespace qg {
namespace {

constexpr const char* kOneCase = R"(
[cases]
must = [[1, "llama-3.1-8b", "a100", "int4_awq", "fp8"]]
)";

Grid parse(const std::string& text, const ShapeReader& read_shape = {}) {
  return parse_grid(text, "/home/me/grids/mine.toml", read_shape);
}

std::string error_of(const std::string& text) {
  try {
    parse(text);
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "accepted:\n" << text;
  return {};
}

TEST(GridFile, SmallestGridHasDefaults) {
  const Grid grid = parse(kOneCase);
  ASSERT_EQ(grid.cases.size(), 1u);
  EXPECT_EQ(grid.cases[0].id(), "llama-3.1-8b/a100/int4_awq/kv_fp8");
  EXPECT_EQ(grid.title, "mine");
  EXPECT_EQ(grid.models[0].folder, "/home/me/grids/models/llama-3.1-8b-instruct");
  EXPECT_EQ(grid.shape(grid.cases[0]).layers, 32);
  EXPECT_EQ(grid.gates.max_ppl_ratio, 1.02);
  EXPECT_TRUE(grid.accuracy.text.empty());
  EXPECT_TRUE(grid.workloads.empty());
}

TEST(GridFile, OtherLettersMayStandInStringsAndComments) {
  const char* const accepted[] = {"title = \"45 \xE4\xB8\xAA\" # \xE6\xB5\x8B",
                                  "title = '''a\n\xC3\xA9''''' # \xC3\xA9",
                                  "title = \"\" # \xC3\xA9 \"",
                                  "title = \"a\\\"\xC3\xA9\"",
                                  "\xEF\xBB\xBFtitle = \"x\"",
                                  "title = \"\"\"a \\\n\xC3\xA9 \\\"\"\" \"\"\""};
  for (const char* text : accepted) EXPECT_EQ(parse(std::string(text) + kOneCase).cases.size(), 1u) << text;
}

TEST(GridFile, ProductNumbersOn) {
  const Grid grid = parse(std::string(kOneCase) + R"(
[[product]]
models = ["mistral-7b"]
gpus = ["l4", "l40s"]
weights = ["fp8"]
kv = ["fp16", "int8"]
[[product]]
section = "int8"
first_number = 100
models = ["mistral-7b"]
gpus = ["rtx4090"]
weights = ["int8_sq"]
kv = ["fp16"]
)");
  ASSERT_EQ(grid.cases.size(), 6u);
  EXPECT_EQ(grid.find_case(2)->id(), "mistral-7b/l4/fp8/kv_fp16");
  EXPECT_EQ(grid.find_case(3)->id(), "mistral-7b/l4/fp8/kv_int8");
  EXPECT_EQ(grid.find_case(5)->id(), "mistral-7b/l40s/fp8/kv_int8");
  EXPECT_EQ(grid.find_case(100)->section, Section::int8);
  EXPECT_EQ(grid.find_case("mistral-7b/rtx4090/int8_sq/kv_fp16")->number, 100);
  EXPECT_EQ(grid.find_case(7), nullptr);
  EXPECT_EQ(grid.gpu_ids(), (std::vector<std::string>{"a100", "l4", "l40s", "rtx4090"}));
}

TEST(GridFile, OtherModelsAndCards) {
  const std::string text = R"(
models_dir = "/srv/models"
[models.my-llama]
folder = "../checkpoints/my-llama"
[models."llama-3.1-8b"]
folder = "/data/llama"
[cards.l20]
label = "L20 48 GB"
product_names = ["L20"]
compute_capability = 8.9
memory_gb = 48.3
bandwidth_gbps = 864
fp16_tflops = 119.5
fp8_tflops = 239
int8_tops = 239
sms = 92
[cases]
must = [[1, "my-llama", "l20", "fp8", "fp8"], [2, "llama-3.1-8b", "l20", "fp8", "fp8"]]
)";
  const Grid grid = parse(text);
  EXPECT_EQ(grid.model("my-llama").folder, "/home/me/checkpoints/my-llama");
  EXPECT_EQ(grid.model("my-llama").stem, "my-llama");
  EXPECT_EQ(grid.model("llama-3.1-8b").folder, "/data/llama");
  EXPECT_EQ(grid.card("l20").cc(), 89);
  EXPECT_EQ(grid.card("l20").memory_bytes, 48'300'000'000);
  EXPECT_THROW(grid.shape(grid.cases[0]), Error);  // its folder is not here
}

TEST(GridFile, ShapeOfAFolderIsAskedFor) {
  const std::string folder = testing::TempDir();
  const auto read = [&](const std::filesystem::path& p) {
    EXPECT_EQ(p, folder);
    ModelShape shape;
    shape.layers = 7;
    return shape;
  };
  const Grid grid = parse("[models.mine]\nfolder = \"" + folder +
                              "\"\n[cases]\nmust = [[1, \"mine\", \"a10\", \"fp16\", "
                              "\"fp16\"]]\n",
                          read);
  EXPECT_EQ(grid.shape(grid.cases[0]).layers, 7);
}

TEST(GridFile, AnotherModelsDirLeavesNamedFoldersAlone) {
  const char* const text =
      "models_dir = \"here\"\n[models.named]\nfolder = \"mine\"\n[models.other]\n[cases]\nmust = "
      "[[1, \"named\", \"a10\", \"fp16\", \"fp16\"], [2, \"other\", \"a10\", \"fp16\", \"fp16\"], "
      "[3, \"llama-3.1-8b\", \"a10\", \"fp16\", \"fp16\"]]\n";
  const Grid grid = parse_grid(text, "/home/me/grids/mine.toml", {}, "there");
  EXPECT_EQ(grid.models_dir, "there");  // as it was given, not from the grid's folder
  EXPECT_EQ(grid.model("named").folder, "/home/me/grids/mine");
  EXPECT_TRUE(grid.model("named").has_own_folder);
  EXPECT_EQ(grid.model("other").folder, "there/other");
  EXPECT_EQ(grid.model("llama-3.1-8b").folder, "there/llama-3.1-8b-instruct");
  EXPECT_FALSE(grid.model("other").has_own_folder);
  EXPECT_EQ(parse_grid(text, "/home/me/grids/mine.toml").model("other").folder, "/home/me/grids/here/other");
}

TEST(GridFile, Workloads) {
  const Grid grid = parse(std::string(kOneCase) + R"(
[[workloads]]
name = "decode/b8"
kind = "decode"
isl = 128
osl = 256
batch = 8
[[workloads]]
name = "1000/1000"
kind = "throughput"
isl = 1000
osl = 1000
requests = 3000
profile = "full"
[[workloads]]
name = "prefill/512"
kind = "prefill"
isl = 512
)");
  ASSERT_EQ(grid.workloads.size(), 3u);
  EXPECT_EQ(grid.workloads[0].batch, 8);
  EXPECT_EQ(grid.workloads[0].rounds, 5);
  EXPECT_EQ(grid.workloads[1].requests, 3000);
  EXPECT_EQ(grid.workloads[1].profile, Profile::full);
  EXPECT_EQ(grid.workloads[2].osl_tokens, 1);
  EXPECT_EQ(grid.workloads_of(Profile::quick).size(), 2u);
  EXPECT_EQ(workloads_named(grid, Profile::quick, {"prefill/512"}).size(), 1u);
  // A name that is not there would measure nothing.
  const auto refusal = [&](const std::string& point) {
    try {
      workloads_named(grid, Profile::quick, {"prefill/512", point});
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  EXPECT_NE(refusal("decode/b9").find("did you mean \"decode/b8\"?"), std::string::npos) << refusal("decode/b9");
  EXPECT_NE(refusal("1000/1000").find("add --profile full"), std::string::npos) << refusal("1000/1000");
}

TEST(GridFile, WorkloadsAtARate) {
  const Grid grid = parse(std::string(kOneCase) + R"(
[[workloads]]
name = "rate/8"
kind = "rate"
isl = 1024
osl = 128
rate = 8
requests = 480
max_ttft_ms = 500
max_tpot_ms = 30
[[workloads]]
name = "rate/slow"
kind = "rate"
isl = 1
osl = 1
rate = 0.25
seconds = 90
burstiness = 0.5
seed = 7
profile = "full"
)");
  ASSERT_EQ(grid.workloads.size(), 2u);
  const Workload &quick = grid.workloads[0], &slow = grid.workloads[1];
  EXPECT_EQ(quick.kind, WorkloadKind::rate);
  EXPECT_EQ(quick.rate_per_s, 8);
  EXPECT_EQ(quick.requests, 480);
  EXPECT_EQ(quick.burstiness, 1);
  EXPECT_EQ(quick.seed, 42u);
  EXPECT_EQ(quick.max_ttft_ms, 500);
  EXPECT_EQ(quick.max_tpot_ms, 30);
  EXPECT_EQ(slow.requests, 23);  // 22.5, rounded
  EXPECT_EQ(slow.burstiness, 0.5);
  EXPECT_EQ(slow.seed, 7u);
  EXPECT_EQ(slow.max_ttft_ms, 0);
  EXPECT_EQ(slow.profile, Profile::full);
  EXPECT_EQ(rate_warm_up(480), 48);
  EXPECT_EQ(rate_warm_up(23), 16);
  EXPECT_EQ(rate_warm_up(3), 3);
  EXPECT_EQ(rate_warm_up(500'000), 1000);
}

// A part of the keys of results: journals that are there must stay valid.
TEST(GridFile, WhatAWorkloadIsDoesNotChange) {
  Workload w;
  w.name = "decode/b8";
  w.batch = 8;
  EXPECT_EQ(describe(w), "128 256 8 0 5");
  Workload rate{"rate/8", WorkloadKind::rate, 1024, 128, 1, 480, 1, Profile::quick, 8, 1, 500, 30, 42};
  EXPECT_EQ(describe(rate), "1024 128 1 480 1 rate 8 burstiness 1 seed 42 ttft 500 tpot 30");
  for (double Workload::*field :
       {&Workload::rate_per_s, &Workload::burstiness, &Workload::max_ttft_ms, &Workload::max_tpot_ms}) {
    Workload other = rate;
    other.*field += 0.5;
    EXPECT_NE(describe(other), describe(rate));
  }
  Workload other = rate;
  other.seed = 1;
  EXPECT_NE(describe(other), describe(rate));
}

struct BadFile {
  const char* text;
  std::vector<const char*> said;  // all of it must stand in the error
};

class BadGridFile : public testing::TestWithParam<BadFile> {};

TEST_P(BadGridFile, SaysFileLineKeyAndWhatIsAllowed) {
  const std::string message = error_of(GetParam().text);
  EXPECT_NE(message.find("mine.toml"), std::string::npos) << message;
  for (const char* part : GetParam().said) EXPECT_NE(message.find(part), std::string::npos) << part << "\n" << message;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadGridFile,
    testing::Values(
        BadFile{"", {"no cases"}}, BadFile{"title = \n", {"mine.toml:1", "not valid TOML"}},
        BadFile{"# caf\xC3\xA9\ntitle = \xE2\x80\x9Cmine\xE2\x80\x9D\n",
                {"mine.toml:2", "not valid TOML", "plain double quotes"}},
        BadFile{"a = 1\na = 2\n", {"mine.toml:2"}},
        BadFile{"[case]\nmust = []\n", {"mine.toml:1", "\"case\"", "did you mean \"cases\"", "workloads"}},
        BadFile{"[cases]\nmust = []\n", {"no cases"}},
        BadFile{"[cases]\nmust = 3\n", {"mine.toml:2: cases.must", "a list"}},
        BadFile{"[cases]\nmay = []\n", {"mine.toml:2: cases.may", "must, baseline, int8"}},
        BadFile{"[cases]\nmust = [[1, \"llama-3.1-8b\", \"a100\", \"fp8\"]]",
                {"mine.toml:2: cases.must[1]", "four strings"}},
        BadFile{"[cases]\nmust = [\n[1, \"llama-3.1-8b\", \"a100\", \"awq\", \"fp16\"]]",
                {"mine.toml:3", "\"awq\"", "did you mean \"int4_awq\"", "fp16, fp8, int4_awq, int8_sq"}},
        BadFile{"[cases]\nmust = [[1, \"llama-3.1-8b\", \"a100\", \"fp8\", \"e4m3\"]]",
                {"\"e4m3\"", "fp16, fp8, int8"}},
        BadFile{"[cases]\nmust = [[1, \"llama-3-8b\", \"a100\", \"fp8\", \"fp8\"]]",
                {"\"llama-3-8b\"", "did you mean \"llama-3.1-8b\"", "mistral-7b"}},
        BadFile{"[cases]\nmust = [[1, \"llama-3.1-8b\", \"A100\", \"fp8\", \"fp8\"]]", {"did you mean \"a100\""}},
        BadFile{"[cases]\nmust = [[0, \"llama-3.1-8b\", \"a100\", \"fp8\", \"fp8\"]]",
                {"0 cannot be the number", "999999"}},
        BadFile{"[cases]\nmust = [[1, \"llama-3.1-8b\", \"a100\", \"fp8\", \"fp8\"],\n[1, \"llama-3.1-8b\", \"a10\", "
                "\"fp8\", "
                "\"fp8\"]]",
                {"mine.toml:3", "two cases have the number 1"}},
        BadFile{"[cases]\nmust = [[1, \"llama-3.1-8b\", \"a100\", \"fp8\", \"fp8\"],\n[2, \"llama-3.1-8b\", \"a100\", "
                "\"fp8\", "
                "\"fp8\"]]",
                {"mine.toml:3", "twice"}},
        BadFile{"[[product]]\nmodels = []\n", {"mine.toml:2", "empty"}},
        BadFile{"[[product]]\nmodels = [\"mistral-7b\"]\ngpus = [\"h300\"]\nweights = [\"fp8\"]\nkv = [\"fp8\"]\n",
                {"mine.toml:3: product[1].gpus", "\"h300\"", "h100"}},
        BadFile{"[[product]]\nsection = \"implied\"\nmodels = [\"mistral-7b\"]\n",
                {"mine.toml:2", "must, baseline, int8"}},
        BadFile{"[[product]]\nmodels = [\"mistral-7b\"]\n", {"\"gpus\" is missing", "product[1]"}},
        BadFile{"[models.\"../x\"]\nfolder = \"x\"\n", {"mine.toml:1", "cannot be part of a file name"}},
        BadFile{"[models.x]\nfolders = \"x\"\n", {"mine.toml:2: models.x.folders", "did you mean \"folder\""}},
        BadFile{"[models.llama-3.1-8b]\nfolder = \"x\"\n", {"mine.toml:1", "[models.\"llama-3.1-8b\"]"}},
        BadFile{"[cards.a100]\nsms = 1\n", {"mine.toml:1", "knows already"}},
        BadFile{"[cards.x]\ncompute_capability = \"8.9\"\n", {"mine.toml:2", "a number", "a string"}},
        BadFile{"[cards.x]\ncompute_capability = 8.9\nmemory_gb = 1e12\n",
                {"mine.toml:3: cards.x.memory_gb", "out of range"}},
        BadFile{"[cards.x]\ncompute_capability = 8.9\nmemory_gb = 24\nbandwidth_gbps = 300\nfp16_tflops = 120\n",
                {"fp8_tflops"}}));

INSTANTIATE_TEST_SUITE_P(
    Settings, BadGridFile,
    testing::Values(
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"decod\"\n",
                {"mine.toml:4: workloads[1].kind", "did you mean \"decode\"", "throughput"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"decode\"\nisl = 0\n",
                {"mine.toml:5: workloads[1].isl", "0 is out of range"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"throughput\"\nisl = 1\nosl = 1\nbatch = 2\n",
                {"mine.toml:7", "requests"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"decode\"\nisl = 1\nosl = 2\nrate = 2\n",
                {"mine.toml:7: workloads[1].rate", "only a rate workload has rate", "kind = \"rate\""}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"throughput\"\nisl = 1\nosl = 2\nmax_ttft_ms = 2\n",
                {"mine.toml:7: workloads[1].max_ttft_ms", "only a rate workload"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = 0\n",
                {"mine.toml:7: workloads[1].rate", "0 is out of range"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = -3\n",
                {"mine.toml:7: workloads[1].rate", "-3 is out of range"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrequests = 3\n",
                {"mine.toml:2", "\"rate\" is missing"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = 3\n",
                {"mine.toml:2", "\"requests\" or \"seconds\" is missing", "seconds = 60"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = 3\nrequests = 1\nseconds = 3\n",
                {"mine.toml:9: workloads[1].seconds", "not both"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = 3\nseconds = 1000000\n",
                {"mine.toml:8: workloads[1].seconds", "3e+06 requests", "1000000"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = 3\nrequests = 1\nbatch = 4\n",
                {"mine.toml:9: workloads[1].batch", "one by one"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"x\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = 3\nrequests = 1\nburstiness = 0\n",
                {"mine.toml:9: workloads[1].burstiness", "out of range"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"1/2\"\nkind = "
                "\"rate\"\nisl = 1\nosl = 2\nrate = 3\nrequests = 1\n",
                {"mine.toml:3: workloads[1].name", "begin with \"rate/\"", "\"rate/8\""}},
        BadFile{
            "cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"rate/2\"\nkind = "
            "\"prefill\"\nisl = 1\n",
            {"mine.toml:3: workloads[1].name", "only theirs"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"p512\"\nkind = "
                "\"prefill\"\nisl = 1\n",
                {"mine.toml:3: workloads[1].name", "begin with \"prefill/\"", "\"prefill/512\""}},
        BadFile{
            "cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"prefill/9\"\nkind "
            "= \"throughput\"\nisl = 1\nosl = 2\n",
            {"mine.toml:3: workloads[1].name", "only theirs"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[[workloads]]\nname = \"a b\"\n",
                {"mine.toml:3", "letters, digits"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[accuracy]\nwindows = 3\n",
                {"\"text\" is missing", "accuracy"}},
        BadFile{
            "cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[calibration]\ntext = \"a\"\nseed = -1\n",
            {"mine.toml:4: calibration.seed", "-1 is out of range"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[gates]\nmax_ppl_ratio = 0.9\n",
                {"mine.toml:3: gates.max_ppl_ratio", "from 1"}},
        BadFile{"cases.must = [[1, \"mistral-7b\", \"a10\", \"fp8\", \"fp8\"]]\n[gates]\nmax_ppl_ratio = nan\n",
                {"out of range"}},
        BadFile{"title = \"a\\u001bb\"\n", {"mine.toml:1: title", "control characters"}}));

TEST(GridFile, TooManyCasesAreRefused) {
  std::string models = "[\"mistral-7b\"", gpus = "[\"a10\"";
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    text += "[models.m" + std::to_string(i) + "]\nfolder = \"x\"\n";
    models += ", \"m" + std::to_string(i) + "\"";
  }
  text += "[[product]]\nmodels = " + models + "]\ngpus = " + gpus +
          "]\nweights = [\"fp8\", \"fp16\"]\nkv = [\"fp16\", \"fp8\"]\n";
  EXPECT_NE(error_of(text).find("more than 10000 cases"), std::string::npos);
}

TEST(GridFile, MissingFileIsAnError) {
  EXPECT_THROW(load_grid("/nowhere/grid.toml"), Error);
}

}  // namespace
}  // namespace qg
