#pragma once
// What a record says of the load that was put on an engine: lengths, and either the batch, or rate, limits and
// arrivals.
#include <string_view>

#include "bench/load.h"
#include "record/record.h"

namespace qg {

void describe_load(const Load& load, Record& record);

// The metric (record/metrics.h) that a table with one figure a workload shows: tokens a second; of a load at a rate
// requests a second, good ones where it has limits.
std::string_view headline_metric(const Workload& workload);

}  // namespace qg
