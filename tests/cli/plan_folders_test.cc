// scripts/check_plan_folders.py on a folder that quantize made and on what can be wrong with folders, plans and
// matrices.
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "core/json.h"
#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

class PlanFolders : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fresh_folder("plan-folders-" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A small model in 4 bits, as `inspect` describes it, and lists as `plan` would give them of two cases that need it.
  void make_int4() {
    fs::copy(fs::path(QG_SOURCE_DIR) / "tests/golden/models/llama-gqa8-llama3rope-tied-fp16", folder_ / "model",
             fs::copy_options::recursive);
    std::string text;
    for (int i = 0; i < 400; ++i) text += "word " + std::to_string(i * 7919 % 1000) + " ";
    write_text(folder_ / "text.txt", text);
    const Outcome made = run_program(
        "quantize --model model --weights int4_awq --calib text.txt --calib-sequences 4 "
        "--calib-tokens 32 --out " +
            name_,
        folder_);
    ASSERT_EQ(made.exit_code, 0) << made.err;
    inspected_ = Json::parse(run_program("inspect --json " + name_, folder_).out);
    const Json& shape = inspected_["shape"];
    const int64_t elements =
        2 * shape["layers"].get<int64_t>() * shape["kv_heads"].get<int64_t>() * shape["head_dim"].get<int64_t>();
    checkpoints_ = Json::array({{{"checkpoint", name_},
                                 {"origin", "quantized"},
                                 {"layout", "trtllm"},
                                 {"model", "tiny"},
                                 {"weights", "int4_awq"},
                                 {"disk_bytes", inspected_["bytes"]["files"]},
                                 {"cases", {1, 2}}},
                                {{"checkpoint", "tiny-trtllm-ckpt-wq_fp16-kv_fp16"},
                                 {"origin", "original"},
                                 {"layout", "huggingface"},
                                 {"model", "tiny"},
                                 {"weights", "fp16"},
                                 {"disk_bytes", 1},
                                 {"cases", {3}}}});
    cases_ = Json::array();
    for (const char* kv : {"fp16", "fp8", "fp16"}) {
      const bool original = cases_.size() == 2;
      cases_.push_back({{"number", cases_.size() + 1},
                        {"model", "tiny"},
                        {"gpu", "h100"},
                        {"weights", original ? "fp16" : "int4_awq"},
                        {"kv", kv},
                        {"checkpoint", checkpoints_[original ? 1 : 0]["checkpoint"]},
                        {"kv_bytes_per_token", elements * (std::string(kv) == "fp16" ? 2 : 1)}});
    }
  }

  Outcome check(const Json& cases, const Json& checkpoints, const std::vector<Json>& folders,
                const std::string& flags = "") const {
    write_text(folder_ / "cases.json", cases.dump());
    write_text(folder_ / "checkpoints.json", checkpoints.dump());
    std::string files;
    for (size_t i = 0; i < folders.size(); ++i) {
      write_text(folder_ / (std::to_string(i) + ".json"), folders[i].dump());
      files += " " + std::to_string(i) + ".json";
    }
    return run_command("cd '" + folder_.string() +
                       "' && python3 '" QG_SOURCE_DIR "/scripts/check_plan_folders.py' cases.json checkpoints.json" +
                       files + " " + flags + " 2>&1");
  }

  static void expect_says(const Outcome& outcome, const std::string& what) {
    EXPECT_EQ(outcome.exit_code, 1) << what << ": " << outcome.out;
    EXPECT_NE(outcome.out.find(what), std::string::npos) << "\"" << what << "\" is not in: " << outcome.out;
    EXPECT_EQ(outcome.out.find("Traceback"), std::string::npos) << outcome.out;
  }

  fs::path folder_;
  const std::string name_ = "tiny-trtllm-ckpt-wq_int4_awq-kv_fp16";
  Json inspected_, checkpoints_, cases_;
};

TEST_F(PlanFolders, TakesWhatIsAsPlanned) {
  make_int4();
  const Outcome right = check(cases_, checkpoints_, {inspected_});
  EXPECT_EQ(right.exit_code, 0) << right.out;
  EXPECT_NE(right.out.find("1 folders for 2 cases"), std::string::npos) << right.out;
  EXPECT_EQ(check(cases_, checkpoints_, {}, "--model another").exit_code, 0);
}

TEST_F(PlanFolders, SaysWhatIsWrongWithAFolder) {
  make_int4();
  const struct {
    const char* said;
    std::function<void(Json&)> spoil;
  } kWrong[] = {
      {"sound: False, expected True", [](Json& f) { f["sound"] = false; }},
      {"layout: modelopt, expected trtllm", [](Json& f) { f["layout"] = "modelopt"; }},
      {"weights: fp8, expected int4_awq", [](Json& f) { f["quantization"]["weights"] = "fp8"; }},
      {"weights of its lineage: fp8", [](Json& f) { f["lineage"]["recipe"]["weights"] = "fp8"; }},
      {"weights of its lineage: None", [](Json& f) { f["lineage"] = nullptr; }},
      {"KV format that is fixed: int8", [](Json& f) { f["quantization"]["fixed_kv"] = "int8"; }},
      {"group size: 16", [](Json& f) { f["quantization"]["group_size"] = 16; }},
      {"lm_head left as it is: False", [](Json& f) { f["quantization"]["exclude"] = Json::array(); }},
      {"fp8 scales for case 2: False", [](Json& f) { f["kv_scales"]["fp8"] = false; }},
      {"KV bytes a token of case 2", [](Json& f) { f["shape"]["kv_heads"] = f["shape"]["kv_heads"].get<int>() + 1; }},
      {"bytes of files, the plan says",
       [](Json& f) { f["bytes"]["files"] = f["bytes"]["files"].get<double>() * 1.02; }},
      {"bytes of files, the plan says", [](Json& f) { f["bytes"]["files"] = f["bytes"]["files"].get<double>() * .98; }},
      {"inspect: rank0.safetensors is cut off", [](Json& f) { f["problems"] = {"rank0.safetensors is cut off"}; }},
  };
  for (const auto& wrong : kWrong) {
    Json spoiled = inspected_;
    wrong.spoil(spoiled);
    const Outcome outcome = check(cases_, checkpoints_, {spoiled});
    expect_says(outcome, name_ + ": ");
    expect_says(outcome, wrong.said);
  }
}

TEST_F(PlanFolders, CountsFoldersAndCases) {
  make_int4();
  expect_says(check(cases_, checkpoints_, {}), name_ + ": not there; cases [1, 2] need it");
  expect_says(check(cases_, checkpoints_, {inspected_, inspected_}), name_ + ": described twice");
  expect_says(check(cases_, checkpoints_, {inspected_}, "--model another"), name_ + ": no case needs it");
  Json other = inspected_;
  other["folder"] = "models/tiny-trtllm-ckpt-wq_fp8-kv_fp16";
  expect_says(check(cases_, checkpoints_, {inspected_, other}), "wq_fp8-kv_fp16: no case needs it");
  Json fewer = checkpoints_;
  fewer[0]["cases"] = {1};
  expect_says(check(cases_, fewer, {inspected_}), "the plan's two lists differ in its cases");
}

TEST_F(PlanFolders, HoldsAGridAgainstAMatrix) {
  make_int4();
  const std::string table =
      "| # | model | GPU | weights | KV |\n|---|---|---|---|---|\n"
      "| 1 | tiny | H100 | W4A16 AWQ | FP16 |\n| 2 | tiny | H100 | W4A16 AWQ | FP8 |\n";
  const std::string last = "| 3 | tiny | H100 | FP16 | FP16 |\n", names = "\n`" + name_ + "`\n";
  const auto with = [&](const std::string& text) {
    write_text(folder_ / "matrix.md", text);
    return check(cases_, checkpoints_, {inspected_}, "--matrix matrix.md");
  };
  const Outcome right = with(table + last + names);
  EXPECT_EQ(right.exit_code, 0) << right.out;
  const Outcome short_table = with(table + names);
  expect_says(short_table, "case 3: None in the matrix");
  expect_says(short_table, "the checkpoints serve the cases [1, 2, 3], the matrix has [1, 2]");
  expect_says(with(table + "| 3 | tiny | L4 | FP16 | FP16 |\n" + names),
              "case 3: ('tiny', 'l4', 'fp16', 'fp16') in the");
  expect_says(with(table + last + last + names), "the matrix numbers two cases 3");
  expect_says(with(table + last), "the matrix names no checkpoint folder");
  expect_says(with(table + last + names + "`tiny-trtllm-ckpt-wq_int8_sq-kv_fp16`"), "nothing in the grid needs it");
}

// The grid of the repository: its nine folders, described as its own plan says that they should be.
TEST_F(PlanFolders, TheGridsNineFoldersForItsCases) {
  const std::string grid = "plan '" QG_SOURCE_DIR "/grids/trt-llm-45.toml' --json";
  const Json cases = Json::parse(run_program(grid, folder_).out);
  const Json checkpoints = Json::parse(run_program(grid + " --checkpoints", folder_).out);
  const struct {
    const char* model;
    int layers, hidden, heads, ffn;
  } kShapes[] = {
      {"llama-3.2-3b", 28, 3072, 24, 8192}, {"llama-3.1-8b", 32, 4096, 32, 14336}, {"mistral-7b", 32, 4096, 32, 14336}};
  std::vector<Json> folders;
  for (const Json& c : checkpoints) {
    if (c["origin"] != "quantized") continue;
    for (const auto& shape : kShapes)
      if (c["model"] == shape.model)
        folders.push_back({{"folder", "models/" + c["checkpoint"].get<std::string>()},
                           {"layout", "trtllm"},
                           {"shape",
                            {{"layers", shape.layers},
                             {"hidden", shape.hidden},
                             {"heads", shape.heads},
                             {"kv_heads", 8},
                             {"head_dim", 128},
                             {"ffn", shape.ffn}}},
                           {"quantization",
                            {{"weights", c["weights"]},
                             {"fixed_kv", nullptr},
                             {"group_size", c["weights"] == "int4_awq" ? Json(128) : Json(nullptr)},
                             {"exclude", {"lm_head"}}}},
                           {"kv_scales", {{"fp8", true}, {"int8", true}}},
                           {"bytes", {{"files", c["disk_bytes"]}}},
                           {"lineage", {{"recipe", {{"weights", c["weights"]}}}}},
                           {"sound", true},
                           {"problems", Json::array()}});
  }
  ASSERT_EQ(folders.size(), 9u);
  const Outcome right = check(cases, checkpoints, folders);
  EXPECT_EQ(right.exit_code, 0) << right.out;
  EXPECT_NE(right.out.find("9 folders for 42 cases"), std::string::npos) << right.out;
  folders[4]["quantization"]["group_size"] = 64;
  expect_says(check(cases, checkpoints, folders), "group size: 64");
  folders.pop_back();
  expect_says(check(cases, checkpoints, folders), "not there");
}

}  // namespace
}  // namespace qg
