"""Stands in for trtllm-build: the engine keeps the checkpoint's configuration."""
import os
import shutil
import sys

import options
import stage

words = sys.argv[1:]
stage.log_call("trtllm-build", words)
given, _ = options.parse(words, options.TRTLLM_BUILD, "argparse", "trtllm-build", missing=stage.lacks())
options.need(given, ["--checkpoint_dir", "--output_dir"], "argparse", "trtllm-build")
source = os.path.join(given["--checkpoint_dir"], "config.json")
config = stage.read_json(source, f"there is no {source}")
stage.check("architecture" in config, f"{source} names no architecture")
cache = config.get("quantization", {}).get("kv_cache_quant_algo")
weights = config.get("quantization", {}).get("quant_algo")
# (TensorRT-LLM 1.x, tensorrt_llm/builder.py)
if given.get("--use_paged_context_fmha") == "enable":
    stage.check(cache != "INT8", "Paged Context FMHA doesn't work with int8 kv cache currently.")
    stage.check(cache != "FP8" or weights == "FP8", "FP8 Paged Context FMHA only works with fp8 quantization workflow")

word = stage.mode(cache == "FP8")
if word == "oom":
    print("[08/11/2024-06:10:36] [TRT] [E] [virtualMemoryBuffer.cpp::resizePhysical::151] Error Code 2: OutOfMemory "
          "(Requested size was 16654532608 bytes.)")
    sys.exit(1)
os.makedirs(given["--output_dir"], exist_ok=True)
shutil.copy(source, os.path.join(given["--output_dir"], "config.json"))
with open(os.path.join(given["--output_dir"], "rank0.engine"), "w", encoding="utf-8") as file:
    file.write("12345")
