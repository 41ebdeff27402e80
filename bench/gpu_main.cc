// Times of the kernels on this machine's GPU: bench_gpu
// [linear|linear_int4|linear_bf16|linear_gate|linear_tiles|decode|prefill|append|append_decode]..., all when nothing is
// said.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "bench/gpu.h"
#include "core/error.h"

int main(int count, char** words) {
  const std::pair<std::string, void (*)()> tables[] = {{"linear", qg::bench_linear},
                                                       {"linear_int4", qg::bench_linear_int4},
                                                       {"linear_bf16", qg::bench_linear_bf16},
                                                       {"linear_gate", qg::bench_linear_gate},
                                                       {"linear_tiles", qg::bench_linear_tiles},
                                                       {"decode", qg::bench_decode},
                                                       {"prefill", qg::bench_prefill},
                                                       {"append", qg::bench_append},
                                                       {"append_decode", qg::bench_append_and_decode}};
  std::vector<std::string> wanted(words + 1, words + count);
  if (wanted.empty()) wanted = {"linear", "linear_gate", "decode", "prefill", "append", "append_decode"};
  try {
    for (const std::string& word : wanted) {
      bool known = false;
      for (const auto& [name, run] : tables)
        if (name == word) {
          run();
          known = true;
        }
      if (!known)
        throw qg::Error("\"" + word + "\" is not a table", "",
                        "give linear, linear_int4, linear_bf16, linear_gate, linear_tiles, decode, prefill, append or "
                        "append_decode");
    }
  } catch (const qg::Error& e) {
    std::fprintf(stderr, "bench_gpu: %s\n", e.what());
    return static_cast<int>(e.code());
  }
  return 0;
}
