"""Stands in for vllm: bench latency, bench throughput, serve, --version."""
import os
import sys

import completions
import options
import stage

words = sys.argv[1:]
version = stage.version("VLLM", "0.12.0")
if words == ["--version"]:
    print(version)
    sys.exit(0)
stage.log_call("vllm", words)
verb = " ".join(words[:2]) if words[:1] == ["bench"] else words[0]
tables = {"bench latency": options.VLLM_LATENCY, "bench throughput": options.VLLM_THROUGHPUT,
          "serve": options.VLLM_SERVE}
if verb not in tables:
    sys.exit(f"vllm: error: argument subparser: invalid choice: '{verb}'")
is_server = verb == "serve"
given, others = options.parse(words[len(verb.split()):], tables[verb], "argparse", "vllm",
                              arguments=1 if is_server else 0, missing=stage.lacks())
folder = others[0] if is_server else given["--model"]
config = stage.read_json(os.path.join(folder, "config.json"), f"no config.json in {folder}")
quantization = config.get("quantization_config", {})
stage.check(not quantization or quantization.get("quant_method") == "compressed-tensors",
            f"Unknown quantization method: {quantization.get('quant_method')}")
kv = given.get("--kv-cache-dtype", "auto")
fp8 = kv.startswith("fp8") or (kv == "auto" and quantization.get("kv_cache_scheme") is not None)
word = stage.mode(fp8, "" if is_server else stage.workload_of(given["--output-json"]))

shown = "fp8" if word == "fp8" else kv
print(f"INFO 08-26 [core.py:105] Initializing a V1 LLM engine (v{version}) with config: model='{folder}', "
      f"dtype=torch.bfloat16, kv_cache_dtype={shown}, device_config=cuda, seed=0")
# Of a model with 512 bytes of 16-bit cache a token.
print(f"INFO Available KV cache memory: {0.5 if fp8 or word in ('fp8', 'lie') else 1.0:.2f} GiB")
print("INFO GPU KV cache size: 2,097,152 tokens", flush=True)
stage.take_card()
stage.misbehave(word)

if is_server:
    completions.serve(given["--host"], given["--port"], name=folder, owner="vllm", version=version,
                      vocab=config.get("vocab_size", 320), most_tokens=given["--max-model-len"], silent_until_up=False)
elif verb == "bench latency":
    stage.check(given["--input-len"] + given["--output-len"] <= given["--max-model-len"], "longer than --max-model-len")
    latencies = [0.05 + 0.01 * (given["--output-len"] - 1)] * given["--num-iters"]
    stage.write_report(given["--output-json"],
                       {"avg_latency": sum(latencies) / len(latencies), "latencies": latencies,
                        "percentiles": {"50": latencies[0], "99": latencies[0]}}, word)
else:
    stage.check(given["--input-len"] + given["--output-len"] <= given["--max-model-len"], "longer than --max-model-len")
    requests = given["--num-prompts"]
    tokens = requests * (given["--input-len"] + given["--output-len"])
    stage.write_report(given["--output-json"],
                       {"elapsed_time": 2.0, "num_requests": requests, "total_num_tokens": tokens,
                        "requests_per_second": requests / 2.0, "tokens_per_second": tokens / 2.0}, word)
