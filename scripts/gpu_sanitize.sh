#!/usr/bin/env bash
# A reduced list of the GPU tests under compute-sanitizer, on a machine with a GPU: memory errors, races in shared memory,
# wrong barriers. One log holds everything that it said.
#   scripts/gpu_sanitize.sh [--out FILE] [--tools 'memcheck racecheck synccheck'] [--seconds N]    N: for each tool
# (racecheck takes minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
out=results/gpu-sanitize.txt
tools='memcheck racecheck synccheck'
seconds=600
while (($#)); do
  case "$1" in
    --out) out=$2; shift 2 ;;
    --tools) tools=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    *) echo "gpu_sanitize: --out FILE, --tools NAMES or --seconds N, not '$1'" >&2; exit 1 ;;
  esac
done
program=${QG_TEST_GPU:-build/cuda/test_gpu}
[[ -x "$program" ]] || { echo "gpu_sanitize: $program is not there; run 'make gpu'" >&2; exit 4; }
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
[[ -x "$sanitizer" ]] || { echo "gpu_sanitize: there is no compute-sanitizer; it comes with the CUDA toolkit" >&2; exit 4; }

# Two tools do not understand kernels that are not ours (docs/kernels.md). synccheck takes every thread that fills the
# stages of FlashInfer's prefill kernel and never waits for them for one that forgot to. racecheck reports cuBLASLt's
# products of blocks that copy for each other, and dies of an exception where those kernels alone are left out: it gets
# no test that runs them.
unwatched_by_synccheck='--kernel-name-exclude kernel_substring=PrefillWithKVCacheKernel'
not_for_racecheck='-Short.TuningWithRoom'
filter='Short*:All/ShortLinear*:AddRmsNorm.StartsFromTheEmbedding*:ArgmaxRows*'
status=0
{
  echo "# $(date -u +%Y-%m-%dT%H:%M:%SZ), $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1)," \
    "commit ${QG_COMMIT:-$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)}," \
    "kernels ${QG_KERNELS_HASH:-$(scripts/gpu_hash.sh)}"
  for tool in $tools; do
    began=$SECONDS
    code=0
    unwatched=''
    tests=$filter
    [[ "$tool" == synccheck ]] && unwatched=$unwatched_by_synccheck
    [[ "$tool" == racecheck ]] && tests=$filter$not_for_racecheck
    # Errors make the sanitizer's own exit code 9, apart from a failed test's 1.
    # shellcheck disable=SC2086
    timeout "$seconds" "$sanitizer" --tool "$tool" $unwatched --error-exitcode 9 --print-limit 20 \
      "$program" --gtest_filter="$tests" 2>&1 || code=$?
    case $code in
      0) verdict='nothing found' ;;
      9) verdict='ERRORS, see above' ;;
      124) verdict="stopped after $seconds s: tests not started are not checked; give --seconds more" ;;
      *) verdict="tests failed, exit $code" ;;
    esac
    ((code == 0)) || status=1
    echo "## $tool: $verdict, $((SECONDS - began)) s"
  done
  exit $status
} | tee "$out.tmp" | grep -v '^\[ *\(RUN\|OK\|-*\|=*\) *\]' || status=1
mv "$out.tmp" "$out"
exit "$status"
