// A job that is stopped or killed goes on after its last finished layer, and makes the same bytes.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "checkpoint/synthetic.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "quantize/layer_journal.h"
#include "quantize/quantize.h"
#include "tests/runtime/faulty_checkpoint.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

class Resume : public testing::Test {
 protected:
  void SetUp() override {
    set_num_threads(1);  // a forked process has no pool's threads
    folder_ = fs::temp_directory_path() / ("quantgrid-resume-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    ModelShape shape;
    shape.family = "llama";
    shape.layers = 4;
    shape.hidden = 128;
    shape.heads = 4;
    shape.kv_heads = 2;
    shape.head_dim = 32;
    shape.ffn = 192;
    shape.vocab = 300;
    shape.max_position = 256;
    SyntheticOptions options;
    options.seed = 5;
    write_synthetic_model(make_model_table(shape), hf_rules_of_family("llama"), options, folder_ / "base");
    base_ = open_model(folder_ / "base");
    for (uint64_t s = 0; s < 4; ++s) {
      std::vector<int32_t> sequence;
      for (uint64_t i = 0; i < 32; ++i) sequence.push_back(static_cast<int32_t>(Rng(9, s).below(i, 256)));
      calibration_.sequences.push_back(sequence);
    }
  }
  void TearDown() override { fs::remove_all(folder_); }

  QuantizeJob job(const std::string& name, uint64_t seed = 1234) const {
    QuantizeJob j;
    j.base = base_.get();
    j.architecture = "LlamaForCausalLM";
    j.calibration = calibration_;
    j.options.sample_rows = 64;
    j.options.seed = seed;
    for (const WeightFormat weights : {WeightFormat::int8_sq, WeightFormat::int4_awq})
      j.outputs.push_back(
          {default_recipe(weights), folder_ / (name + std::string(to_string(weights))), Layout::trtllm, {}});
    return j;
  }
  fs::path journal(const std::string& name) const { return folder_ / (name + "int8_sq.journal"); }

  // Runs until so many steps were announced, then stops by an exception; returns the steps of layers computed anew.
  int run(const QuantizeJob& j, int most_steps = 1000) const {
    int steps = 0, fresh = 0;
    quantize(j, [&](const std::string& step) {
      if (step.find("done before") == std::string::npos) ++fresh;
      if (++steps > most_steps) throw Error("stopped");
    });
    return fresh;
  }

  // In a process of its own, killed when the journal holds so many layers.
  void run_and_kill(const QuantizeJob& j, int layers) const {
    const pid_t child = fork();
    if (child == 0) {
      quantize(j, [&](const std::string&) {
        // Finished layers are written beside: wait for them, so that the kill comes late enough.
        for (int i = 0; i < 20 && !fs::exists(journal("b-") / ("layer-00" + std::to_string(layers) + ".safetensors"));
             ++i)
          usleep(5000);
        if (fs::exists(journal("b-") / ("layer-00" + std::to_string(layers) + ".safetensors"))) raise(SIGKILL);
      });
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status));
  }

  std::string weights(const std::string& name, WeightFormat f) const {
    return open_model(folder_ / (name + std::string(to_string(f))))->weights_hash();
  }

  fs::path folder_;
  std::shared_ptr<const Checkpoint> base_;
  CalibrationText calibration_;
};

TEST_F(Resume, AStoppedJobGoesOnAndMakesTheSameBytes) {
  EXPECT_EQ(run(job("a-")), 4 * kQuantizeSteps);
  EXPECT_FALSE(fs::exists(journal("a-")));
  EXPECT_THROW(run(job("b-"), 2 * kQuantizeSteps + 1), Error);
  EXPECT_TRUE(fs::exists(journal("b-")));
  EXPECT_FALSE(fs::exists(folder_ / "b-int8_sq"));
  EXPECT_EQ(run(job("b-")), 2 * kQuantizeSteps);
  EXPECT_FALSE(fs::exists(journal("b-")));
  for (const WeightFormat f : {WeightFormat::int8_sq, WeightFormat::int4_awq})
    EXPECT_EQ(weights("a-", f), weights("b-", f));
  const KvScales a = open_model(folder_ / "a-int8_sq")->kv_scales(), b = open_model(folder_ / "b-int8_sq")->kv_scales();
  for (size_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(a.fp8[layer].k, b.fp8[layer].k);
    EXPECT_EQ(a.int8[layer].v, b.int8[layer].v);
    EXPECT_EQ(a.shaping[layer].k_transform, b.shaping[layer].k_transform);
    EXPECT_EQ(a.shaping[layer].fp8_k_scale, b.shaping[layer].fp8_k_scale);
  }
}

TEST_F(Resume, AKilledJobGoesOn) {
  run(job("a-"));
  run_and_kill(job("b-"), 1);
  ASSERT_TRUE(fs::exists(journal("b-")));
  EXPECT_LE(run(job("b-")), 3 * kQuantizeSteps);
  for (const WeightFormat f : {WeightFormat::int8_sq, WeightFormat::int4_awq})
    EXPECT_EQ(weights("a-", f), weights("b-", f));
}

// A user's folders whose names are by chance those of a job's own.
TEST_F(Resume, WhatIsNotOfAJobIsNotRemoved) {
  const fs::path partial = folder_ / "b-int8_sq.partial";
  for (const fs::path& mine : {journal("b-") / "notes.txt", partial / "mine" / "notes.txt"}) {
    fs::create_directories(mine.parent_path());
    write_file(mine, "mine");
    EXPECT_THROW(run(job("b-")), Error) << mine;
    EXPECT_TRUE(fs::exists(mine));
    fs::remove_all(mine.parent_path());
  }
  fs::create_directories(partial);  // an earlier run's
  write_file(partial / "rank0.safetensors", "half");
  EXPECT_EQ(run(job("b-")), 4 * kQuantizeSteps);
}

TEST_F(Resume, AnotherJobsLayersAreNotTaken) {
  EXPECT_THROW(run(job("b-"), 2 * kQuantizeSteps + 1), Error);
  EXPECT_EQ(run(job("b-", 77)), 4 * kQuantizeSteps);
}

// The text's hash is the same, its tokens are not.
TEST_F(Resume, LayersOfAnotherTokenizerAreNotTaken) {
  EXPECT_THROW(run(job("b-"), 2 * kQuantizeSteps + 1), Error);
  QuantizeJob other = job("b-");
  std::swap(other.calibration.sequences[0][3], other.calibration.sequences[0][4]);
  EXPECT_EQ(run(other), 4 * kQuantizeSteps);
}

// The base's tensors are the same, what config.json makes of them is not.
TEST_F(Resume, LayersOfAnotherConfigAreNotTaken) {
  EXPECT_THROW(run(job("b-"), 2 * kQuantizeSteps + 1), Error);
  Json config = read_json(folder_ / "base" / "config.json");
  config["rope_theta"] = 77000.0;
  write_file(folder_ / "base" / "config.json", config.dump());
  base_ = open_model(folder_ / "base");
  EXPECT_EQ(run(job("b-")), 4 * kQuantizeSteps);
}

// A file that cannot take its name at the end costs nothing that was computed.
TEST_F(Resume, GoesOnWhereTheKvScalesFileFailed) {
  QuantizeJob j = job("b-");
  j.kv_scales = folder_ / "new" / "kv.safetensors";  // its folder is made, as the outputs' are
  fs::create_directories(j.kv_scales / "in the way");
  EXPECT_THROW(run(j), Error);
  for (const QuantizeOutput& output : j.outputs) EXPECT_FALSE(fs::exists(output.out)) << output.out;
  fs::remove_all(j.kv_scales.parent_path());
  EXPECT_EQ(run(j), 0);
  EXPECT_TRUE(fs::is_regular_file(j.kv_scales));
  for (const QuantizeOutput& output : j.outputs) EXPECT_TRUE(fs::exists(output.out)) << output.out;
}

// The base is hashed only when there is something to make: that takes minutes for a large one.
TEST_F(Resume, WhatIsThereAlreadyIsRefusedBeforeTheBaseIsHashed) {
  class Unhashed final : public test::FaultyCheckpoint {
   public:
    using test::FaultyCheckpoint::FaultyCheckpoint;
    std::string weights_hash() const override {
      ADD_FAILURE() << "the base was hashed";
      return {};
    }
  };
  const Unhashed base(base_);
  QuantizeJob j = job("b-");
  j.base = &base;
  fs::create_directories(j.outputs[1].out / "something");
  EXPECT_THROW(run(j), Error);
}

TEST_F(Resume, ADamagedLayerIsComputedAgain) {
  EXPECT_THROW(run(job("b-"), 3 * kQuantizeSteps + 1), Error);
  {
    std::fstream file(journal("b-") / "layer-001.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-3, std::ios::end);
    file.put('\x55');
  }
  EXPECT_EQ(run(job("b-")), 3 * kQuantizeSteps);
  run(job("a-"));
  EXPECT_EQ(weights("a-", WeightFormat::int4_awq), weights("b-", WeightFormat::int4_awq));
}

TEST_F(Resume, ALineThatWasCutShortCountsForNothing) {
  EXPECT_THROW(run(job("b-"), 3 * kQuantizeSteps + 1), Error);
  std::string index = read_file(journal("b-") / "layers.txt");
  index.resize(index.size() - 20);
  write_file(journal("b-") / "layers.txt", index);
  EXPECT_EQ(run(job("b-")), 2 * kQuantizeSteps);
}

}  // namespace
}  // namespace qg
