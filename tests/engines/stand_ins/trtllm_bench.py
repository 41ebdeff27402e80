"""Stands in for trtllm-bench throughput and latency."""
import json
import os
import sys

import options
import stage
import trtllm

words = sys.argv[1:]
stage.log_call("trtllm-bench", words)
at = next((i for i, word in enumerate(words) if word in ("throughput", "latency")), len(words))
if at == len(words):
    sys.exit("Error: Missing command.")
common, _ = options.parse(words[:at], options.TRTLLM_BENCH, "click", "trtllm-bench")
options.need(common, ["--model"], "click", "trtllm-bench")
is_latency = words[at] == "latency"
given, _ = options.parse(words[at + 1:], options.TRTLLM_LATENCY if is_latency else options.TRTLLM_THROUGHPUT, "click",
                         f"trtllm-bench {words[at]}", missing=stage.lacks())
options.need(given, ["--dataset"], "click", "trtllm-bench")

tensorrt = given.get("--backend", "pytorch") == "tensorrt"
folder = common["--model_path"]
config = stage.read_json(os.path.join(folder, "config.json"), f"no config.json in --model_path {folder}")
stage.check(tensorrt == ("--engine_dir" in given), "an engine is for the TensorRT back end, and needed there")
if tensorrt:
    stage.check("--extra_llm_api_options" not in given, "kv_cache_config.dtype is of the PyTorch back end")
    cache = trtllm.engine_cache(given["--engine_dir"])
else:
    cache = trtllm.pytorch_cache(folder, given.get("--extra_llm_api_options"))
report_file = given["--report_json"]
word = stage.mode(cache == "FP8", stage.workload_of(report_file))
stage.take_card()
trtllm.print_start(cache, word)
stage.misbehave(word)

requests = given["--num_requests"]
with open(given["--dataset"], encoding="utf-8") as file:
    prompts = [json.loads(line) for line in file][:requests]
stage.check(len(prompts) == requests, f"{len(prompts)} prompts for {requests} requests")
for prompt in prompts:
    stage.check(set(prompt) == {"task_id", "input_ids", "output_tokens"}, f"a prompt holds {sorted(prompt)}")
    stage.check(all(0 <= t < config["vocab_size"] for t in prompt["input_ids"]), "a token is not of the vocabulary")
isl = sum(len(p["input_ids"]) for p in prompts) / requests
osl = sum(p["output_tokens"] for p in prompts) / requests
at_once = given.get("--concurrency", 1 if is_latency else requests)
stage.check(at_once <= given.get("--max_batch_size", at_once), "more at once than the batch holds")

SPEED, TTFT_MS, TPOT_MS = 100.0, 20.0, 10.0


def block(value):
    return {"p50": value, "p90": value * 1.1, "p95": value * 1.1, "p99": value * 1.2, "minimum": value,
            "maximum": value * 1.2, "average": value}


total_s = requests / at_once * (TTFT_MS / 1e3 + osl / SPEED)
each_ms = total_s * 1e3 * at_once / requests
shown = cache if cache else "FP8" if word == "fp8" else None
report = {
    "engine": {"model": common["--model"], "model_path": folder, "engine_dir": given.get("--engine_dir", "None"),
               "version": "0.17.0" if word == "old" else stage.version("TRTLLM", "1.1.0"),
               "backend": "TensorRT" if tensorrt else "Pytorch", "dtype": "bfloat16", "kv_cache_dtype": shown,
               "quantization": "FP8"},
    "machine": {"name": "NVIDIA H100 80GB HBM3", "memory.total": 79.1, "clocks.mem": 2.619},
    "world_info": {"tp_size": 1, "pp_size": 1, "ep_size": None, "world_size": 1,
                   "max_batch_size": given.get("--max_batch_size", 2048),
                   "max_num_tokens": given.get("--max_num_tokens", 8192), "scheduling_policy": "GUARANTEED_NO_EVICT",
                   "kv_cache_percentage": given["--kv_cache_free_gpu_mem_fraction"], "issue_rate": 1e6},
    "request_info": {"num_requests": requests, "avg_num_concurrent_requests": at_once * 0.97,
                     "avg_input_length": isl, "avg_output_length": osl},
    "performance": {"total_latency_ms": total_s * 1e3, "avg_request_latency_ms": each_ms,
                    "request_throughput_req_s": requests / total_s,
                    "system_output_throughput_tok_s": requests * osl / total_s,
                    "system_total_throughput_tok_s": requests * (isl + osl) / total_s,
                    "output_throughput_per_user_tok_s": osl / (each_ms / 1e3),
                    "output_throughput_per_gpu_tok_s": requests * osl / total_s,
                    "request_latency_percentiles_ms": block(each_ms)},
    "dataset": {"num_requests": requests, "dataset_path": given["--dataset"]},
}
if is_latency or "--streaming" in given:
    report["streaming_metrics"] = {"token_output_speed_tok_s": SPEED, "avg_ttft_ms": TTFT_MS, "avg_tpot_ms": TPOT_MS,
                                   "ttft_percentiles": block(TTFT_MS), "tpot_percentiles": block(TPOT_MS),
                                   "gen_tps_percentiles": block(SPEED)}
stage.write_report(report_file, report, word)
