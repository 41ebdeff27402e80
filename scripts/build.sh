#!/usr/bin/env bash
# Configures a preset of CMakePresets.json and builds targets of it: scripts/build.sh PRESET TARGET...
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
shift

for tool in cmake ninja; do
  command -v "$tool" >/dev/null || { echo "build: $tool is not installed; run 'make setup'" >&2; exit 4; }
done
echo "== build: preset $preset: $*"
cmake --preset "$preset" >"/tmp/quantgrid-configure.$$" 2>&1 || { cat "/tmp/quantgrid-configure.$$"; rm -f "/tmp/quantgrid-configure.$$"; exit 1; }
grep -- '-- quantgrid:' "/tmp/quantgrid-configure.$$" || true
rm -f "/tmp/quantgrid-configure.$$"
cmake --build "build/$preset" --target "$@"
