// quantize and convert on what goes wrong in life: broken weights, useless calibration texts, full disks, kills. One
// clear message, and nothing under the output's name.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "checkpoint/safetensors.h"
#include "core/json.h"
#include "tests/cli/program.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(QG_SOURCE_DIR) / "tests/golden";
constexpr const char* kCalib = " --calib text.txt --calib-sequences 4 --calib-tokens 32 ";

class QuantizeInput : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fresh_folder("quantize-input-" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::copy(kGolden / "models/llama-gqa8-llama3rope-tied-fp16", folder_ / "model", fs::copy_options::recursive);
    std::string text;
    for (int i = 0; i < 400; ++i) text += "word " + std::to_string(i * 7919 % 1000) + " ";
    write_text(folder_ / "text.txt", text);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      const std::string name = fs::relative(entry.path(), folder_).string();
      // Finished layers of a run that was stopped, which the next one goes on with.
      if (name.find(".journal") == std::string::npos) names.insert(name);
    }
    return names;
  }

  // Changes one F16 tensor of the model in place.
  void change(const std::string& name, const std::function<void(uint16_t*, const Shape&)>& how) const {
    const fs::path path = folder_ / "model/model.safetensors";
    StoredTensor place;
    {
      const SafetensorsFile file(path);
      ASSERT_NE(file.find(name), nullptr) << name;
      place = *file.find(name);
    }
    std::string bytes = read_text(path);
    std::vector<uint16_t> values(static_cast<size_t>(place.bytes) / 2);
    std::memcpy(values.data(), bytes.data() + place.offset, static_cast<size_t>(place.bytes));
    how(values.data(), place.shape);
    std::memcpy(bytes.data() + place.offset, values.data(), static_cast<size_t>(place.bytes));
    write_text(path, bytes);
  }

  void expect_refused(const std::string& arguments, const std::string& message, int code = 1) const {
    const std::set<std::string> before = files();
    const Outcome outcome = run_program(arguments, folder_);
    EXPECT_EQ(outcome.exit_code, code) << arguments << ": " << outcome.err;
    EXPECT_NE(outcome.err.find(message), std::string::npos) << "\"" << message << "\" is not in: " << outcome.err;
    EXPECT_EQ(outcome.err.find("internal error"), std::string::npos) << outcome.err;
    EXPECT_EQ(files(), before) << "something was left behind";
  }

  void expect_made(const std::string& arguments, const std::string& out) const {
    const Outcome made = run_program(arguments + " --out " + out, folder_);
    EXPECT_EQ(made.exit_code, 0) << arguments << ": " << made.err;
    const Outcome inspected = run_program("inspect --json " + out, folder_);
    EXPECT_EQ(inspected.exit_code, 0) << inspected.err << inspected.out;
    EXPECT_NE(inspected.out.find("\"sound\": true"), std::string::npos) << inspected.out;
  }

  fs::path folder_;
};

std::string quantize(const std::string& more) {
  return "quantize --model model" + std::string(kCalib) + more;
}

TEST_F(QuantizeInput, WeightsThatAreNoNumbers) {
  constexpr uint16_t kNan = 0x7e00, kInfinity = 0x7c00;
  const auto first = [](uint16_t value) {
    return [value](uint16_t* w, const Shape& shape) { w[num_elements(shape) - 1] = value; };
  };
  const std::string message = "holds values that are infinite or not a number";
  for (const auto& [name, value] : {std::pair{"model.layers.1.self_attn.k_proj.weight", kNan},
                                    {"model.layers.2.mlp.down_proj.weight", kInfinity},
                                    {"model.layers.0.input_layernorm.weight", kInfinity},
                                    {"model.embed_tokens.weight", kNan}}) {
    std::vector<uint16_t> kept;
    change(name, [&](uint16_t* w, const Shape& shape) { kept.assign(w, w + num_elements(shape)); });
    change(name, first(value));
    for (const char* weights : {"fp8", "int4_awq", "int8_sq"}) {
      expect_refused(quantize("--out q --weights " + std::string(weights)), message);
      expect_refused(quantize("--out q --weights " + std::string(weights)), name);
    }
    expect_refused(quantize("--kv-scales kv.safetensors"), message);
    change(name, [&](uint16_t* w, const Shape&) { std::copy(kept.begin(), kept.end(), w); });
  }
}

// Input channels without weights, output channels without weights, channels that are never active.
TEST_F(QuantizeInput, DeadChannels) {
  change("model.layers.0.mlp.down_proj.weight", [](uint16_t* w, const Shape& shape) {
    for (int64_t r = 0; r < shape[0]; ++r) w[r * shape[1] + 5] = 0;  // an input that counts nowhere
    std::fill_n(w + 7 * shape[1], shape[1], uint16_t{0});            // an output that is always 0
  });
  change("model.layers.1.mlp.up_proj.weight",
         [](uint16_t* w, const Shape& shape) { std::fill_n(w + 3 * shape[1], shape[1], uint16_t{0}); });
  change("model.layers.1.input_layernorm.weight", [](uint16_t* w, const Shape&) { w[9] = 0; });
  change("model.layers.2.self_attn.v_proj.weight",
         [](uint16_t* w, const Shape& shape) { std::fill_n(w, num_elements(shape), uint16_t{0}); });
  int made = 0;
  for (const char* more : {"--weights fp8", "--weights fp8 --activations dynamic", "--weights int8_sq",
                           "--weights int8_sq --activations static", "--weights int4_awq",
                           "--weights int4_awq --layout autoawq", "--weights int8_sq --layout compressed-tensors",
                           "--weights int4_awq --layout compressed-tensors", "--weights int4_awq --layout modelopt"})
    expect_made(quantize(more), "dead" + std::to_string(made++));
}

TEST_F(QuantizeInput, CalibrationTextsThatSayNothing) {
  write_text(folder_ / "text.txt", "too short");
  expect_refused(quantize("--out q --weights fp8"), "calibration wants 4 sequences of 32");
  write_text(folder_ / "text.txt", "");
  expect_refused(quantize("--out q --weights fp8"), "has 0 tokens");
  write_text(folder_ / "text.txt", std::string(4000, 'a'));
  expect_refused(quantize("--out q --weights int4_awq"), "different token");
}

TEST_F(QuantizeInput, GroupsThatDoNotDivide) {
  expect_refused(quantize("--out q --weights int4_awq --group-size 128"), "group size 128 does not divide");
  for (const char* layout : {"modelopt", "compressed-tensors", "autoawq"})
    expect_refused(quantize("--out q --weights int4_awq --group-size 128 --layout " + std::string(layout)),
                   "group size 128 does not divide");
  expect_refused(quantize("--out q --weights int4_awq --group-size 64 --tp 4"), "whole groups of 64");
  expect_refused(quantize("--out q --weights fp8 --tp 3"), "3 GPUs cannot share 8 query heads");
}

TEST_F(QuantizeInput, LayoutsThatDoNotFit) {
  expect_refused(quantize("--out q --weights fp8 --layout autoawq"), "cannot hold fp8 weights");
  expect_refused(quantize("--out q --weights fp8 --layout modelopt --tp 2"),
                 "only the trtllm layout has a file per GPU");
  expect_refused(quantize("--out q --weights int4_awq --zero-points"), "zero points");
  expect_refused(quantize("--out q --weights int4_awq --layout compressed-tensors --kv int8"), "int8 KV cache");
  expect_refused(quantize("--out q --weights fp8 --activations dynamic --layout modelopt"), "cannot hold");
}

// A model that is quantized already, in each layout.
TEST_F(QuantizeInput, QuantizedAlready) {
  for (const char* layout : {"trtllm", "modelopt", "compressed-tensors", "autoawq"}) {
    const std::string name = "done-" + std::string(layout);
    expect_made(quantize("--weights int4_awq --layout " + std::string(layout)), name);
    expect_refused("quantize --model " + name + kCalib + "--weights fp8 --out q", "is quantized already (int4_awq)");
  }
}

// A disk that is full, as a limit on the size of files has it: 64 blocks of 512 or 1,024 bytes.
TEST_F(QuantizeInput, DiskThatFillsUp) {
  const auto limited = [&](const std::string& arguments) {
    const Outcome outcome = run_command("cd '" + folder_.string() + "' && ulimit -f 64 && exec '" + QG_BINARY + "' " +
                                        arguments + " 2>&1 </dev/null");
    EXPECT_EQ(outcome.exit_code, 1) << arguments << ": " << outcome.out;
    return outcome.out;
  };
  expect_made(quantize("--weights fp8"), "whole");
  const std::set<std::string> before = files();
  for (const char* layout : {"trtllm", "modelopt", "compressed-tensors"}) {
    const std::string said = limited(quantize("--out q --weights fp8 --layout " + std::string(layout)));
    EXPECT_NE(said.find("ulimit -f"), std::string::npos) << said;
    EXPECT_EQ(files(), before) << layout;
  }
  for (const char* more : {"--kv fp8", "--layout modelopt", "--tp 2"}) {
    EXPECT_NE(limited("convert --model whole --out q " + std::string(more)).find("File too large"), std::string::npos);
    EXPECT_EQ(files(), before) << more;
  }
}

// Starts `arguments` and returns its process once it has made `appears`, which a killed one may have left there before.
pid_t start_until(const fs::path& folder, const std::string& arguments, const std::string& appears) {
  const fs::path made = folder / appears;
  const auto time_of = [&] {
    std::error_code none;
    const auto time = fs::last_write_time(made, none);
    return none ? fs::file_time_type::min() : time;
  };
  const auto left = time_of();
  const pid_t child = fork();
  if (child == 0) {
    if (chdir(folder.c_str()) != 0) _exit(99);
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 0), dup2(null, 1), dup2(null, 2);
    const std::string command = "exec '" + std::string(QG_BINARY) + "' " + arguments;
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(99);
  }
  for (int i = 0; i < 5000 && (time_of() == left || time_of() == fs::file_time_type::min()); ++i) usleep(2000);
  return child;
}

// Takes long enough to be caught in the middle.
std::string slow_quantize(const fs::path& folder, int sequences, const std::string& more) {
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "word " + std::to_string(i * 7919 % 1000) + " ";
  write_text(folder / "text.txt", text);
  return "quantize --model model --calib text.txt --calib-sequences " + std::to_string(sequences) +
         " --calib-tokens 512 " + more;
}

void hold_still(pid_t child) {
  int status = 0;
  ASSERT_GT(child, 0);
  ASSERT_EQ(kill(child, SIGSTOP), 0);
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  ASSERT_TRUE(WIFSTOPPED(status)) << "was done before the second began";
}

void expect_goes_on_well(pid_t child) {
  int status = 0;
  ASSERT_EQ(kill(child, SIGCONT), 0);
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST_F(QuantizeInput, KilledRuns) {
  const std::string slow = slow_quantize(folder_, 64, "--weights int4_awq --out q");
  for (const int how : {SIGKILL, SIGTERM, SIGINT}) {
    const pid_t child = start_until(folder_, slow, "q.partial");
    ASSERT_GT(child, 0);
    usleep(30000);
    EXPECT_EQ(kill(child, how), 0);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "was done before the kill";
    EXPECT_FALSE(fs::exists(folder_ / "q")) << strsignal(how);
    if (how == SIGKILL) continue;  // it could not clean up; the next run does
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 75) << strsignal(how);
    EXPECT_FALSE(fs::exists(folder_ / "q.partial")) << strsignal(how);
  }
  expect_made(quantize("--weights int4_awq"), "q");
  for (const char* left : {"q.partial", "q.partial.lock"}) EXPECT_FALSE(fs::exists(folder_ / left)) << left;
}

// The first is held still while others want its folder: each is refused at once, and the first goes on undisturbed.
TEST_F(QuantizeInput, TwoRunsAtOnce) {
  const std::string slow = slow_quantize(folder_, 16, "--weights int4_awq --out q");
  const pid_t first = start_until(folder_, slow, "q.partial");
  ASSERT_NO_FATAL_FAILURE(hold_still(first));
  for (const std::string& other :
       {slow, quantize("--weights fp8 --out q/"), std::string("convert --model model --layout trtllm --out q"),
        std::string("synth llama-3.2-3b q --layers 1 --hidden 64 --heads 2 --kv-heads 2 "
                    "--head-dim 32 --ffn 64 --vocab 300")}) {
    expect_refused(other, "another process is making it");
    expect_refused(other, "wait for it to end, or give another name");
  }
  expect_goes_on_well(first);
  EXPECT_NE(run_program("inspect --json q", folder_).out.find("\"sound\": true"), std::string::npos);
  for (const char* left : {"q.partial", "q.partial.lock", "q.journal"})
    EXPECT_FALSE(fs::exists(folder_ / left)) << left;
}

// The KV cache's calibration alone has no folder; its layers lie beside it all the same.
TEST_F(QuantizeInput, TwoCalibrationsAtOnce) {
  const std::string same = slow_quantize(folder_, 16, "--kv-scales kv.safetensors");
  const pid_t first = start_until(folder_, same, "kv.safetensors.journal");
  ASSERT_NO_FATAL_FAILURE(hold_still(first));
  expect_refused(same, "another process is making it");
  expect_goes_on_well(first);
  EXPECT_TRUE(fs::exists(folder_ / "kv.safetensors"));
  for (const char* left : {"kv.safetensors.partial.lock", "kv.safetensors.journal"})
    EXPECT_FALSE(fs::exists(folder_ / left)) << left;
}

}  // namespace
}  // namespace qg
