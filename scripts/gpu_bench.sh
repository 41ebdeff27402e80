#!/usr/bin/env bash
# Benchmarks of the kernels, on a machine with a GPU: time, bandwidth, operations a second, for every format and row count.
#   scripts/gpu_bench.sh [--tables 'NAME...'] [--out FILE]
# Tables: linear linear_gate decode prefill append append_decode (these by default), linear_int4 linear_bf16 linear_tiles.
set -euo pipefail
cd "$(dirname "$0")/.."
tables=''
out=results/gpu-bench.txt
while (($#)); do
  case "$1" in
    --tables) tables=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    *) echo "gpu_bench: --tables NAMES or --out FILE, not '$1'" >&2; exit 1 ;;
  esac
done
[[ -x build/cuda/bench_gpu ]] || { echo "gpu_bench: build/cuda/bench_gpu is not there; run 'make gpu'" >&2; exit 4; }
{
  echo "# $(date -u +%Y-%m-%dT%H:%M:%SZ), $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1)," \
    "commit $(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown), kernels $(scripts/gpu_hash.sh)"
  build/cuda/bench_gpu $tables
} | tee "$out.tmp"
mv "$out.tmp" "$out"
