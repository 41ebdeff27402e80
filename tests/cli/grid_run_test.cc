// A whole grid through the command line on a tiny model: made, measured, resumed after kill -9, picked, reported.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "core/json.h"
#include "tests/cli/program.h"
#include "tests/sanitized.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const char* const kGrid = R"(title = "tiny"
models_dir = "models"

[models.tiny]
folder = "models/tiny"

[[product]]
section = "baseline"
models = ["tiny"]
gpus = ["cpu"]
weights = ["fp16"]
kv = ["fp16"]

[[product]]
section = "must"
models = ["tiny"]
gpus = ["cpu"]
weights = ["fp8", "int4_awq"]
kv = ["fp16", "fp8"]

[[product]]
section = "must"
models = ["tiny"]
gpus = ["cpu"]
weights = ["fp16"]
kv = ["int8"]

[[workloads]]
name = "decode/b2"
kind = "decode"
isl = 8
osl = 8
batch = 2
rounds = 2

[accuracy]
text = "text.txt"
windows = 1
window_tokens = 64

[calibration]
text = "text.txt"
samples = 4
sample_tokens = 48
search_tokens = 64
)";

class GridRunTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fresh_folder("grid-run");
    write_text(folder_ / "grid.toml", kGrid);
    std::string text;
    for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i * 7919) + " of a text; ";
    write_text(folder_ / "text.txt", text);
    const Outcome made = run_program(
        "synth llama-3.2-3b models/tiny --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 256 --vocab "
        "320 --seed 4",
        folder_);
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Json results() {
    const Outcome run = run_program("run grid.toml --journal j.jsonl --json", folder_);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return run.exit_code == 0 ? parse_json(run.out, "run --json") : Json();
  }
  fs::path folder_;
};

void expect_complete(const Json& cases) {
  ASSERT_EQ(cases.size(), 6u);
  for (const Json& c : cases) {
    for (const char* metric : {"ppl", "kld_mean", "top1", "weights_bytes", "max_batch", "decode/b2 output_tok_s"})
      EXPECT_TRUE(c["metrics"].contains(metric)) << c.dump() << " lacks " << metric;
  }
  EXPECT_EQ(cases[0]["metrics"]["kld_mean"], 0.0);
  EXPECT_GT(cases[1]["metrics"]["kld_mean"].get<double>(), 0);
  EXPECT_EQ(cases[5]["id"], "tiny/cpu/fp16/kv_int8");
  EXPECT_GT(cases[5]["metrics"]["kld_mean"].get<double>(), 0);
}

TEST_F(GridRunTest, MakesMeasuresAndDoesNothingTwice) {
  expect_complete(results());
  EXPECT_TRUE(fs::exists(folder_ / "models/tiny-trtllm-ckpt-wq_fp8-kv_fp16/rank0.safetensors"));
  EXPECT_TRUE(fs::exists(folder_ / "models/tiny-kv_scales.safetensors"));  // of the 16-bit model's 8-bit cache
  const std::string journal = read_text(folder_ / "j.jsonl");
  expect_complete(results());
  EXPECT_EQ(read_text(folder_ / "j.jsonl"), journal) << "a finished grid was measured again";

  const Outcome pick = run_program("pick j.jsonl", folder_);
  EXPECT_EQ(pick.exit_code, 0) << pick.err;
  EXPECT_NE(pick.out.find("tiny"), std::string::npos) << pick.out;
  const Outcome report = run_program("report j.jsonl -o report.html", folder_);
  EXPECT_EQ(report.exit_code, 0) << report.err;
  for (const char* over : {"report j.jsonl -o ./j.jsonl", "report j.jsonl --csv j.jsonl", "merge j.jsonl -o j.jsonl",
                           "merge j.jsonl -o text.txt"}) {
    const Outcome refused = run_program(over, folder_);
    EXPECT_EQ(refused.exit_code, 1) << over;
    EXPECT_NE(refused.err.find("give another name"), std::string::npos) << refused.err;
  }
  EXPECT_EQ(read_text(folder_ / "j.jsonl"), journal);
  EXPECT_EQ(run_program("merge j.jsonl -o all.db && '" QG_BINARY "' merge j.jsonl -o all.db", folder_).exit_code, 0);
  const std::string page = read_text(folder_ / "report.html");
  EXPECT_NE(page.find("int4_awq"), std::string::npos);
  EXPECT_EQ(page.find("http://"), std::string::npos) << "the page must open without a network";
}

// The text's bytes and the context decide accuracy and greatest batch: what was measured with others does not count.
TEST_F(GridRunTest, MeasuresAgainWhatAnotherTextOrContextChanges) {
  const Json before = results();
  write_text(folder_ / "text.txt", "another beginning: " + read_text(folder_ / "text.txt"));
  write_text(folder_ / "grid.toml", std::string(kGrid) + "\n[gates]\ncontext_tokens = 512\n");
  const Json after = results();
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < after.size(); ++i) {
    const Json &old = before[i]["metrics"], &now = after[i]["metrics"];
    EXPECT_NE(now["ppl"], old["ppl"]);
    EXPECT_NEAR(now["max_batch"].get<double>() / old["max_batch"].get<double>(), 4096.0 / 512, 0.01);
    EXPECT_EQ(now["decode/b2 output_tok_s"], old["decode/b2 output_tok_s"]);
  }
}

// A greatest batch is that of the case's card, whoever computes it here: a GPU holds this model's tied embedding, 320
// rows of 128 in 16 bits, twice.
TEST_F(GridRunTest, MemoryRowsOfAGpuCountATiedEmbeddingTwice) {
  std::string grid = kGrid;
  grid.replace(grid.find("gpus = [\"cpu\"]"), 14, "gpus = [\"cpu\", \"l4\"]");
  write_text(folder_ / "grid.toml", grid);
  const Outcome run =
      run_program("run grid.toml --journal j.jsonl --filter section=baseline --executor cpu --json", folder_);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json cases = parse_json(run.out, "run --json");
  ASSERT_EQ(cases.size(), 2u) << run.out;
  ASSERT_EQ(cases[0]["id"], "tiny/cpu/fp16/kv_fp16");
  ASSERT_EQ(cases[1]["id"], "tiny/l4/fp16/kv_fp16");
  const auto bytes = [&](size_t i) { return cases[i]["metrics"]["weights_bytes"].get<int64_t>(); };
  EXPECT_EQ(bytes(1) - bytes(0), 2 * 320 * 128);
}

// Base and candidates that are not in memory together give the same figures, and no case is missing.
TEST_F(GridRunTest, OneModelAfterTheOtherGivesTheSameAccuracy) {
  const Json beside = results();
  const Outcome run = run_program("run grid.toml --journal apart.jsonl --accuracy-apart --json", folder_);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const Json apart = parse_json(run.out, "run --json");
  ASSERT_EQ(apart.size(), beside.size());
  for (size_t i = 0; i < apart.size(); ++i)
    for (const char* metric : {"ppl", "base_ppl", "ppl_ratio", "kld_mean", "top1"})
      EXPECT_EQ(apart[i]["metrics"][metric], beside[i]["metrics"][metric]) << apart[i]["id"] << " " << metric;
}

// A format that gives NaN is a failed case; the others go on.
TEST_F(GridRunTest, ABrokenCheckpointFailsAlone) {
  ASSERT_EQ(run_program("run grid.toml --journal j.jsonl --checkpoints-only", folder_).exit_code, 0);
  const fs::path file = folder_ / "models/tiny-trtllm-ckpt-wq_fp8-kv_fp16/rank0.safetensors";
  std::string bytes = read_text(file);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  const Json header = parse_json(bytes.substr(8, header_bytes), "header");
  const auto offset = header["transformer.ln_f.weight"]["data_offsets"][0].get<uint64_t>();
  bytes.replace(8 + header_bytes + offset, 2, std::string("\x00\x7e", 2));  // NaN in FP16
  write_text(file, bytes);
  const Outcome run = run_program("run grid.toml --journal j.jsonl --json", folder_);
  EXPECT_EQ(run.exit_code, 2) << run.err;
  EXPECT_NE(run.err.find("tiny/cpu/fp8/kv_fp16, accuracy: the logits of the model are not finite"), std::string::npos)
      << run.err;
  const Json cases = parse_json(run.out, "run --json");
  ASSERT_EQ(cases.size(), 6u);
  EXPECT_FALSE(cases[1]["metrics"].contains("ppl"));
  for (const size_t sound : {0, 3, 4, 5})
    for (const char* metric : {"ppl", "decode/b2 output_tok_s"})
      EXPECT_TRUE(cases[sound]["metrics"].contains(metric)) << cases[sound].dump();
}

// A text of the same name is another one when its content is; one that is not there is noticed before work begins.
TEST_F(GridRunTest, AccuracyIsOfTheTextThatIsThere) {
  const std::string command = "run grid.toml --journal j.jsonl --filter number=1 --json";
  const auto ppl = [&] {
    const Outcome run = run_program(command, folder_);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return parse_json(run.out, "run --json")[0]["metrics"]["ppl"].get<double>();
  };
  const double first = ppl();
  std::string text;
  for (int i = 0; i < 300; ++i) text += "another text, number " + std::to_string(i * 104729) + "; ";
  write_text(folder_ / "text.txt", text);
  EXPECT_NE(ppl(), first);

  std::string other = kGrid;
  other.replace(other.find("text.txt"), 8, "txet.txt");
  write_text(folder_ / "grid.toml", other);
  const Outcome run = run_program("run grid.toml --journal j2.jsonl", folder_);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("[accuracy]"), std::string::npos) << run.err;
  EXPECT_FALSE(fs::exists(folder_ / "models/tiny-trtllm-ckpt-wq_fp8-kv_fp16")) << "checkpoints were made first";
}

TEST_F(GridRunTest, MeasuresNothingSilently) {
  const Outcome slip = run_program("run grid.toml --journal j.jsonl --points decode/b3", folder_);
  EXPECT_EQ(slip.exit_code, 1);
  EXPECT_NE(slip.err.find("did you mean \"decode/b2\"?"), std::string::npos) << slip.err;
  EXPECT_FALSE(fs::exists(folder_ / "j.jsonl"));

  ASSERT_EQ(run_program("run grid.toml --journal j.jsonl --filter number=1", folder_).exit_code, 0);
  const Outcome across = run_program("pick j.jsonl --across", folder_);
  EXPECT_NE(across.out.find("more than one engine"), std::string::npos) << across.out;
}

// Of any card's cases, and nothing twice.
TEST_F(GridRunTest, MakesOnlyCheckpointsAndSkipsWhatIsSound) {
  std::string other = kGrid;
  for (size_t at; (at = other.find("\"cpu\"")) != std::string::npos;) other.replace(at, 5, "\"a10\"");
  write_text(folder_ / "a10.toml", other);
  const std::string command = "run a10.toml --journal j.jsonl --executor cpu --checkpoints-only";
  const Outcome made = run_program(command, folder_);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const fs::path fp8 = folder_ / "models/tiny-trtllm-ckpt-wq_fp8-kv_fp16/rank0.safetensors",
                 int4 = folder_ / "models/tiny-trtllm-ckpt-wq_int4_awq-kv_fp16";
  ASSERT_TRUE(fs::exists(fp8));
  ASSERT_TRUE(fs::exists(int4));
  EXPECT_EQ(read_text(folder_ / "j.jsonl").find("decode"), std::string::npos);
  const auto time = fs::last_write_time(fp8);
  fs::remove_all(int4);
  const Outcome again = run_program(command, folder_);
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("wq_fp8-kv_fp16: there already, made from these weights"), std::string::npos) << again.err;
  EXPECT_EQ(fs::last_write_time(fp8), time);
  EXPECT_TRUE(fs::exists(int4));

  fs::resize_file(fp8, fs::file_size(fp8) - 10);
  EXPECT_EQ(run_program(command, folder_).exit_code, 1);
}

TEST_F(GridRunTest, AModelThatIsNotHereIsSaidAndTheOthersAreMade) {
  fs::remove_all(folder_ / "models/tiny");
  const Outcome made = run_program("run grid.toml --journal j.jsonl --executor cpu --checkpoints-only", folder_);
  EXPECT_EQ(made.exit_code, 2);
  EXPECT_NE(made.err.find("tiny"), std::string::npos) << made.err;
}

TEST_F(GridRunTest, GoesOnAfterAKillAtAnyMoment) {
  for (int attempt = 0; attempt < 12; ++attempt) {
    const pid_t child = fork();
    if (child == 0) {
      if (chdir(folder_.c_str()) != 0 || !freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
        _exit(99);
      execl(QG_BINARY, QG_BINARY, "run", "grid.toml", "--journal", "j.jsonl", static_cast<char*>(nullptr));
      _exit(99);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(60 + 90 * attempt));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 99) << "the program could not be started";
  }
  expect_complete(results());
  // No finished measurement stands in the journal twice.
  std::map<std::string, int> done;
  const std::string journal = read_text(folder_ / "j.jsonl");
  for (size_t at = 0; (at = journal.find("\"case_done\"", at)) != std::string::npos; ++at) {
    const size_t begin = journal.rfind('\n', at) + 1, end = journal.find('\n', at);
    const Json line = parse_json(journal.substr(begin, end - begin), "journal");
    if (line.value("workload", "") != "quantize") ++done[line["case_key"].get<std::string>()];
  }
  for (const auto& [key, count] : done) EXPECT_EQ(count, 1) << key;
}

TEST_F(GridRunTest, SaysWhatCannotRunHere) {
  std::string other = kGrid;
  for (size_t at; (at = other.find("\"cpu\"")) != std::string::npos;) other.replace(at, 5, "\"a10\"");
  write_text(folder_ / "a10.toml", other);
  const Outcome run = run_program("run a10.toml --journal j.jsonl", folder_);
  EXPECT_EQ(run.exit_code, 4);
  EXPECT_NE(run.err.find("--executor cpu"), std::string::npos) << run.err;
  EXPECT_FALSE(fs::exists(folder_ / "j.jsonl") && fs::file_size(folder_ / "j.jsonl") > 0);

  const Outcome asked =
      run_program("run a10.toml --journal j.jsonl --executor cpu --filter 'weights=fp8 & kv=fp8'", folder_);
  EXPECT_EQ(asked.exit_code, 0) << asked.err;
  EXPECT_NE(read_text(folder_ / "j.jsonl").find("\"cross_target\":true"), std::string::npos);
}

TEST_F(GridRunTest, MissingModelAsksForSynthInSoManyWords) {
  fs::remove_all(folder_ / "models/tiny");
  std::string known = kGrid;
  known.replace(known.find("[models.tiny]"), std::string("[models.tiny]\nfolder = \"models/tiny\"\n").size(), "");
  for (size_t at; (at = known.find("\"tiny\"]")) != std::string::npos;) known.replace(at, 7, "\"smollm2-135m\"]");
  write_text(folder_ / "known.toml", known);
  const Outcome run = run_program("run known.toml --journal j.jsonl", folder_);
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("--weights-from synth"), std::string::npos) << run.err;
}

// --model-dir stands for the grid's models_dir: models without a folder of their own are looked for there, checkpoints
// are made there, and a folder that the grid names stays what it is.
// As `plan` names them, whatever the model's own folder is called.
TEST_F(GridRunTest, CheckpointsBeginWithTheStem) {
  std::string other = kGrid;
  const std::string named = "folder = \"models/tiny\"\n";
  other.insert(other.find(named), "stem = \"little-one\"\n");
  write_text(folder_ / "grid.toml", other);
  const Outcome made = run_program("run grid.toml --filter number=2 --checkpoints-only", folder_);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const std::string name = "little-one-trtllm-ckpt-wq_fp8-kv_fp16";
  EXPECT_TRUE(fs::exists(folder_ / "models" / name));
  EXPECT_NE(run_program("plan grid.toml --checkpoints", folder_).out.find(name), std::string::npos);
}

TEST_F(GridRunTest, AFolderInTheGridIsKeptUnderModelDir) {
  const std::string small =
      " --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 32 --ffn 256 --vocab 320 --seed ";
  ASSERT_EQ(run_program("synth llama-3.2-3b other/tiny" + small + "5", folder_).exit_code, 0);
  const auto base_of = [&](const std::string& journal) {
    const std::string text = read_text(folder_ / journal), key = "\"base_ckpt_sha\":\"";
    const size_t at = text.find(key);
    return at == std::string::npos ? "" : text.substr(at + key.size(), 64);
  };
  const std::string command = "run grid.toml --filter number=2 --checkpoints-only --journal ";
  ASSERT_EQ(run_program(command + "here.jsonl", folder_).exit_code, 0);
  const Outcome apart = run_program(command + "apart.jsonl --model-dir other", folder_);
  ASSERT_EQ(apart.exit_code, 0) << apart.err;
  EXPECT_EQ(base_of("apart.jsonl"), base_of("here.jsonl")) << "the model of --model-dir was taken";
  EXPECT_TRUE(fs::exists(folder_ / "other/tiny-trtllm-ckpt-wq_fp8-kv_fp16"));

  std::string without = kGrid;
  const std::string named = "folder = \"models/tiny\"\n";
  without.replace(without.find(named), named.size(), "");
  write_text(folder_ / "grid.toml", without);
  fs::remove_all(folder_ / "other/tiny-trtllm-ckpt-wq_fp8-kv_fp16");
  const Outcome there = run_program(command + "there.jsonl --model-dir other", folder_);
  ASSERT_EQ(there.exit_code, 0) << there.err;
  EXPECT_NE(base_of("there.jsonl"), base_of("here.jsonl"));

  // A folder that is named and not there: what is to be corrected is the grid.
  write_text(folder_ / "grid.toml",
             std::string(kGrid).replace(std::string(kGrid).find(named), named.size(), "folder = \"models/tyni\"\n"));
  const Outcome missing = run_program("run grid.toml --filter number=1 --journal m.jsonl --model-dir other", folder_);
  EXPECT_EQ(missing.exit_code, 1);
  for (const char* part : {"models/tyni", "`folder` under [models.tiny]"})
    EXPECT_NE(missing.err.find(part), std::string::npos) << missing.err;
}

// A small case after a large one in the same process: its peak is its own.
TEST_F(GridRunTest, PeakMemoryIsTheCasesOwn) {
  ASSERT_EQ(
      run_program("synth llama-3.2-3b models/large --layers 2 --hidden 1024 --heads 8 --kv-heads 2 --head-dim 128 "
                  "--ffn 2048 --vocab 40000 --seed 4",
                  folder_)
          .exit_code,
      0);
  write_text(folder_ / "grid.toml", R"(models_dir = "models"
[models.large]
[models.tiny]
[cases]
baseline = [[1, "large", "cpu", "fp16", "fp16"], [2, "tiny", "cpu", "fp16", "fp16"]]
[[workloads]]
name = "decode/b1"
kind = "decode"
isl = 8
osl = 4
batch = 1
rounds = 2
)");
  const auto peaks = [&](const std::string& more) {
    const Outcome run = run_program("run grid.toml --json " + more, folder_);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    std::vector<double> bytes;
    for (const Json& c : parse_json(run.out, "run --json"))
      bytes.push_back(c["metrics"]["decode/b1 peak_rss_bytes"].get<double>());
    return bytes;
  };
  const std::vector<double> both = peaks("--journal both.jsonl"), alone = peaks("--filter number=2 --journal a.jsonl");
  ASSERT_EQ(both.size(), 2u);
  ASSERT_EQ(alone.size(), 1u);
  if (kSlowdown > 1) return;  // a sanitizer keeps freed memory for a while
  EXPECT_GT(both[0], both[1] + 60e6);
  EXPECT_LT(both[1], alone[0] + 30e6) << "some of the large model counts for the small one";
}

}  // namespace
}  // namespace qg
