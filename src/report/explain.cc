#include "report/explain.h"

#include <algorithm>

#include "grid/formats.h"

namespace qg {
namespace {

std::string use_name(Use use, const Speaker& say) {
  return say("use." + std::string(to_string(use)));
}

std::string joined(const std::vector<std::string>& parts, const std::string& separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

std::string tie_names(const Group& group, const Pick& pick, const Speaker& say) {
  std::vector<std::string> names;
  for (const Candidate& tie : pick.ties) names.push_back(format_label(group, tie.case_id));
  return joined(names, say("list.comma"));
}

std::string price_part(const Cell& cell, const Speaker& say) {
  if (cell.about.is_fp16_baseline()) return say("say.baseline");
  const auto ratio = ppl_ratio_of(cell);
  const Record* kld = cell.accuracy("kld_mean");
  if (!ratio || !kld) return {};
  return say("say.price", signed_percent(*ratio - 1), figure(*kld->value)) +
         (cell.accuracy_from ? say("say.borrowed", cell.accuracy_from->engine) : "");
}

std::string lead_part(const Group& group, const Pick& pick, const Speaker& say) {
  std::string text;
  if (!pick.ties.empty()) {
    std::string why;
    for (const Reason& reason : pick.reasons)
      if (why.empty() && (reason.code == ReasonCode::tie_overlap || reason.code == ReasonCode::tie_small))
        why = reason_text(reason, say);
    text += say("say.tie", tie_names(group, pick, say), why);
  }
  if (pick.runner_up && *pick.runner_up->value > 0)
    text += say("say.lead", figure(*pick.winner->value / *pick.runner_up->value),
                format_label(group, pick.runner_up->case_id));
  if (pick.ties.empty() && !pick.runner_up) text += say("say.only");
  return text;
}

std::string exclusions_of(const UsePick& use, const Cell& cell, const Speaker& say) {
  std::vector<std::string> parts;
  for (const Reason& reason : use.pick.excluded) {
    if (reason.case_id != cell.about.id()) continue;
    const Record* speed = speed_row(cell, use.measure);
    const auto method = speed ? method_of(*speed) : std::nullopt;
    parts.push_back(reason.code == ReasonCode::measured_otherwise && method && use.method
                        ? say("method_of.other", method_text(*method, say), method_text(*use.method, say))
                        : reason_text(reason, say));
  }
  return joined(parts, say("list.comma"));
}

Json candidate_as_json(const Group& group, const std::optional<Candidate>& candidate) {
  if (!candidate) return nullptr;
  const Candidate& c = *candidate;
  Json out{{"case_id", c.case_id}, {"number", c.number}, {"weights", to_string(c.weights)}, {"kv", to_string(c.kv)}};
  const auto put = [&](const char* key, const std::optional<double>& value) {
    if (value) out[key] = *value;
  };
  put("value", c.value);
  put("ci_lo", c.ci_lo);
  put("ci_hi", c.ci_hi);
  if (c.ppl && c.base_ppl) out["ppl_ratio"] = *c.ppl / *c.base_ppl;
  put("kld_mean", c.kld_nats);
  if (const Cell* cell = group.cell(c.case_id); cell && cell->accuracy_from)
    out["accuracy_engine"] = cell->accuracy_from->engine;
  return out;
}

Json reasons_as_json(const std::vector<Reason>& reasons) {
  Json list = Json::array();
  for (const Reason& r : reasons)
    list.push_back(Json{{"code", to_string(r.code)},
                        {"case_id", r.case_id},
                        {"value", r.value},
                        {"limit", r.limit},
                        {"text", describe(r)}});
  return list;
}

constexpr const char* kMeasureMetrics[] = {"output_tok_s", "prefill_tok_s", "max_batch", "sequences_per_gb"};

}  // namespace

std::string format_label(const Case& about) {
  return fmt::format("{} + {} KV", weight_format_spec(about.weights).label, kv_format_spec(about.kv).label);
}

std::string format_label(const Group& group, std::string_view case_id) {
  const Cell* cell = group.cell(case_id);
  return cell ? format_label(cell->about) : std::string(case_id);
}

std::string use_hint(const Study& study, const UsePick& use, const Speaker& say) {
  const std::string context = figure(static_cast<double>(study.gates.context_tokens));
  switch (use.measure.kind) {
    case MeasureKind::prefill_tok_s:
      return say("hint.prefill", use.measure.workload);
    case MeasureKind::max_batch:
      return say("hint.max_batch", context);
    case MeasureKind::footprint:
      return say("hint.footprint", context);
    case MeasureKind::output_tok_s:
      break;
  }
  return say(use.pick.use == Use::latency ? "hint.latency" : "hint.throughput");
}

std::string measure_value(const Study& study, const Cell& cell, const Measure& measure, double value,
                          const Speaker& say) {
  switch (measure.kind) {
    case MeasureKind::max_batch:
      return say("unit.sequences", fmt::format("{:.0f}", value));
    case MeasureKind::footprint:
      return bytes_figure(footprint_bytes(study, cell).value_or(0));
    default:
      return figure(value) + " tok/s";
  }
}

std::string reason_text(const Reason& r, const Speaker& say) {
  const std::string key = "reason." + std::string(to_string(r.code));
  if (r.code == ReasonCode::tie_small) return say(key, percent(r.value), percent(r.limit, 0));
  const std::string limit = fmt::format("{:g}", r.limit);
  std::string value = figure(r.value);
  // "1.02 times, more than 1.02" says nothing: as many digits as show on which side of the limit it is.
  for (int digits = 3; std::stod(value) == r.limit && r.value != r.limit && digits < 9; ++digits)
    value = fmt::format("{:.{}f}", r.value, digits);
  return say(key, value, limit);
}

std::string pick_sentence(const Study& study, const Group& group, Use use, const Speaker& say) {
  const UsePick& result = group.for_use(use);
  const Pick& pick = result.pick;
  const std::string name = use_name(use, say), hint = use_hint(study, result, say);
  if (pick.winner) {
    const Cell& cell = *group.cell(pick.winner->case_id);
    return say("say.pick", name, hint, format_label(cell.about),
               measure_value(study, cell, result.measure, *pick.winner->value, say), lead_part(group, pick, say),
               price_part(cell, say));
  }
  if (pick.least_bad) {
    const Cell& cell = *group.cell(pick.least_bad->case_id);
    return say("say.least_bad", name, hint, format_label(cell.about),
               measure_value(study, cell, result.measure, *pick.least_bad->value, say),
               exclusions_of(result, cell, say));
  }
  return say("say.nothing", name, hint, say(result.any_value ? "answer.no_rank" : "answer.not_measured"));
}

std::string excluded_sentence(const Study&, const Group& group, Use use, const Speaker& say) {
  const UsePick& result = group.for_use(use);
  if (!result.any_value) return {};
  std::vector<std::string> parts;
  for (const Cell* cell : group.cells) {
    const std::string why = exclusions_of(result, *cell, say);
    if (!why.empty()) parts.push_back(say("say.out", format_label(cell->about), why));
  }
  return parts.empty() ? std::string() : say("say.excluded", joined(parts, say("list.semicolon")));
}

std::string confidence_sentence(const Group& group, Use use, const Speaker& say) {
  const UsePick& result = group.for_use(use);
  const Pick& pick = result.pick;
  const std::string name = use_name(use, say);
  if (!pick.winner) return {};
  if (result.measure.kind == MeasureKind::max_batch || result.measure.kind == MeasureKind::footprint)
    return say("sure.arithmetic", name);
  if (!pick.ties.empty()) return say("sure.tie", name, tie_names(group, pick, say));
  if (!pick.runner_up) return say("sure.only", name);
  const Candidate &w = *pick.winner, &r = *pick.runner_up;
  const std::string ratio = figure(*w.value / *r.value);
  if (!w.ci_lo || !w.ci_hi || !r.ci_lo || !r.ci_hi) return say("sure.no_interval", name, ratio);
  // The widest that both intervals allow: more cautious than an interval of the ratio itself.
  return say("sure.clear", name, ratio, figure(*w.ci_lo / *r.ci_hi), figure(*w.ci_hi / *r.ci_lo));
}

std::string group_title(const Study& study, const Group& group, const Speaker& say) {
  std::string title = group.on_cpu ? say("say.head_cpu", study.model_label(group.model))
                                   : say("say.head", study.model_label(group.model), study.card_label(group.gpu));
  if (group.engine != "native") title += " · " + group.engine;
  return title;
}

Json picks_as_json(const Study& study) {
  Json list = Json::array();
  for (const Group& group : study.groups) {
    for (Use use : kUses) {
      const UsePick& result = group.for_use(use);
      Json ties = Json::array();
      for (const Candidate& tie : result.pick.ties) ties.push_back(candidate_as_json(group, tie));
      list.push_back(Json{{"model", group.model},
                          {"gpu", group.gpu},
                          {"engine", group.engine},
                          {"use", to_string(use)},
                          {"workload", result.measure.workload},
                          {"metric", kMeasureMetrics[static_cast<size_t>(result.measure.kind)]},
                          {"winner", candidate_as_json(group, result.pick.winner)},
                          {"runner_up", candidate_as_json(group, result.pick.runner_up)},
                          {"ties", ties},
                          {"least_bad", candidate_as_json(group, result.pick.least_bad)},
                          {"reasons", reasons_as_json(result.pick.reasons)},
                          {"excluded", reasons_as_json(result.pick.excluded)},
                          {"sentence", pick_sentence(study, group, use, Speaker(Language::en))}});
    }
  }
  return list;
}

}  // namespace qg
