#!/usr/bin/env bash
# Llama-3.2-3B on H100 80 GB SXM5, vLLM: 3 cases, 3 of them supported.
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
  'H100 80GB HBM3') ;;
  *) echo "this script is for h100, here is $gpu" >&2; exit 4 ;;
esac
command -v vllm > /dev/null || { echo "vllm is not on the PATH; install: pip install vllm==0.12.0" >&2; exit 4; }
version=$(python3 -c 'from importlib.metadata import version; print(version("vllm"))' 2> /dev/null) ||
  version=unknown
case $version in
  0.12*) ;;
  *) echo "warning: written for vllm 0.12, here is $version" >&2 ;;
esac
echo "$version" > "$results/vllm.version"
nvidia-smi -q -i "$CUDA_VISIBLE_DEVICES" > "$results/gpu-h100.txt"

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

# Cache type in the line of the log that lists the engine's configuration. (vLLM 0.12, vllm/config/vllm.py)
reported_kv() {
  case $(grep -o -m 1 -E "kv_cache_dtype='?[a-z0-9_]+" "$1" || true) in
    *fp8*) echo fp8 ;;
    *auto|*float16) echo fp16 ;;
    *) echo unknown ;;
  esac
}

# check_folder FOLDER KV: the compressed-tensors layout, and no cache type of its own: it serves both caches.
check_folder() {
  local file="$1/config.json"
  grep -q '"quant_method": *"compressed-tensors"' "$file" ||
    { echo "not in the compressed-tensors layout: $file" >&2; return 1; }
  if grep -q '"kv_cache_scheme": *{' "$file"; then
    echo "$file fixes a cache type (kv_cache_scheme); export the folder without" >&2
    return 1
  fi
}

# Case 5: llama-3.2-3b/h100/fp8/kv_fp16 (must)
# native: FP8 weights and activations are multiplied by FP8 tensor cores; the KV cache is FP16
# (vLLM docs: features/quantization, supported hardware)
# CHECK: a token of fp16 cache takes 114688 bytes; memory of the cache over its tokens, both in the log, must say the same.
case_5_fp8_kv_fp16() {
  local bad=0
  # A folder in the compressed-tensors layout, made by any tool; what it says of its cache is checked.
  make_folder models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
    quantgrid quantize \
      --model models/llama-3.2-3b-instruct \
      --weights fp8 \
      --layout compressed-tensors \
      --calib models/texts/calibration.txt \
      --calib-sequences 512 \
      --calib-tokens 512 \
      --search-tokens 4096 \
      --seed 1 \
      --out models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 || return 1
  check_folder models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 fp16 || return 1

  # --- decode/b1
  # One batch, started together, timed from first to last token; EOS is ignored.
  #   (vllm/benchmarks/latency.py, 0.12)
  # --kv-cache-dtype auto: the model's 16-bit type, unless the folder asks for FP8 (kv_cache_scheme in its
  #   config.json), which auto then obeys (vllm/utils/torch_utils.py, resolve_kv_cache_dtype_string).
  #   The folder is checked for it. Newer versions also take float16 or bfloat16, which always win.
  # --no-enable-prefix-caching: rounds repeat the same prompts; the latency benchmark switches it off too.
  # --disable-detokenize: trtllm-bench and our own engine count tokens, not text.
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b1/first fp16 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 1 \
      --batch-size 1 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b1/first.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  # Output tokens/s of decoding: 1 * 255 / (avg_latency of total - avg_latency of first).
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b1/total fp16 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 256 \
      --batch-size 1 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b1/total.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- decode/b8
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b8/first fp16 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 1 \
      --batch-size 8 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b8/first.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  # Output tokens/s of decoding: 8 * 255 / (avg_latency of total - avg_latency of first).
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b8/total fp16 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 256 \
      --batch-size 8 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b8/total.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- decode/b64
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b64/first fp16 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 1 \
      --batch-size 64 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b64/first.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  # Output tokens/s of decoding: 64 * 255 / (avg_latency of total - avg_latency of first).
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b64/total fp16 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 256 \
      --batch-size 64 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp16/decode/b64/total.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- 1000/1000
  # All requests at once. tokens_per_second of the report counts prompts too: output tokens/s is
  #   num_requests * 1000 / elapsed_time. (vllm/benchmarks/throughput.py, 0.12)
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp16/1000/1000/total fp16 \
    vllm bench throughput \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --dataset-name random \
      --input-len 1000 \
      --output-len 1000 \
      --num-prompts 1500 \
      --seed 1 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp16/1000/1000/total.json \
      --kv-cache-dtype auto \
      --max-model-len 2064 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  return $bad
}
run_case llama-3.2-3b/h100/fp8/kv_fp16 case_5_fp8_kv_fp16

# Case 6: llama-3.2-3b/h100/fp8/kv_fp8 (must)
# native: FP8 weights and activations are multiplied by FP8 tensor cores; the card converts the FP8 KV cache in hardware
# (vLLM docs: features/quantization, supported hardware)
# CHECK: a token of fp8 cache takes 57344 bytes; memory of the cache over its tokens, both in the log, must say the same.
case_6_fp8_kv_fp8() {
  local bad=0
  # A folder in the compressed-tensors layout, made by any tool; what it says of its cache is checked.
  make_folder models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
    quantgrid quantize \
      --model models/llama-3.2-3b-instruct \
      --weights fp8 \
      --layout compressed-tensors \
      --calib models/texts/calibration.txt \
      --calib-sequences 512 \
      --calib-tokens 512 \
      --search-tokens 4096 \
      --seed 1 \
      --out models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 || return 1
  check_folder models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 fp8 || return 1

  # --- decode/b1
  # --kv-cache-dtype fp8: e4m3 on NVIDIA cards, with the checkpoint's scales where it has them, else 1.0
  #   (vLLM docs, features/quantization/quantized_kvcache).
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b1/first fp8 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 1 \
      --batch-size 1 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b1/first.json \
      --kv-cache-dtype fp8 \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b1/total fp8 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 256 \
      --batch-size 1 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b1/total.json \
      --kv-cache-dtype fp8 \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- decode/b8
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b8/first fp8 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 1 \
      --batch-size 8 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b8/first.json \
      --kv-cache-dtype fp8 \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b8/total fp8 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 256 \
      --batch-size 8 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b8/total.json \
      --kv-cache-dtype fp8 \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- decode/b64
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b64/first fp8 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 1 \
      --batch-size 64 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b64/first.json \
      --kv-cache-dtype fp8 \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b64/total fp8 \
    vllm bench latency \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --input-len 128 \
      --output-len 256 \
      --batch-size 64 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp8/decode/b64/total.json \
      --kv-cache-dtype fp8 \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- 1000/1000
  measure out/results/llama-3.2-3b/h100/fp8/kv_fp8/1000/1000/total fp8 \
    vllm bench throughput \
      --model models/compressed-tensors/llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \
      --dataset-name random \
      --input-len 1000 \
      --output-len 1000 \
      --num-prompts 1500 \
      --seed 1 \
      --output-json out/results/llama-3.2-3b/h100/fp8/kv_fp8/1000/1000/total.json \
      --kv-cache-dtype fp8 \
      --max-model-len 2064 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  return $bad
}
run_case llama-3.2-3b/h100/fp8/kv_fp8 case_6_fp8_kv_fp8

# Case 31: llama-3.2-3b/h100/fp16/kv_fp16 (baseline)
# native: FP16 weights are multiplied as they are; the KV cache is FP16
# (vLLM docs: features/quantization, supported hardware)
# CHECK: a token of fp16 cache takes 114688 bytes; memory of the cache over its tokens, both in the log, must say the same.
case_31_fp16_kv_fp16() {
  local bad=0
  need models/llama-3.2-3b-instruct || return 1

  # --- decode/b1
  measure out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b1/first fp16 \
    vllm bench latency \
      --model models/llama-3.2-3b-instruct \
      --input-len 128 \
      --output-len 1 \
      --batch-size 1 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b1/first.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  measure out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b1/total fp16 \
    vllm bench latency \
      --model models/llama-3.2-3b-instruct \
      --input-len 128 \
      --output-len 256 \
      --batch-size 1 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b1/total.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- decode/b8
  measure out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b8/first fp16 \
    vllm bench latency \
      --model models/llama-3.2-3b-instruct \
      --input-len 128 \
      --output-len 1 \
      --batch-size 8 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b8/first.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  measure out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b8/total fp16 \
    vllm bench latency \
      --model models/llama-3.2-3b-instruct \
      --input-len 128 \
      --output-len 256 \
      --batch-size 8 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b8/total.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- decode/b64
  measure out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b64/first fp16 \
    vllm bench latency \
      --model models/llama-3.2-3b-instruct \
      --input-len 128 \
      --output-len 1 \
      --batch-size 64 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b64/first.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  measure out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b64/total fp16 \
    vllm bench latency \
      --model models/llama-3.2-3b-instruct \
      --input-len 128 \
      --output-len 256 \
      --batch-size 64 \
      --num-iters-warmup 2 \
      --num-iters 5 \
      --output-json out/results/llama-3.2-3b/h100/fp16/kv_fp16/decode/b64/total.json \
      --kv-cache-dtype auto \
      --max-model-len 448 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1

  # --- 1000/1000
  measure out/results/llama-3.2-3b/h100/fp16/kv_fp16/1000/1000/total fp16 \
    vllm bench throughput \
      --model models/llama-3.2-3b-instruct \
      --dataset-name random \
      --input-len 1000 \
      --output-len 1000 \
      --num-prompts 1500 \
      --seed 1 \
      --output-json out/results/llama-3.2-3b/h100/fp16/kv_fp16/1000/1000/total.json \
      --kv-cache-dtype auto \
      --max-model-len 2064 \
      --gpu-memory-utilization 0.9 \
      --no-enable-prefix-caching \
      --disable-detokenize || bad=1
  return $bad
}
run_case llama-3.2-3b/h100/fp16/kv_fp16 case_31_fp16_kv_fp16

if [ "$bad_cases" -gt 0 ]; then
  echo "$bad_cases cases failed or are invalid" >&2
  exit 2
fi
