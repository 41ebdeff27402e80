#!/usr/bin/env bash
# The parts that need CUDA: scripts/gpu.sh build|test|cases|sanitize|bench|speed [ARGS...]
# QG_CUDA_ARCHITECTURES=90a-real builds for one card (80, 86, 89 or 90a) and takes less time (results/gpu-build-*.txt).
# Exit 4 where this machine cannot do it.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1
shift

fail() { echo "gpu: $*" >&2; exit 4; }

nvcc=$(command -v nvcc || true)
if [[ -z "$nvcc" ]]; then
  nvcc="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
fi
[[ -x "$nvcc" ]] || fail "there is no nvcc. CUDA toolkit 13.0 is needed: https://developer.nvidia.com/cuda-13-0-0-download-archive" \
  "(package cuda-toolkit-13-0 of NVIDIA's repository for Debian 12 or Ubuntu 24.04); then put its bin folder on the PATH or set CUDA_HOME"

case "$what" in
  build)
    QG_CMAKE_ARGS=${QG_CUDA_ARCHITECTURES:+-DQG_CUDA_ARCHITECTURES=$QG_CUDA_ARCHITECTURES} CUDACXX=$nvcc \
      scripts/build.sh cuda quantgrid test_gpu bench_gpu
    scripts/place_binary.sh build/cuda/quantgrid bin/quantgrid-cuda
    ;;
  test | cases | sanitize | bench | speed)
    [[ -x "scripts/gpu_$what.sh" ]] || fail "scripts/gpu_$what.sh is not there yet"
    exec "scripts/gpu_$what.sh" "$@"
    ;;
  *) fail "build, test, cases, sanitize, bench or speed, not '$what'" ;;
esac
