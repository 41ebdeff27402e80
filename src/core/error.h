#pragma once
// One error type for the whole program. An error says what was wrong, where, and what to do; `main` prints it and turns
// it into the exit code. Code that can go on returns a value instead ("unsupported" is a value with a reason).
#include <stdexcept>
#include <string>

namespace qg {

// Exit codes of the command line (docs/architecture.md). They are part of the contract with scripts.
enum class ExitCode : int {
  done = 0,
  wrong_input = 1,   // wrong use or wrong input
  cases_failed = 2,  // some cases of a grid failed
  gate_failed = 3,   // a threshold was missed
  cannot_here = 4,   // this machine cannot do it
  interrupted = 75,  // the same command goes on where this one stopped
};

class Error : public std::runtime_error {
 public:
  // what: one sentence. where: file, tensor or field (may be empty). fix: what to do (may be empty).
  Error(std::string what, std::string where = {}, std::string fix = {}, ExitCode code = ExitCode::wrong_input);

  const std::string& problem() const { return problem_; }
  const std::string& where() const { return where_; }
  const std::string& fix() const { return fix_; }
  ExitCode code() const { return code_; }

 private:
  std::string problem_, where_, fix_;
  ExitCode code_;
};

}  // namespace qg
