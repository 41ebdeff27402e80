#pragma once
// The pick: which format to serve on one (model, card), for one use. Pure functions over plain rows; the reasons are
// codes and numbers, so that the report can say them in any language.
//   admissible: perplexity at most max_ppl_ratio times the FP16 baseline's and KL divergence at most max_kld_nats.
//   winner: the fastest (or, for memory, the greatest batch) among the admissible. KL decides who is admissible, never
//   who wins. Two tie when their intervals overlap or they differ by less than tie_share.
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"
#include "grid/grid.h"

namespace qg {

// latency: decode/b1 tokens/s; throughput: 1000/1000 tokens/s; memory: greatest batch at Gates::context_tokens.
enum class Use { latency, throughput, memory };
inline constexpr std::array kUses{Use::latency, Use::throughput, Use::memory};
std::string_view to_string(Use use);
std::string_view use_workload(Use use);  // "decode/b1", "1000/1000", "max_batch"

// What is known of one case, for one use.
struct Candidate {
  std::string case_id;
  int number = 0;
  WeightFormat weights = WeightFormat::fp16;
  KvFormat kv = KvFormat::fp16;
  std::optional<double> value, ci_lo, ci_hi;      // more is better; empty: not measured
  std::optional<double> ppl, base_ppl, kld_nats;  // empty: not measured
  bool synthetic = false;                         // random weights: speed only, accuracy unmeasured
  // Measured on another card than the case's (a CPU counts as another card): accuracy counts, speed is not ranked.
  bool cross_target = false;
  bool overtaken = false;           // its value, or its accuracy, was measured again since, and that failed
  bool other_checkpoint = false;    // its value is of another checkpoint than its accuracy
  bool measured_otherwise = false;  // its value was measured by another method than the other candidates'
};

enum class ReasonCode {
  // why a candidate is not admissible, or not ranked
  ppl_too_high,         // value = ratio, limit = max_ppl_ratio
  kld_too_high,         // value = nats, limit = max_kld_nats
  accuracy_unmeasured,  // no ppl or KL
  synthetic_weights,
  speed_unmeasured,
  speed_of_another_card,
  newer_attempt_failed,
  checkpoints_differ,
  measured_otherwise,
  // how the winner won
  fastest,             // value = winner's over the runner-up's (named by case_id)
  only_admissible,     // nobody else is
  tie_overlap,         // value = upper end of the other's interval, limit = lower end of the winner's
  tie_small,           // differ by less than tie_share: value = ratio - 1, limit = tie_share
  nothing_admissible,  // least_bad is shown instead
  nothing_measured
};
std::string_view to_string(ReasonCode code);

struct Reason {
  ReasonCode code;
  std::string case_id;  // the case it speaks of
  double value = 0, limit = 0;
  bool operator==(const Reason&) const = default;
};

struct Pick {
  Use use = Use::latency;
  std::optional<Candidate> winner;     // empty when nothing is admissible
  std::optional<Candidate> runner_up;  // next among the admissible that does not tie with the winner
  std::vector<Candidate> ties;         // admissible and not told apart from the winner
  std::optional<Candidate>
      least_bad;                 // when nothing is admissible: the ranked row with the least excess over the gates
  std::vector<Reason> excluded;  // one or more for each candidate that is out
  std::vector<Reason> reasons;   // why the winner won
};

// Why a candidate is out for this use; empty: it is admissible and ranked.
std::vector<Reason> exclusions(Use use, const Candidate& candidate, const Gates& gates);
// The tie rule on its own; both must have values.
std::optional<Reason> tie_between(const Candidate& winner, const Candidate& other, const Gates& gates);
// Candidates of one (model, card).
Pick pick(Use use, const std::vector<Candidate>& candidates, const Gates& gates);

// One English sentence for a reason, for `pick` and logs ("perplexity is 1.05 times the baseline's, more than 1.02").
std::string describe(const Reason& reason);

}  // namespace qg
