"""Command lines as the engines take them: what is not documented is refused, as click and argparse refuse it.

A table names each option and what its value must be: str, int, float, a tuple of choices, or None for a flag. Sources:
TensorRT-LLM 1.x, docs commands/trtllm-bench, commands/trtllm-serve, commands/trtllm-build; vLLM 0.12, docs cli/bench and
cli/serve. Options that no command of ours could need are left out: using one is a test's failure.
"""
import sys

TRTLLM_BENCH = {"--model": str, "-m": str, "--model_path": str, "--workspace": str, "-w": str,
                "--log_level": ("internal_error", "error", "warning", "info", "verbose", "debug")}
TRTLLM_THROUGHPUT = {
    "--engine_dir": str, "--backend": ("pytorch", "_autodeploy", "tensorrt"), "--extra_llm_api_options": str,
    "--max_batch_size": int, "--max_num_tokens": int, "--max_seq_len": int, "--beam_width": int,
    "--kv_cache_free_gpu_mem_fraction": float, "--dataset": str, "--eos_id": int, "--modality": ("image", "video"),
    "--max_input_len": int, "--num_requests": int, "--warmup": int, "--target_input_len": int,
    "--target_output_len": int, "--tp": int, "--pp": int, "--ep": int, "--cluster_size": int, "--concurrency": int,
    "--streaming": None, "--report_json": str, "--iteration_log": str, "--output_json": str, "--request_json": str,
    "--enable_chunked_context": None, "--scheduler_policy": ("guaranteed_no_evict", "max_utilization")}
# Before 1.2 it takes neither options file nor batch.
TRTLLM_LATENCY = {
    "--engine_dir": str, "--backend": ("pytorch", "_autodeploy", "tensorrt"), "--kv_cache_free_gpu_mem_fraction": float,
    "--dataset": str, "--modality": ("image", "video"), "--max_input_len": int, "--num_requests": int, "--warmup": int,
    "--tp": int, "--pp": int, "--ep": int, "--concurrency": int, "--beam_width": int, "--medusa_choices": str,
    "--report_json": str, "--iteration_log": str}
TRTLLM_SERVE = {
    "--tokenizer": str, "--host": str, "--port": int, "--backend": ("pytorch", "tensorrt", "trt", "_autodeploy"),
    "--log_level": ("internal_error", "error", "warning", "info", "verbose", "debug"), "--max_beam_width": int,
    "--max_batch_size": int, "--max_num_tokens": int, "--max_seq_len": int, "--tp_size": int, "--pp_size": int,
    "--ep_size": int, "--cluster_size": int, "--gpus_per_node": int, "--kv_cache_free_gpu_memory_fraction": float,
    "--num_postprocess_workers": int, "--trust_remote_code": None, "--extra_llm_api_options": str}
TRTLLM_BUILD = {
    "--checkpoint_dir": str, "--output_dir": str, "--max_batch_size": int, "--max_input_len": int, "--max_seq_len": int,
    "--max_beam_width": int, "--max_num_tokens": int, "--opt_num_tokens": int, "--workers": int,
    "--log_level": ("internal_error", "error", "warning", "info", "verbose", "debug"),
    "--multiple_profiles": ("enable", "disable"), "--use_paged_context_fmha": ("enable", "disable"),
    "--use_fp8_context_fmha": ("enable", "disable"),
    "--gemm_plugin": ("auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable")}

VLLM_ENGINE = {
    "--model": str, "--dtype": str, "--seed": int, "--max-model-len": int, "--gpu-memory-utilization": float,
    "--kv-cache-dtype": ("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc"), "--tensor-parallel-size": int,
    "--enable-prefix-caching": None, "--no-enable-prefix-caching": None, "--max-num-seqs": int,
    "--max-num-batched-tokens": int, "--quantization": str, "--tokenizer": str}
VLLM_LATENCY = VLLM_ENGINE | {
    "--input-len": int, "--output-len": int, "--batch-size": int, "--n": int, "--use-beam-search": None,
    "--num-iters-warmup": int, "--num-iters": int, "--profile": None, "--output-json": str,
    "--disable-detokenize": None}
VLLM_THROUGHPUT = VLLM_ENGINE | {
    "--backend": ("vllm", "hf", "mii", "vllm-chat"), "--dataset-name": ("sharegpt", "random", "sonnet", "burstgpt", "hf"),
    "--dataset": str, "--dataset-path": str, "--input-len": int, "--output-len": int, "--n": int, "--num-prompts": int,
    "--output-json": str, "--async-engine": None, "--disable-detokenize": None}
VLLM_SERVE = VLLM_ENGINE | {
    "--host": str, "--port": int, "--api-key": str, "--served-model-name": str, "--uvicorn-log-level": str}


def _convert(text, kind):
    if isinstance(kind, tuple):
        if text not in kind:
            raise ValueError
        return text
    return kind(text)


def parse(words, table, style, program, arguments=0, missing=()):
    """Options by name and the other words. `missing`: options that this version does not have."""

    def stop(click, argparse):
        print(click if style == "click" else f"usage: {program} [options]\n{program}: error: {argparse}",
              file=sys.stderr)
        sys.exit(2)

    options, others, at = {}, [], 0
    while at < len(words):
        name, equals, value = words[at].partition("=")
        at += 1
        if not name.startswith("-"):
            others.append(words[at - 1])
            continue
        if name not in table or name in missing:
            stop(f"Error: No such option: {name}", f"unrecognized arguments: {name}")
        if name in options:
            stop(f"Error: {name} twice", f"{name} twice")
        if table[name] is None:
            options[name] = True
            continue
        if not equals:
            if at == len(words):
                stop(f"Error: Option '{name}' requires an argument.", f"argument {name}: expected one argument")
            value = words[at]
            at += 1
        try:
            options[name] = _convert(value, table[name])
        except ValueError:
            stop(f"Error: Invalid value for '{name}': {value}", f"argument {name}: invalid value: '{value}'")
    if len(others) != arguments:
        stop(f"Error: Got unexpected extra arguments {others}", f"unrecognized arguments: {' '.join(others)}")
    return options, others


def need(options, names, style, program):
    for name in names:
        if name not in options:
            print(f"Error: Missing option '{name}'." if style == "click" else
                  f"{program}: error: the following arguments are required: {name}", file=sys.stderr)
            sys.exit(2)
