#include "bench/gpu_choice.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace qg {
namespace {

GpuInventory two_cards() {
  GpuInventory gpus;
  gpus.driver_found = true;
  for (int i = 0; i < 2; ++i) {
    GpuDevice device;
    device.index = i;
    device.name = "NVIDIA L4";
    device.uuid = i == 0 ? "GPU-aa11" : "GPU-aa22";
    gpus.devices.push_back(device);
  }
  return gpus;
}

ExitCode code_of(const std::vector<std::string>& visible, const GpuInventory& gpus, const std::string& wanted) {
  try {
    pick_gpu(visible, gpus, wanted);
  } catch (const Error& e) {
    return e.code();
  }
  return ExitCode::done;
}

TEST(GpuChoice, IndexIsNvmlsAndTheAnswerCudas) {
  const std::vector<std::string> turned{"GPU-aa22", "GPU-aa11"};  // CUDA_VISIBLE_DEVICES=1,0
  EXPECT_EQ(pick_gpu(turned, two_cards(), "0"), 1);
  EXPECT_EQ(pick_gpu(turned, two_cards(), "1"), 0);
  EXPECT_EQ(pick_gpu(turned, two_cards(), ""), 0);
}

TEST(GpuChoice, UuidOrItsUniqueBeginning) {
  const std::vector<std::string> visible{"GPU-aa11", "GPU-aa22"};
  EXPECT_EQ(pick_gpu(visible, two_cards(), "GPU-aa22"), 1);
  EXPECT_EQ(pick_gpu(visible, two_cards(), "GPU-aa1"), 0);
  EXPECT_EQ(code_of(visible, two_cards(), "GPU-aa"), ExitCode::wrong_input);
  EXPECT_EQ(code_of(visible, two_cards(), "GPU-bb"), ExitCode::wrong_input);
}

TEST(GpuChoice, WhatIsNotThereIsRefused) {
  EXPECT_EQ(code_of({"GPU-aa11"}, two_cards(), "2"), ExitCode::wrong_input);
  EXPECT_EQ(code_of({"GPU-aa11"}, two_cards(), "1x"), ExitCode::wrong_input);
  EXPECT_EQ(code_of({"GPU-aa11"}, two_cards(), "1"), ExitCode::cannot_here);  // hidden from CUDA
  EXPECT_EQ(code_of({}, two_cards(), ""), ExitCode::cannot_here);
}

TEST(GpuChoice, BusyByProcessesOrByMemory) {
  GpuConditions conditions;
  GpuReading reading;
  EXPECT_EQ(why_busy(conditions, reading), "");  // the driver tells nothing
  conditions.other_processes = 0;
  reading.memory_used_bytes = int64_t{600} << 20;
  EXPECT_EQ(why_busy(conditions, reading), "");
  reading.memory_used_bytes = int64_t{5} << 30;
  EXPECT_EQ(why_busy(conditions, reading), "5.4 GB of its memory are in use");
  conditions.other_processes = 1;
  EXPECT_EQ(why_busy(conditions, reading), "1 other process computes on it");
  conditions.other_processes = 2;
  EXPECT_EQ(why_busy(conditions, reading), "2 other processes compute on it");
}

}  // namespace
}  // namespace qg
