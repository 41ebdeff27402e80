#pragma once
// Engines side by side: the same case and workload, measured on the same card by several engines. Formats are not
// compared here: what is better among them is each engine's own pick.
#include <string>
#include <vector>

#include "core/json.h"
#include "report/study.h"
#include "report/texts.h"

namespace qg {

struct AcrossEntry {
  const Cell* cell = nullptr;
  const Record* row = nullptr;
};

struct AcrossRow {
  Case about;
  std::string workload;
  std::vector<AcrossEntry> entries;  // two or more, the fastest first
  // Engines that cannot be told apart from the fastest: intervals overlap, or less than Gates::tie_share between them.
  std::vector<std::string> ties;
};

// By the order of the cells, then decode, throughput, prefill. Only valid figures of the case's own card and of real
// weights, or of random ones on all sides, that no newer failure overtook; of a throughput workload only those of as
// many requests. A steady window stands beside whole runs, and the sentence says so.
std::vector<AcrossRow> across_engines(const Study& study);

// "Llama-3.2-3B on H100, FP8 + FP8 KV, decode/b1: vllm 812 tok/s, 1.12 times native (723)"
std::string across_sentence(const Study& study, const AcrossRow& row, const Speaker& say);
Json across_engines_as_json(const Study& study);

}  // namespace qg
