#include "grid/selection.h"

#include <fmt/format.h>

#include <algorithm>

namespace qg {
namespace {

constexpr std::array<std::string_view, 3> kUseNames{"latency", "throughput", "memory"};
constexpr std::array<std::string_view, 3> kUseWorkloads{"decode/b1", "1000/1000", "max_batch"};
constexpr std::array<std::string_view, 15> kReasonNames{
    "ppl_too_high",          "kld_too_high",         "accuracy_unmeasured", "synthetic_weights",  "speed_unmeasured",
    "speed_of_another_card", "newer_attempt_failed", "checkpoints_differ",  "measured_otherwise", "fastest",
    "only_admissible",       "tie_overlap",          "tie_small",           "nothing_admissible", "nothing_measured"};

double ppl_ratio(const Candidate& c) {
  return *c.ppl / *c.base_ppl;
}

bool has_accuracy(const Candidate& c) {
  return c.ppl && c.base_ppl && *c.base_ppl > 0 && c.kld_nats;
}

bool is_accuracy_gate(ReasonCode code) {
  return code == ReasonCode::ppl_too_high || code == ReasonCode::kld_too_high;
}

// How far past the gates, as the larger of the two ratios to their limits.
double excess(const Candidate& c, const Gates& gates) {
  const double by_ppl = ppl_ratio(c) / gates.max_ppl_ratio;
  const double by_kld = gates.max_kld_nats > 0 ? *c.kld_nats / gates.max_kld_nats : (*c.kld_nats > 0 ? 1e300 : 0);
  return std::max(by_ppl, by_kld);
}

// More is better; equal values keep the order of the grid, so that the result does not depend on the order of rows.
bool ranks_before(const Candidate& a, const Candidate& b) {
  if (*a.value != *b.value) return *a.value > *b.value;
  return a.number != b.number ? a.number < b.number : a.case_id < b.case_id;
}

void pick_least_bad(Pick& result, const std::vector<Candidate>& only_gated, const Gates& gates) {
  result.reasons.push_back(
      {only_gated.empty() ? ReasonCode::nothing_measured : ReasonCode::nothing_admissible, {}, 0, 0});
  if (only_gated.empty()) return;
  result.least_bad =
      *std::min_element(only_gated.begin(), only_gated.end(), [&](const Candidate& a, const Candidate& b) {
        const double ea = excess(a, gates), eb = excess(b, gates);
        return ea != eb ? ea < eb : ranks_before(a, b);
      });
}

}  // namespace

std::string_view to_string(Use use) {
  return kUseNames[static_cast<size_t>(use)];
}
std::string_view use_workload(Use use) {
  return kUseWorkloads[static_cast<size_t>(use)];
}
std::string_view to_string(ReasonCode code) {
  return kReasonNames[static_cast<size_t>(code)];
}

std::vector<Reason> exclusions(Use use, const Candidate& c, const Gates& gates) {
  std::vector<Reason> out;
  if (!c.value) out.push_back({ReasonCode::speed_unmeasured, c.case_id, 0, 0});
  // The greatest batch is arithmetic on the card's own memory, whatever card measured the rest.
  if (c.cross_target && use != Use::memory) out.push_back({ReasonCode::speed_of_another_card, c.case_id, 0, 0});
  if (c.overtaken) out.push_back({ReasonCode::newer_attempt_failed, c.case_id, 0, 0});
  if (c.other_checkpoint) out.push_back({ReasonCode::checkpoints_differ, c.case_id, 0, 0});
  if (c.measured_otherwise) out.push_back({ReasonCode::measured_otherwise, c.case_id, 0, 0});
  if (c.synthetic) {
    out.push_back({ReasonCode::synthetic_weights, c.case_id, 0, 0});
    return out;
  }
  if (!has_accuracy(c)) {
    out.push_back({ReasonCode::accuracy_unmeasured, c.case_id, 0, 0});
    return out;
  }
  // Written so that a NaN is never admissible.
  if (!(ppl_ratio(c) <= gates.max_ppl_ratio))
    out.push_back({ReasonCode::ppl_too_high, c.case_id, ppl_ratio(c), gates.max_ppl_ratio});
  if (!(*c.kld_nats <= gates.max_kld_nats))
    out.push_back({ReasonCode::kld_too_high, c.case_id, *c.kld_nats, gates.max_kld_nats});
  return out;
}

std::optional<Reason> tie_between(const Candidate& winner, const Candidate& other, const Gates& gates) {
  const double lead = *other.value > 0 ? *winner.value / *other.value - 1 : 1e300;
  if (lead < gates.tie_share) return Reason{ReasonCode::tie_small, other.case_id, lead, gates.tie_share};
  if (winner.ci_lo && other.ci_hi && *winner.ci_lo <= *other.ci_hi)
    return Reason{ReasonCode::tie_overlap, other.case_id, *other.ci_hi, *winner.ci_lo};
  return std::nullopt;
}

Pick pick(Use use, const std::vector<Candidate>& candidates, const Gates& gates) {
  Pick result;
  result.use = use;
  std::vector<Candidate> ranked, only_gated;
  for (const Candidate& c : candidates) {
    const std::vector<Reason> out = exclusions(use, c, gates);
    if (out.empty())
      ranked.push_back(c);
    else if (std::all_of(out.begin(), out.end(), [](const Reason& r) { return is_accuracy_gate(r.code); }))
      only_gated.push_back(c);
    result.excluded.insert(result.excluded.end(), out.begin(), out.end());
  }
  if (ranked.empty()) {
    pick_least_bad(result, only_gated, gates);
    return result;
  }
  std::sort(ranked.begin(), ranked.end(), ranks_before);
  result.winner = ranked.front();
  for (size_t i = 1; i < ranked.size(); ++i) {
    if (const auto tie = tie_between(ranked.front(), ranked[i], gates)) {
      result.ties.push_back(ranked[i]);
      result.reasons.push_back(*tie);
    } else if (!result.runner_up) {
      result.runner_up = ranked[i];
    }
  }
  if (ranked.size() == 1)
    result.reasons.insert(result.reasons.begin(), {ReasonCode::only_admissible, ranked[0].case_id, 0, 0});
  else if (result.runner_up)
    result.reasons.insert(result.reasons.begin(),
                          {ReasonCode::fastest, result.runner_up->case_id,
                           *result.runner_up->value > 0 ? *ranked[0].value / *result.runner_up->value : 0, 0});
  return result;
}

std::string describe(const Reason& r) {
  switch (r.code) {
    case ReasonCode::ppl_too_high:
      return fmt::format("perplexity is {:.3f} times the FP16 baseline's, more than {:.3f}", r.value, r.limit);
    case ReasonCode::kld_too_high:
      return fmt::format("KL divergence is {:.3f} nats, more than {:.3f}", r.value, r.limit);
    case ReasonCode::accuracy_unmeasured:
      return "its accuracy was not measured";
    case ReasonCode::synthetic_weights:
      return "synthetic weights: speed only, accuracy unmeasured";
    case ReasonCode::speed_unmeasured:
      return "it has no value for this use";
    case ReasonCode::speed_of_another_card:
      return "it was measured on another card, whose speed does not count";
    case ReasonCode::newer_attempt_failed:
      return "it was measured again since, and that failed";
    case ReasonCode::checkpoints_differ:
      return "its speed and its accuracy are of different checkpoints";
    case ReasonCode::measured_otherwise:
      return "it was measured by another method than the others, or with another number of requests";
    case ReasonCode::fastest:
      return fmt::format("it has {:.2f} times the value of {}, the next that can be told apart", r.value, r.case_id);
    case ReasonCode::only_admissible:
      return "it is the only admissible one";
    case ReasonCode::tie_overlap:
      return fmt::format("{} ties with it: their intervals overlap", r.case_id);
    case ReasonCode::tie_small:
      return fmt::format("{} ties with it: they differ by {:.1f} %, less than {:.0f} %", r.case_id, 100 * r.value,
                         100 * r.limit);
    case ReasonCode::nothing_admissible:
      return "nothing is admissible; the least bad is shown";
    case ReasonCode::nothing_measured:
      return "nothing was measured that could be ranked";
  }
  return {};
}

}  // namespace qg
