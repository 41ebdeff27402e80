"""What trtllm-bench, trtllm-serve and trtllm-build share."""
import os

import stage

# What an options file may hold, of what ours could. (TensorRT-LLM 1.x, tensorrt_llm/llmapi/llm_args.py)
_SECTIONS = {"kv_cache_config": {"dtype", "enable_block_reuse", "free_gpu_memory_fraction", "max_tokens"},
             "cuda_graph_config": {"enable_padding", "max_batch_size", "batch_sizes"}}
_FLAGS = {"enable_chunked_prefill"}


def read_options(file):
    """The few lines of YAML that are written: sections of plain values."""
    stage.check(os.path.isfile(file), f"there is no {file}")
    values, section = {}, None
    with open(file, encoding="utf-8") as stream:
        for line in stream.read().splitlines():
            key, _, value = line.strip().partition(":")
            value = value.strip()
            inner = line.startswith("  ")
            known = key in _SECTIONS[section] if inner and section else key in _SECTIONS or key in _FLAGS
            stage.check(known, f"unknown field in the options file: {line}")
            if not inner:
                section = key if key in _SECTIONS else None
            if value:
                values[f"{section}.{key}" if inner else key] = value
    dtype = values.get("kv_cache_config.dtype")
    stage.check(dtype in ("auto", "fp8"), f"kv_cache_config.dtype {dtype}: valid values are auto and fp8")
    return values


def engine_cache(folder):
    """The cache type that a built engine holds: "FP8", "INT8" or None."""
    stage.check(os.path.isfile(os.path.join(folder, "rank0.engine")), f"there is no engine in {folder}")
    config = stage.read_json(os.path.join(folder, "config.json"), f"there is no config.json in {folder}")
    return config.get("quantization", {}).get("kv_cache_quant_algo")


def pytorch_cache(folder, options_file):
    """The cache type of the PyTorch back end: fp8 sets it, auto keeps what the folder says, and with no dtype at all FP8
    weights bring an FP8 cache (the trap of trtllm-bench)."""
    config = os.path.join(folder, "hf_quant_config.json")
    quantization = {}
    if os.path.exists(config):
        quantization = stage.read_json(config, config)["quantization"]
    if options_file is None:
        return "FP8" if quantization.get("quant_algo") == "FP8" else quantization.get("kv_cache_quant_algo")
    if read_options(options_file)["kv_cache_config.dtype"] == "fp8":
        return "FP8"
    return quantization.get("kv_cache_quant_algo")


def is_8bit(cache, word):
    return cache is not None or word in ("fp8", "lie")


def print_start(cache, word):
    """Lines of a start, and the cache of a model with 512 bytes of 16-bit cache a token."""
    print(f"[TensorRT-LLM] TensorRT-LLM version: {stage.version('TRTLLM', '1.1.0')}")
    print(f"[TensorRT-LLM][INFO] [MemUsageChange] Allocated {0.5 if is_8bit(cache, word) else 1.0:.2f} GiB for max "
          "tokens in paged KV cache (2097152).", flush=True)
