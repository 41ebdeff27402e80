#!/usr/bin/env bash
# clang-tidy over every source in build/cpu's compilation database: scripts/tidy.sh [FILE...]
set -euo pipefail
cd "$(dirname "$0")/.."
command -v clang-tidy >/dev/null || { echo "tidy: clang-tidy is not installed: apt-get install clang-tidy" >&2; exit 4; }
[[ -f build/cpu/compile_commands.json ]] || { echo "tidy: build/cpu is not configured: make build" >&2; exit 4; }
if (($#)); then
  files=("$@")
else
  mapfile -t files < <(find src apps -name '*.cc' | sort)
fi
echo "== tidy: ${#files[@]} files"
printf '%s\n' "${files[@]}" | xargs -P 2 -n 4 clang-tidy -p build/cpu --quiet
