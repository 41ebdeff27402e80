#!/usr/bin/env bash
# Writes results/summary.json and the tables in the READMEs from the journals in results/; --check only looks whether they
# are current (exit 3 when not).
set -euo pipefail
cd "$(dirname "$0")/.."
program=${QUANTGRID:-bin/quantgrid}
[[ -x "$program" ]] || { echo "results: $program is not there; run 'make build'" >&2; exit 4; }
mapfile -t journals < <(find results -name '*.jsonl' ! -name 'gpu-*' 2>/dev/null | sort)
if ((${#journals[@]} == 0)); then
  echo "results: there is no journal in results/ yet"
  exit 0
fi
readmes=()
for readme in README.md README.zh-CN.md docs/quantization.md; do
  [[ -f "$readme" ]] && grep -q '<!-- results:' "$readme" && readmes+=(--readme "$readme")
done
echo "== results: summary and tables from ${#journals[@]} journals"
"$program" report "${journals[@]}" --summary results/summary.json "${readmes[@]}" "$@"
