#pragma once
// Stand-ins for TensorRT-LLM, vLLM and nvidia-smi. They print lines of real logs (tests/golden/engines/samples), write
// reports with the keys of the real ones, and do what the file MODE beside them says: "ok", "oom", "hang", "crash",
// "refuse", "fp8" (an FP8 cache whatever was asked for), "lie" (the same, but reported as asked), "old", "garbage",
// "silent" (no report), "family" (leaves processes behind). MODE.fp8 and MODE.fp16 hold for one cache type only. Every
// call is a line of JSON in the file CALLS.
#include <string>

#include "tests/engines/stand_in.h"

namespace qg {

inline const char* const kStandInCommon = R"py(#!/usr/bin/python3
import json, os, signal, subprocess, sys, time
here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
name, args = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.path.join(here, "CALLS"), "a") as file:
    file.write(json.dumps([name] + args) + "\n")
options = {a: b for a, b in zip(args, args[1:])}
def read(path, otherwise=""):
    return open(path).read() if os.path.exists(path) else otherwise
def mode_of(fp8):
    common = read(os.path.join(here, "MODE"), "ok").strip()
    return read(os.path.join(here, "MODE." + ("fp8" if fp8 else "fp16")), common).strip()
def misbehave(mode):
    sys.stdout.flush()
    if mode == "oom":
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 256.00 MiB. GPU 0 has a total capacity of "
              "23.58 GiB of which 128.00 MiB is free.", file=sys.stderr)
        sys.exit(1)
    if mode == "refuse":
        print("[TensorRT-LLM][ERROR] Assertion failed: FP8 FMHA cannot be enabled except on Ada or Hopper or Blackwell "
              "Arch.")
        os.abort()
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "hang":
        time.sleep(600)
    if mode == "family":
        for words in (["sleep", "600"], ["setsid", "sleep", "600"]):
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL)
            with open(os.path.join(here, "PIDS"), "a") as file:
                file.write(f"{child.pid}\n")
        with open(os.path.join(here, "PIDS"), "a") as file:
            file.write(f"{os.getpid()}\n")
        open(os.path.join(here, "READY"), "w").write("ready")
        time.sleep(600)
)py";

inline const char* const kStandInTrtllm = R"py(
fp8 = False
if "--extra_llm_api_options" in options:
    fp8 = "dtype: fp8" in open(options["--extra_llm_api_options"]).read()
if "--engine_dir" in options:
    fp8 = '"FP8"' in open(os.path.join(options["--engine_dir"], "config.json")).read()
mode = mode_of(fp8)
print("[TensorRT-LLM] TensorRT-LLM version: 1.1.0")
is_fp8 = fp8 or mode in ("fp8", "lie")
print(f"[TensorRT-LLM][INFO] [MemUsageChange] Allocated {0.5 if is_fp8 else 1.0:.2f} GiB for max tokens in paged KV "
      "cache (2097152).")
misbehave(mode)
with open(options["--dataset"]) as file:
    first = json.loads(file.readline())
requests, isl, osl = int(options["--num_requests"]), len(first["input_ids"]), first["output_tokens"]
streaming = "latency" in args or "--streaming" in args
at_once = int(options.get("--concurrency", requests))
block = lambda v: {"p50": v, "p90": v * 1.1, "p95": v * 1.1, "p99": v * 1.2, "minimum": v, "maximum": v * 1.2, "average": v}
speed = 100.0
total_s = requests / at_once * (0.02 + osl / speed)
report = {
    "engine": {"model": options["--model"], "version": "0.17.0" if mode == "old" else "1.1.0", "backend": "Pytorch",
               "kv_cache_dtype": "FP8" if (is_fp8 and mode != "lie") or fp8 else None, "quantization": "FP8"},
    "request_info": {"num_requests": requests, "avg_num_concurrent_requests": at_once * 0.97,
                     "avg_input_length": float(isl), "avg_output_length": float(osl)},
    "performance": {"total_latency_ms": total_s * 1e3, "request_throughput_req_s": requests / total_s,
                    "system_output_throughput_tok_s": requests * osl / total_s,
                    "system_total_throughput_tok_s": requests * (isl + osl) / total_s,
                    "request_latency_percentiles_ms": block(total_s * 1e3 * at_once / requests)},
}
if streaming:
    report["streaming_metrics"] = {"token_output_speed_tok_s": speed, "ttft_percentiles": block(20.0),
                                   "tpot_percentiles": block(10.0)}
if mode != "silent":
    with open(options["--report_json"], "w") as file:
        file.write("{garbage" if mode == "garbage" else json.dumps(report, indent=4))
)py";

inline const char* const kStandInBuild = R"py(
mode = mode_of('"FP8"' in open(os.path.join(options["--checkpoint_dir"], "config.json")).read())
if mode == "oom":
    print("[08/11/2024-06:10:36] [TRT] [E] [virtualMemoryBuffer.cpp::resizePhysical::151] Error Code 2: OutOfMemory "
          "(Requested size was 16654532608 bytes.)")
    sys.exit(1)
out = options["--output_dir"]
os.makedirs(out, exist_ok=True)
open(os.path.join(out, "config.json"), "w").write(open(os.path.join(options["--checkpoint_dir"], "config.json")).read())
open(os.path.join(out, "rank0.engine"), "w").write("12345")
)py";

inline const char* const kStandInVllm = R"py(
if args[0] == "--version":
    print("0.12.0")
    sys.exit(0)
kv = options["--kv-cache-dtype"]
mode = mode_of(kv == "fp8")
print(f"INFO 08-26 [core.py:105] Initializing a V1 LLM engine (v0.12.0) with config: model='m', dtype=torch.bfloat16, "
      f"kv_cache_dtype={kv}, device_config=cuda, seed=0")
print(f"INFO Available KV cache memory: {0.5 if kv == 'fp8' or mode in ('fp8', 'lie') else 1.0:.2f} GiB")
print("INFO GPU KV cache size: 2,097,152 tokens")
misbehave(mode)
if args[0] == "serve":
    import http.server
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"" if self.path == "/health" else json.dumps({"data": [{"id": "served-model"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *words):
            pass
    time.sleep(0.3)
    with open(os.path.join(here, "PIDS"), "a") as file:
        file.write(f"{os.getpid()}\n")
    server = http.server.HTTPServer((options["--host"], int(options["--port"])), Handler)
    if mode == "dies":
        server.timeout = 0.5
        for _ in range(4):
            server.handle_request()
        misbehave("crash")
    server.serve_forever()
if "latency" in args:
    rounds, osl = int(options["--num-iters"]), int(options["--output-len"])
    latencies = [0.05 + 0.01 * (osl - 1)] * rounds
    report = {"avg_latency": sum(latencies) / rounds, "latencies": latencies, "percentiles": {"50": latencies[0]}}
else:
    requests, isl, osl = int(options["--num-prompts"]), int(options["--input-len"]), int(options["--output-len"])
    report = {"elapsed_time": 2.0, "num_requests": requests, "total_num_tokens": requests * (isl + osl),
              "requests_per_second": requests / 2.0, "tokens_per_second": requests * (isl + osl) / 2.0}
if mode != "silent":
    with open(options["--output-json"], "w") as file:
        file.write("{garbage" if mode == "garbage" else json.dumps(report, indent=4))
)py";

// The version is asked of python3; all else goes to the real one.
inline const char* const kStandInPython = R"sh(
here=$(dirname "$(dirname "$0")")
if [ "$1" = -c ]; then
  case $2 in
    *tensorrt_llm*) echo "version $(cat "$here/TRTLLM" 2> /dev/null || echo 1.1.0)" ;;
    *) echo "version 0.12.0" ;;
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

// All of them, first on the PATH. Their Python is the system's, so that "python3" on the PATH is asked for versions.
class EngineStandIns : public StandIns {
 public:
  explicit EngineStandIns(const std::string& name) : StandIns(name) {
    add("trtllm-bench", std::string(kStandInCommon) + kStandInTrtllm);
    add("trtllm-build", std::string(kStandInCommon) + kStandInBuild);
    add("vllm", std::string(kStandInCommon) + kStandInVllm);
    add("python3", kStandInPython);
    add("nvidia-smi", kStandInSmi);
    // Scripts of pip name their own Python; these name the stand-in's.
    for (const char* program : {"trtllm-bench", "vllm"}) {
      const std::filesystem::path file = bin() / program;
      const std::string text = read_file(file);
      std::ofstream(bin() / (std::string(program) + ".py"), std::ios::binary) << text;
      add(program,
          "exec /usr/bin/python3 -c 'import sys; sys.argv = sys.argv[1:]; __file__ = sys.argv[0]; "
          "exec(open(__file__ + \".py\").read())' \"$0\" \"$@\"\n");
    }
  }
  void mode(const std::string& word, const std::string& kv = "") const {
    std::ofstream(folder() / ("MODE" + (kv.empty() ? "" : "." + kv))) << word;
  }
  // Calls of a program so far, as JSON lists.
  std::vector<std::string> calls(const std::string& program = "") const {
    std::vector<std::string> list;
    std::ifstream file(folder() / "CALLS");
    for (std::string line; std::getline(file, line);)
      if (program.empty() || line.starts_with("[\"" + program + "\"")) list.push_back(line);
    return list;
  }
};

}  // namespace qg
