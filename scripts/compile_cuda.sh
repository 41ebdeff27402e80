#!/usr/bin/env bash
# Compiles the CUDA code and what calls it for one architecture, and links the GPU tests, to show that it compiles; runs
# nothing. Without nvcc it says so and ends.
#   scripts/compile_cuda.sh [90a]
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-90a}
nvcc=$(command -v nvcc || true)
[[ -n "$nvcc" ]] || nvcc="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
if [[ ! -x "$nvcc" ]]; then
  echo "== cuda: no nvcc on this machine, so the CUDA code is not compiled"
  exit 0
fi
echo "== cuda: compiling for sm_$arch with $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/nvcc \1/p')"
cmake -S . -B build/cuda-check -G Ninja -DCMAKE_BUILD_TYPE=Release -DQG_CUDA=ON -DCMAKE_CUDA_COMPILER="$nvcc" \
  -DQG_CUDA_ARCHITECTURES="$arch-real" >build/cuda-check.log 2>&1 || { cat build/cuda-check.log; exit 1; }
cmake --build build/cuda-check --target test_gpu bench_gpu
echo "cuda: $(find src -name '*.cu' | wc -l) kernel files compile, and the GPU tests link"
