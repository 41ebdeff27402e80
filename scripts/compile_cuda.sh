#!/usr/bin/env bash
# Compiles every .cu file under src to an object file for one architecture, to show that it compiles; links nothing.
#   scripts/compile_cuda.sh [sm_90a]
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-sm_90a}
nvcc=$(command -v nvcc || true)
[[ -n "$nvcc" ]] || nvcc="${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
if [[ ! -x "$nvcc" ]]; then
  echo "== cuda: no nvcc on this machine, so the CUDA code is not compiled"
  exit 0
fi
mapfile -t sources < <(find src -name '*.cu' | sort)
if ((${#sources[@]} == 0)); then
  echo "== cuda: no CUDA sources yet"
  exit 0
fi
echo "== cuda: compiling ${#sources[@]} files for $arch with $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/nvcc \1/p')"
mkdir -p build/cuda-check
printf '%s\n' "${sources[@]}" | xargs -P 2 -I{} sh -c \
  'out=build/cuda-check/$(echo "$1" | tr / _).o; '"$nvcc"' -std=c++20 -arch='"$arch"' -Isrc -c "$1" -o "$out" || { echo "cuda: $1 does not compile" >&2; exit 255; }' _ {}
echo "cuda: ${#sources[@]} files compile"
