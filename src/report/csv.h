#pragma once
#include <string>

#include "record/results.h"

namespace qg {

// Every measurement, one a line, with the columns of docs/schema.md; `chosen` says which attempts count.
std::string results_as_csv(const Results& results);

}  // namespace qg
