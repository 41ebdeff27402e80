#pragma once
// results/summary.json and the tables of figures in README files: both are generated from journals, never typed.
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "report/study.h"

namespace qg {

// A list of {model weights kv target measured_on cross_target workload metric value unit commit date …}, sorted; the
// chosen, valid aggregates only. One object a line.
std::string summary_json(const Results& results);

// `page` with the text between each pair of markers <!-- results:TABLE MODEL CARD --> and <!-- /results --> made anew.
// TABLE is speed, accuracy or memory; MODEL and CARD may be left out, which takes all. Throws Error naming `where` and
// the marker when a marker is not closed or its table is not known.
std::string with_result_tables(std::string_view page, const Study& study, const std::string& where);

}  // namespace qg
