#include "grid/names.h"

#include <gtest/gtest.h>

#include <set>

#include "grid/cards.h"
#include "grid/models.h"

namespace qg {
namespace {

TEST(Names, CheckpointRoundTripOfAll) {
  std::vector<std::string> stems{"my-model", "a", "x-kv_fp8", "odd-trtllm-ckpt-wq_fp8-kv_fp16", "v0.3_b"};
  for (const KnownModel& m : known_models()) stems.push_back(m.stem);
  for (const std::string& stem : stems)
    for (WeightFormat w : kWeightFormats)
      for (KvFormat kv : kKvFormats) {
        const std::string name = checkpoint_name(stem, w, kv);
        EXPECT_EQ(parse_checkpoint_name(name), (CheckpointName{stem, w, kv})) << name;
      }
  EXPECT_EQ(checkpoint_name("llama-3.1-8b-instruct", WeightFormat::int4_awq, KvFormat::fp16),
            "llama-3.1-8b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16");
}

TEST(Names, CaseIdRoundTripOfAll) {
  for (const KnownModel& m : known_models())
    for (const Card& card : cards())
      for (WeightFormat w : kWeightFormats)
        for (KvFormat kv : kKvFormats) {
          const std::string id = case_id(m.name, card.id, w, kv);
          EXPECT_EQ(parse_case_id(id), (CaseId{m.name, card.id, w, kv})) << id;
        }
  EXPECT_EQ(case_id("llama-3.2-3b", "a10", WeightFormat::int4_awq, KvFormat::fp8), "llama-3.2-3b/a10/int4_awq/kv_fp8");
}

TEST(Names, OthersAreNotParsed) {
  for (const char* name : {"", "x", "-trtllm-ckpt-wq_fp8-kv_fp16", "x-trtllm-ckpt-wq_fp9-kv_fp16",
                           "x-trtllm-ckpt-wq_fp8-kv_fp32", "x-trtllm-ckpt-wq_fp8", "x/y-trtllm-ckpt-wq_fp8-kv_fp16",
                           "X-trtllm-ckpt-wq_fp8-kv_fp16", "x-trtllm-ckpt-wq_fp8-kv_fp16/"})
    EXPECT_FALSE(parse_checkpoint_name(name)) << name;
  for (const char* id :
       {"", "a/b/fp8", "a/b/fp8/fp8", "a/b/fp8/kv_fp8/c", "/b/fp8/kv_fp8", "a/b/FP8/kv_fp8", "../b/fp8/kv_fp8"})
    EXPECT_FALSE(parse_case_id(id)) << id;
}

TEST(Names, NamesThatMayBecomeFileNames) {
  EXPECT_TRUE(is_valid_name("mistral-7b-instruct-v0.3"));
  for (const char* name : {"", ".hidden", "-x", "a b", "a/b", "A", "..", "a\n"})
    EXPECT_FALSE(is_valid_name(name)) << name;
  EXPECT_FALSE(is_valid_name(std::string(65, 'a')));
}

TEST(Names, NearestIsASlipOfTheKeyboard) {
  const std::vector<std::string> formats{"fp16", "fp8", "int4_awq", "int8_sq"};
  EXPECT_EQ(nearest_name("awq", formats), "int4_awq");
  EXPECT_EQ(nearest_name("FP8", formats), "fp8");
  EXPECT_EQ(nearest_name("int8-sq", formats), "int8_sq");
  EXPECT_EQ(nearest_name("elephant", formats), "");
  EXPECT_EQ(nearest_name("", formats), "");
}

// By whole name, compute capability and memory.
TEST(Cards, IdentityOfBoards) {
  const auto id = [](const char* name, int major, int minor, int64_t mib) {
    const CardMatch m = identify_card(name, major, minor, mib << 20);
    return m.card ? m.card->id : "?";
  };
  EXPECT_EQ(id("NVIDIA A100-SXM4-80GB", 8, 0, 81920), "a100");
  EXPECT_EQ(id("NVIDIA A100-SXM4-40GB", 8, 0, 40960), "a100-40g");
  EXPECT_EQ(id("A100-PCIE-40GB", 8, 0, 40536), "a100-40g");
  EXPECT_EQ(id("NVIDIA A100 80GB PCIe", 8, 0, 81920), "a100-pcie");
  EXPECT_EQ(id("NVIDIA A10", 8, 6, 23028), "a10");
  EXPECT_EQ(id("NVIDIA H100 80GB HBM3", 9, 0, 81559), "h100");
  EXPECT_EQ(id("NVIDIA H100 PCIe", 9, 0, 81559), "h100-pcie");
  EXPECT_EQ(id("NVIDIA H200", 9, 0, 143771), "h200");
  EXPECT_EQ(id("NVIDIA L4", 8, 9, 23034), "l4");
  EXPECT_EQ(id("NVIDIA L40", 8, 9, 46068), "l40");
  EXPECT_EQ(id("NVIDIA L40S", 8, 9, 46068), "l40s");
  EXPECT_EQ(id("NVIDIA RTX A6000", 8, 6, 49140), "a6000");
  EXPECT_EQ(id("NVIDIA GeForce RTX 4090", 8, 9, 24564), "rtx4090");
}

TEST(Cards, NearlyTheSameNameIsAnotherBoard) {
  const auto reason = [](const char* name, int major, int minor, int64_t mib) {
    const CardMatch m = identify_card(name, major, minor, mib << 20);
    EXPECT_EQ(m.card, nullptr) << name;
    return m.reason;
  };
  EXPECT_NE(reason("NVIDIA A10G", 8, 6, 23028).find("not a card that the program knows"), std::string::npos);
  reason("NVIDIA A1", 8, 6, 23028);
  reason("NVIDIA L", 8, 9, 23034);
  reason("NVIDIA L40G", 8, 9, 23034);
  reason("NVIDIA H100 NVL", 9, 0, 95830);
  reason("", 8, 0, 81920);
  reason("cpu", 0, 0, 0);
  EXPECT_NE(reason("NVIDIA A10", 8, 0, 23028).find("8.6"), std::string::npos);
  EXPECT_NE(reason("NVIDIA L4", 8, 9, 46068).find("24.1 GB"), std::string::npos);
  EXPECT_NE(reason("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9, 0, 9856).find("MIG"), std::string::npos);
}

TEST(Cards, RowsAreSound) {
  std::set<std::string> names;
  for (const Card& card : cards()) {
    for (const std::string& name : card.product_names) EXPECT_TRUE(names.insert(name).second) << name << " twice";
    EXPECT_EQ(card.has_fp8(), card.fp8_tflops > 0) << card.id;
    EXPECT_TRUE(is_valid_name(card.id));
    EXPECT_EQ(find_card(card.id), &card);
  }
  EXPECT_EQ(peak_tflops(*find_card("a100"), WeightFormat::fp8), 312);
  EXPECT_EQ(peak_tflops(*find_card("h100"), WeightFormat::fp8), 1979);
  EXPECT_EQ(find_card("a1000"), nullptr);
}

}  // namespace
}  // namespace qg
