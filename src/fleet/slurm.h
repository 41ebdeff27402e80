#pragma once
// The grid as array jobs of Slurm: an array for each card, a task for each model, a journal for each task, and a job
// that merges them. Scripts as text; nothing here starts anything. docs/fleet.md tells how they behave.
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "grid/grid.h"

namespace qg {

struct SlurmOptions {
  std::filesystem::path program, grid, out;        // absolute, on a file system that all nodes share
  std::vector<std::string> run_flags;              // for `quantgrid run` of every task
  std::map<std::string, std::string> gres;         // by card; default gpu:CARD:1, none for the CPU; "none": none
  std::map<std::string, std::string> constraints;  // by card: features of the node
  std::string partition, account, time_limit;      // empty: the cluster's default
  std::vector<std::string> more;                   // further #SBATCH options, "--qos=long"
  bool exclusive = true;         // nobody else on the node: neighbours on its processors change what is measured
  bool other_engine = false;     // run_flags name TensorRT-LLM or vLLM: each task has a folder for its reports and logs
  bool on_processor = false;     // tasks run on the CPU executor: no card is asked for
  int64_t signal_seconds = 120;  // before the time limit, at which a task stops and is queued again
  int64_t most_restarts = 50;
};

struct SlurmArray {
  std::string card;
  struct Task {
    std::string model;
    std::vector<int> numbers;  // of its cases
  };
  std::vector<Task> tasks;
};

// Of the cases that are given, in their order. Throws Error on a case without a number (an implied one).
std::vector<SlurmArray> slurm_arrays(const std::vector<Case>& cases);

// Throws Error when a path or an option holds signs that Slurm reads otherwise (blanks, quotes, %).
std::string array_script(const SlurmArray& array, const SlurmOptions& options);
// Journals into OUT/all.db, the page into OUT/report.html.
std::string merge_script(const SlurmOptions& options);

std::filesystem::path array_script_file(const SlurmArray& array, const SlurmOptions& options);  // OUT/h100.sbatch
std::filesystem::path merge_script_file(const SlurmOptions& options);                           // OUT/merge.sbatch

// The job's number as the last line of sbatch --parsable says it: "1234" or "1234;cluster". Empty when that says
// something else.
std::string parse_job_id(std::string_view sbatch_output);

}  // namespace qg
