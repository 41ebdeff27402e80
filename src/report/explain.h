#pragma once
// A pick in words: labels, values and the sentences of `pick` and the report.
#include <string>
#include <vector>

#include "report/study.h"
#include "report/texts.h"

namespace qg {

std::string format_label(const Case& about);  // "FP8 + FP8 KV"
std::string format_label(const Group& group, std::string_view case_id);
std::string use_hint(const Study& study, const UsePick& use, const Speaker& say);  // "one request at a time"
std::string measure_value(const Study& study, const Cell& cell, const Measure& measure, double value,
                          const Speaker& say);
std::string reason_text(const Reason& reason, const Speaker& say);

// "Latency (one request at a time): serve FP8 weights + FP8 KV, 812 tok/s, 1.62 times …"
std::string pick_sentence(const Study& study, const Group& group, Use use, const Speaker& say);
// "Left out: FP8 + FP16 KV (accuracy not measured)."; empty when nothing is.
std::string excluded_sentence(const Study& study, const Group& group, Use use, const Speaker& say);
// How sure the pick is, in a sentence; empty without a winner.
std::string confidence_sentence(const Group& group, Use use, const Speaker& say);
std::string group_title(const Study& study, const Group& group, const Speaker& say);

Json picks_as_json(const Study& study);

}  // namespace qg
