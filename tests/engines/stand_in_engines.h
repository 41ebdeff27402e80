#pragma once
// Stand-ins for trtllm-bench, trtllm-build, trtllm-serve, vllm, their Python and nvidia-smi, first on the PATH. The
// programs are tests/engines/stand_ins/*.py: they take documented command lines only, print lines of real logs, write
// reports with the keys of the real ones and serve OpenAI's API; stage.py there lists how they can be told to go wrong.
#include <algorithm>
#include <string>
#include <vector>

#include "core/json.h"
#include "tests/engines/stand_in.h"

namespace qg {

// The version is asked of python3; all else goes to the real one.
inline const char* const kStandInPython = R"sh(
here=$(dirname "$(dirname "$0")")
if [ "$1" = -c ]; then
  case $2 in
    *tensorrt_llm*) echo "version $(cat "$here/TRTLLM" 2> /dev/null || echo 1.1.0)" ;;
    *) echo "version $(cat "$here/VLLM" 2> /dev/null || echo 0.12.0)" ;;
  esac
  exit 0
fi
exec /usr/bin/python3 "$@"
)sh";

// As an H100 for `run`, and for scripts, which ask for the name alone.
inline const char* const kStandInSmi = R"sh(
case "$*" in
  *compute_cap*) echo "NVIDIA H100 80GB HBM3, 9.0, 81559, 580.82.09" ;;
  *query-gpu=name*) echo "NVIDIA H100 80GB HBM3" ;;
  *) echo "stand-in" ;;
esac
)sh";

class EngineStandIns : public StandIns {
 public:
  explicit EngineStandIns(const std::string& name) : StandIns(name) {
    for (const char* program : {"trtllm-bench", "trtllm-build", "trtllm-serve", "vllm"}) {
      std::string file = program;
      std::replace(file.begin(), file.end(), '-', '_');
      add(program, "export STAND_IN_HOME='" + folder().string() +
                       "'\nexec /usr/bin/python3 -B -S '" QG_SOURCE_DIR "/tests/engines/stand_ins/" + file +
                       ".py' \"$@\"\n");
    }
    add("python3", kStandInPython);
    add("nvidia-smi", kStandInSmi);
  }
  void put(const std::string& file, const std::string& text) const { std::ofstream(folder() / file) << text; }
  void mode(const std::string& word, const std::string& kv = "") const {
    put("MODE" + (kv.empty() ? "" : "." + kv), word);
  }
  // Calls of a program so far, as JSON lists.
  std::vector<std::string> calls(const std::string& program = "") const {
    std::vector<std::string> list = lines("CALLS");
    std::erase_if(
        list, [&](const std::string& line) { return !program.empty() && !line.starts_with("[\"" + program + "\""); });
    return list;
  }
  // Completions that a server was asked for with prompts of this length, without the probe's.
  std::vector<Json> completions(int64_t isl, int64_t osl) const {
    std::vector<Json> list;
    for (const std::string& line : lines("REQUESTS"))
      if (Json json = Json::parse(line); json["isl"] == isl && json["osl"] == osl) list.push_back(std::move(json));
    return list;
  }

 private:
  std::vector<std::string> lines(const std::string& name) const {
    std::vector<std::string> list;
    std::ifstream file(folder() / name);
    for (std::string line; std::getline(file, line);) list.push_back(line);
    return list;
  }
};

}  // namespace qg
