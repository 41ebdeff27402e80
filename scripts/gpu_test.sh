#!/usr/bin/env bash
# Tests of the kernels and the CUDA executor, on a machine with a GPU; one line a test program goes to a journal.
#   scripts/gpu_test.sh [--journal FILE] [--filter GTEST_FILTER]
# Takes build/cuda/test_gpu where it is built already (`make gpu` builds it too).
set -euo pipefail
cd "$(dirname "$0")/.."
journal=results/gpu-test.jsonl
filter='*'
while (($#)); do
  case "$1" in
    --journal) journal=$2; shift 2 ;;
    --filter) filter=$2; shift 2 ;;
    *) echo "gpu_test: --journal FILE or --filter PATTERN, not '$1'" >&2; exit 1 ;;
  esac
done
[[ -x build/cuda/test_gpu ]] || { echo "gpu_test: build/cuda/test_gpu is not there; run 'make gpu'" >&2; exit 4; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
status=0
build/cuda/test_gpu --gtest_brief=1 --gtest_filter="$filter" --gtest_output="json:$out/result.json" || status=$?
python3 scripts/gpu_journal.py "$out/result.json" "$(scripts/gpu_hash.sh)" "$journal"
exit $status
