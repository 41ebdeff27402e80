#!/usr/bin/env bash
# The 45 cases across targets, on a machine with a GPU: every operation of a two-layer model of each case's real shape
# against the CPU's on the same values, and its logits against the CPU executor's. One line a case goes to a journal.
#   scripts/gpu_cases.sh [--journal FILE] [--model llama-3.2-3b|llama-3.1-8b|mistral-7b]
set -euo pipefail
cd "$(dirname "$0")/.."
journal=results/gpu-cases.jsonl
filter='*GridCases*'
while (($#)); do
  case "$1" in
    --journal) journal=$2; shift 2 ;;
    --model) filter="*GridCases*/${2//[^a-z0-9]/_}"; shift 2 ;;
    *) echo "gpu_cases: --journal FILE or --model NAME, not '$1'" >&2; exit 1 ;;
  esac
done
program=${QG_TEST_GPU:-build/cuda/test_gpu}
[[ -x "$program" ]] || { echo "gpu_cases: $program is not there; run 'make gpu'" >&2; exit 4; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
status=0
QG_CASES_OUT="$out/cases.jsonl" "$program" --gtest_brief=1 --gtest_filter="$filter" || status=$?
touch "$out/cases.jsonl"
python3 scripts/gpu_journal.py --lines "$out/cases.jsonl" "${QG_KERNELS_HASH:-$(scripts/gpu_hash.sh)}" "$journal"
exit $status
