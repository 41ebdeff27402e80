#!/usr/bin/env bash
# Llama-3.2-3B on A10 24 GB, TensorRT-LLM, PyTorch back end: 4 cases, 2 of them supported.
# KV rule: the KV format is chosen at run time; one checkpoint per weight format.
#
# Paths are relative to the folder in which `quantgrid plan` ran: run the script from there.
# Results: RESULTS/MODEL/CARD/WEIGHTS/kv_KV/WORKLOAD/ with total.json (the engine's report), total.log (all that it
# printed), total.kv (cache type asked for and reported), total.seconds, and total.done when all was well. What was
# done with the same command is skipped when the script runs again. A report whose cache type is not the case's is marked total.invalid.
# GPU=N takes another card than the first, or than the first that CUDA_VISIBLE_DEVICES allows. Exit code: 0 all done,
# 2 some cases failed or are invalid, 4 the engine or the card is not here.
set -euo pipefail
results='out/results'
mkdir -p "$results"
# CUDA alone counts the fastest card first, nvidia-smi by the place on the bus.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
gpu=${GPU:-${CUDA_VISIBLE_DEVICES:-0}}
export CUDA_VISIBLE_DEVICES=${gpu%%,*}
gpu=$(nvidia-smi -i "$CUDA_VISIBLE_DEVICES" --query-gpu=name --format=csv,noheader) || {
  echo "nvidia-smi shows no card $CUDA_VISIBLE_DEVICES${gpu:+: $gpu}" >&2
  exit 4
}
case ${gpu#NVIDIA } in
  'A10') ;;
  *) echo "this script is for a10, here is $gpu" >&2; exit 4 ;;
esac
command -v trtllm-bench > /dev/null || { echo "trtllm-bench is not on the PATH; install: pip install tensorrt-llm==1.1.0 (Python 3.12, CUDA 12.9)" >&2; exit 4; }
version=$(python3 -c 'from importlib.metadata import version; print(version("tensorrt_llm"))' 2> /dev/null) ||
  version=unknown
case $version in
  1.1.0*) ;;
  *) echo "warning: written for tensorrt_llm 1.1.0, here is $version" >&2 ;;
esac
echo "$version" > "$results/tensorrt_llm.version"
nvidia-smi -q -i "$CUDA_VISIBLE_DEVICES" > "$results/gpu-a10.txt"

bad_cases=0

# done_with STEM COMMAND...: was this very command done before?
done_with() {
  local stem=$1; shift
  [ -f "$stem.done" ] && [ "$(cat "$stem.command")" = "$(printf '%q ' "$@")" ]
}

# mark_done STEM COMMAND...
mark_done() {
  local stem=$1; shift
  printf '%q ' "$@" > "$stem.command" && touch "$stem.done"
}

# need FOLDER: it must be there.
need() {
  [ -d "$1" ] || { echo "missing folder: $1" >&2; return 1; }
}

# make_folder FOLDER COMMAND...: runs the command unless the folder is there.
make_folder() {
  local folder=$1; shift
  [ -d "$folder" ] || "$@" || { echo "could not make $folder" >&2; return 1; }
}

# make_file FILE COMMAND...: runs the command unless the file is there.
make_file() {
  local file=$1; shift
  [ -f "$file" ] || "$@" || { echo "could not make $file" >&2; return 1; }
}

# build_engine FOLDER COMMAND...: builds unless this command did before; keeps build.log, build.seconds and build.bytes.
build_engine() {
  local folder=$1 start; shift
  if done_with "$folder/build" "$@"; then return 0; fi
  mkdir -p "$folder"
  rm -f "$folder/build.done"
  start=$(date +%s)
  if ! "$@" > "$folder/build.log" 2>&1; then
    echo "build failed, see $folder/build.log" >&2
    return 1
  fi
  echo $(( $(date +%s) - start )) > "$folder/build.seconds"
  stat -c %s "$folder/rank0.engine" > "$folder/build.bytes" || return 1
  mark_done "$folder/build" "$@"
}

# measure STEM KV COMMAND...: runs the command, which must leave STEM.json, unless it was done before; then compares the
# cache type that the engine reports.
measure() {
  local stem=$1 kv=$2 report=$1.json start seen; shift 2
  if done_with "$stem" "$@"; then echo "done before: $stem"; return 0; fi
  echo "running: $stem"
  mkdir -p "$(dirname "$stem")"
  rm -f "$stem.done" "$stem.invalid" "$report"
  start=$(date +%s)
  if ! "$@" > "$stem.log" 2>&1; then
    echo "failed, see $stem.log" >&2
    return 1
  fi
  echo $(( $(date +%s) - start )) > "$stem.seconds"
  [ -s "$report" ] || { echo "no report: $report" >&2; return 1; }
  seen=$(reported_kv "$stem.log" "$report")
  { echo "asked for: $kv"; echo "reported: $seen"; grep -i 'kv.cache' "$stem.log" || true; } > "$stem.kv"
  if [ "$seen" != "$kv" ]; then
    echo "INVALID: the KV cache was to be $kv, the engine reports $seen; see $stem.kv" >&2
    touch "$stem.invalid"
    return 1
  fi
  mark_done "$stem" "$@"
}

# run_case ID FUNCTION
run_case() {
  echo "== $1"
  if ! "$2"; then
    echo "case failed: $1" >&2
    bad_cases=$((bad_cases + 1))
  fi
}

# Cache type that the report names. (TensorRT-LLM 1.x, tensorrt_llm/bench/dataclasses/reporting.py)
reported_kv() {
  case $(grep -o -m 1 '"kv_cache_dtype": *[^,}]*' "$2" || true) in
    *null) echo fp16 ;;
    *'"FP8"'*) echo fp8 ;;
    *'"INT8"'*) echo int8 ;;
    *) echo unknown ;;
  esac
}

# check_folder FOLDER KV: modelopt's layout, and no cache type of its own: it serves both caches.
check_folder() {
  local file="$1/hf_quant_config.json"
  [ -f "$file" ] || { echo "not in the modelopt layout, there is no $file" >&2; return 1; }
  if grep -q '"kv_cache_quant_algo": *"' "$file"; then
    echo "$file fixes a cache type (kv_cache_quant_algo); export the folder without" >&2
    return 1
  fi
}

# Case 3: llama-3.2-3b/a10/int4_awq/kv_fp16 (must)
# native: 4-bit weights are meant to be unpacked to FP16 for the multiplication; the KV cache is FP16
# (TensorRT-LLM 1.1 docs: features/quantization.md)
# CHECK: a token of fp16 cache takes 114688 bytes; memory of the cache over its tokens, both in the log, must say the same.
case_3_int4_awq_kv_fp16() {
  local bad=0
  # A folder in the modelopt layout, made by any tool; what it says of its cache is checked.
  # Model Optimizer's hf_ptq.py makes it with --kv_cache_qformat none; its default is an FP8 cache.
  make_folder models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
    quantgrid quantize \
      --model models/llama-3.2-3b-instruct \
      --weights int4_awq \
      --layout modelopt \
      --calib models/texts/calibration.txt \
      --calib-sequences 512 \
      --calib-tokens 512 \
      --search-tokens 4096 \
      --seed 1 \
      --out models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 || return 1
  check_folder models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 fp16 || return 1

  # --- decode/b1
  # Overrides what trtllm-bench sets; kv_cache_config replaces its whole section, so all of it stands here
  #   (tensorrt_llm/llmapi/llm_args.py, update_llm_args_with_extra_dict).
  # enable_block_reuse, enable_chunked_prefill false: warm-up prompts are drawn from those that are measured, and
  #   an FP8 cache under 16-bit attention has no kernels for either (pull request 8862).
  # cuda_graph_config: graphs for every batch, padded, as in the published runs (perf-overview.md).
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b1 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b1/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: auto
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 1
END_OF_FILE
  # Prompts of random tokens; JSON lines as TensorRT-LLM 1.x, tensorrt_llm/bench/utils/data.py reads.
  make_file out/results/tokens/llama-3.2-3b-128-256-5.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 128 \
      --output 256 \
      --requests 5 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-128-256-5.jsonl || return 1
  # 5 requests, one after the other.
  # dtype auto means what the folder says. It is a 16-bit cache only if kv_cache_quant_algo is
  #   null in its hf_quant_config.json, and dtype is written out: with no dtype at all, trtllm-bench
  #   gives FP8 weights an FP8 cache (tensorrt_llm/bench/benchmark/utils/general.py). There is no
  #   value that forces 16 bits: the folder is checked before, the cache type of the report after the
  #   run. CHECK in total.kv that the log agrees with the report.
  # throughput, not latency: `trtllm-bench latency` of 1.0 and 1.1 takes no options file, so
  #   that the KV format could not be chosen. One request at a time, streaming: the same thing.
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b1/total fp16 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b1/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-128-256-5.jsonl \
      --num_requests 5 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --concurrency 1 \
      --warmup 2 \
      --max_batch_size 1 \
      --max_num_tokens 2048 \
      --streaming \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b1/total.json || bad=1

  # --- decode/b8
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b8 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b8/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: auto
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 8
END_OF_FILE
  make_file out/results/tokens/llama-3.2-3b-128-256-40.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 128 \
      --output 256 \
      --requests 40 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-128-256-40.jsonl || return 1
  # 5 rounds of 8: requests have the same lengths, so that with this concurrency the next 8 start
  #   when the last 8 end.
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b8/total fp16 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b8/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-128-256-40.jsonl \
      --num_requests 40 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --concurrency 8 \
      --warmup 8 \
      --max_batch_size 8 \
      --max_num_tokens 2048 \
      --streaming \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b8/total.json || bad=1

  # --- decode/b64
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b64 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b64/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: auto
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 64
END_OF_FILE
  make_file out/results/tokens/llama-3.2-3b-128-256-320.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 128 \
      --output 256 \
      --requests 320 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-128-256-320.jsonl || return 1
  # 5 rounds of 64: requests have the same lengths, so that with this concurrency the next 64 start
  #   when the last 64 end.
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b64/total fp16 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b64/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-128-256-320.jsonl \
      --num_requests 320 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --concurrency 64 \
      --warmup 64 \
      --max_batch_size 64 \
      --max_num_tokens 8192 \
      --streaming \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/decode/b64/total.json || bad=1

  # --- 1000/1000
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/1000/1000 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/1000/1000/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: auto
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 2048
END_OF_FILE
  make_file out/results/tokens/llama-3.2-3b-1000-1000-1500.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 1000 \
      --output 1000 \
      --requests 1500 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-1000-1000-1500.jsonl || return 1
  # All requests are offered at once (--concurrency -1, the default).
  # Batch and tokens of an iteration: trtllm-bench's own heuristics (tensorrt_llm/bench/build/tuning.py).
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/1000/1000/total fp16 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/1000/1000/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-1000-1000-1500.jsonl \
      --num_requests 1500 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp16/1000/1000/total.json || bad=1
  return $bad
}
run_case llama-3.2-3b/a10/int4_awq/kv_fp16 case_3_int4_awq_kv_fp16

# Case 4: llama-3.2-3b/a10/int4_awq/kv_fp8 (must)
# emulated: A10 24 GB has no FP8 conversion: the KV cache is stored in 8 bits and converted in software, only with block reuse and chunked prefill switched off
# (TensorRT-LLM 1.1 docs: features/quantization.md)
# CHECK: a token of fp8 cache takes 57344 bytes; memory of the cache over its tokens, both in the log, must say the same.
case_4_int4_awq_kv_fp8() {
  local bad=0
  # A folder in the modelopt layout, made by any tool; what it says of its cache is checked.
  # Model Optimizer's hf_ptq.py makes it with --kv_cache_qformat none; its default is an FP8 cache.
  make_folder models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
    quantgrid quantize \
      --model models/llama-3.2-3b-instruct \
      --weights int4_awq \
      --layout modelopt \
      --calib models/texts/calibration.txt \
      --calib-sequences 512 \
      --calib-tokens 512 \
      --search-tokens 4096 \
      --seed 1 \
      --out models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 || return 1
  check_folder models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 fp8 || return 1

  # --- decode/b1
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b1 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b1/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: fp8
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 1
END_OF_FILE
  make_file out/results/tokens/llama-3.2-3b-128-256-5.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 128 \
      --output 256 \
      --requests 5 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-128-256-5.jsonl || return 1
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b1/total fp8 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b1/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-128-256-5.jsonl \
      --num_requests 5 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --concurrency 1 \
      --warmup 2 \
      --max_batch_size 1 \
      --max_num_tokens 2048 \
      --streaming \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b1/total.json || bad=1

  # --- decode/b8
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b8 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b8/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: fp8
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 8
END_OF_FILE
  make_file out/results/tokens/llama-3.2-3b-128-256-40.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 128 \
      --output 256 \
      --requests 40 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-128-256-40.jsonl || return 1
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b8/total fp8 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b8/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-128-256-40.jsonl \
      --num_requests 40 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --concurrency 8 \
      --warmup 8 \
      --max_batch_size 8 \
      --max_num_tokens 2048 \
      --streaming \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b8/total.json || bad=1

  # --- decode/b64
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b64 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b64/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: fp8
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 64
END_OF_FILE
  make_file out/results/tokens/llama-3.2-3b-128-256-320.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 128 \
      --output 256 \
      --requests 320 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-128-256-320.jsonl || return 1
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b64/total fp8 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b64/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-128-256-320.jsonl \
      --num_requests 320 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --concurrency 64 \
      --warmup 64 \
      --max_batch_size 64 \
      --max_num_tokens 8192 \
      --streaming \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/decode/b64/total.json || bad=1

  # --- 1000/1000
  mkdir -p out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/1000/1000 || return 1
  cat > out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/1000/1000/options.yaml <<'END_OF_FILE' || return 1
kv_cache_config:
  dtype: fp8
  enable_block_reuse: false
  free_gpu_memory_fraction: 0.9
enable_chunked_prefill: false
cuda_graph_config:
  enable_padding: true
  max_batch_size: 2048
END_OF_FILE
  make_file out/results/tokens/llama-3.2-3b-1000-1000-1500.jsonl \
    python3 out/random_tokens.py \
      --model models/llama-3.2-3b-instruct \
      --input 1000 \
      --output 1000 \
      --requests 1500 \
      --seed 1 \
      --out out/results/tokens/llama-3.2-3b-1000-1000-1500.jsonl || return 1
  measure out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/1000/1000/total fp8 \
    trtllm-bench \
      --model meta-llama/Llama-3.2-3B-Instruct \
      --model_path models/modelopt/llama-3.2-3b-instruct-trtllm-ckpt-wq_int4_awq-kv_fp16 \
      throughput \
      --backend pytorch \
      --extra_llm_api_options out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/1000/1000/options.yaml \
      --dataset out/results/tokens/llama-3.2-3b-1000-1000-1500.jsonl \
      --num_requests 1500 \
      --kv_cache_free_gpu_mem_fraction 0.9 \
      --report_json out/results/llama-3.2-3b/a10/int4_awq/kv_fp8/1000/1000/total.json || bad=1
  return $bad
}
run_case llama-3.2-3b/a10/int4_awq/kv_fp8 case_4_int4_awq_kv_fp8

# Case 36: llama-3.2-3b/a10/int8_sq/kv_fp16 (int8)
# unsupported: the PyTorch back end has no INT8 SmoothQuant; the TensorRT back end has
# (TensorRT-LLM 1.1 docs: features/quantization.md)

# Case 37: llama-3.2-3b/a10/int8_sq/kv_fp8 (int8)
# unsupported: the PyTorch back end has no INT8 SmoothQuant; the TensorRT back end has
# (TensorRT-LLM 1.1 docs: features/quantization.md)

if [ "$bad_cases" -gt 0 ]; then
  echo "$bad_cases cases failed or are invalid" >&2
  exit 2
fi
