#!/usr/bin/env bash
# Configures a preset of CMakePresets.json and builds targets of it: scripts/build.sh PRESET TARGET...
# QG_CMAKE_ARGS: more arguments for cmake.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift

for tool in cmake ninja; do
  command -v "$tool" >/dev/null || { echo "build: $tool is not installed; run 'make setup'" >&2; exit 4; }
done
echo "== build: preset $preset: $*"
read -ra extra <<<"${QG_CMAKE_ARGS:-}"
configured=$(cmake --preset "$preset" "${extra[@]}" 2>&1) || { echo "$configured"; exit 1; }
grep -- '-- quantgrid:' <<<"$configured" || true
quiet=()
[[ -t 1 ]] || quiet=(-- --quiet)
cmake --build "build/$preset" --target "$@" "${quiet[@]}"
echo "== build: preset $preset took $SECONDS s"
