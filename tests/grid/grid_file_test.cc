// Grid files that people write: what is accepted, and that every error names file, line, key and the allowed values.
#include <gtest/gtest.h>

#include "core/error.h"
#include "grid/grid.h"

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
