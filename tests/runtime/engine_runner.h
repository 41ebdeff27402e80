#pragma once
// Runs requests through an engine to the end and collects what came out, checking the order of events on the way.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/runtime/fake_executor.h"

namespace qg {

struct Collected {
  Reply reply;
  std::string reason;
  std::vector<std::vector<float>> logits;  // of each event that had some
  std::vector<int64_t> logit_positions;
};

class Collector {
 public:
  void operator()(const TokenEvent& event) {
    Collected& c = requests[event.request];
    EXPECT_EQ(c.reply.finish, FinishReason::none) << "an event after the end of request " << event.request;
    if (event.token >= 0) {
      EXPECT_EQ(event.position, static_cast<int64_t>(c.reply.tokens.size()));
      c.reply.tokens.push_back(event.token);
    }
    c.reply.finish = event.finish;
    c.reason = event.reason;
    if (!event.logits.empty()) {
      c.logits.emplace_back(event.logits.begin(), event.logits.end());
      c.logit_positions.push_back(event.position);
    }
    if (event.finish != FinishReason::none) ended.push_back(event.request);
  }

  std::map<RequestId, Collected> requests;
  std::vector<RequestId> ended;  // in the order of ending
};

inline void run_to_end(Engine& engine, Collector& collector) {
  while (!engine.idle()) ASSERT_TRUE(engine.step(std::ref(collector)));
}

inline void expect_no_page_leaked(const EngineStats& stats) {
  EXPECT_EQ(stats.pages_used, 0);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
}

// `count` tokens that depend on `seed` alone, below `vocab`.
inline std::vector<int32_t> random_tokens(uint64_t seed, int64_t count, int64_t vocab) {
  Rng rng(seed, 99);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng.next_below(static_cast<uint64_t>(vocab)));
  return tokens;
}

}  // namespace qg
