#!/usr/bin/env bash
# Benchmarks of the kernels, on a machine with a GPU: time, bandwidth, operations a second, for every format and row count.
#   scripts/gpu_bench.sh [--filter GTEST_FILTER] [--out FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
filter='*Speed*'
out=results/gpu-bench.txt
while (($#)); do
  case "$1" in
    --filter) filter=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    *) echo "gpu_bench: --filter PATTERN or --out FILE, not '$1'" >&2; exit 1 ;;
  esac
done
[[ -x build/cuda/test_gpu ]] || { echo "gpu_bench: build/cuda/test_gpu is not there; run 'make gpu'" >&2; exit 4; }
{
  echo "# $(date -u +%Y-%m-%dT%H:%M:%SZ), $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1)," \
    "commit $(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown), kernels $(scripts/gpu_hash.sh)"
  build/cuda/test_gpu --gtest_also_run_disabled_tests --gtest_filter="$filter" --gtest_brief=1
} | tee "$out.tmp"
mv "$out.tmp" "$out"
