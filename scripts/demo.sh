#!/usr/bin/env bash
# The demo itself; `make demo` does the set-up, the build, the model and the texts before it.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
grid=grids/demo.toml
journal=demo/journal.jsonl
mkdir -p demo

echo "== demo: quantizing SmolLM2-135M, measuring every case of $grid (a case that was done is not done again)"
status=0
bin/quantgrid run "$grid" --model-dir models --journal "$journal" || status=$?
# 2: some cases failed; the report shows which.
((status == 0 || status == 2)) || exit "$status"
echo "== demo: report.html"
bin/quantgrid report "$journal" --grid "$grid" -o report.html
echo "== demo: the pick"
bin/quantgrid pick "$journal" --grid "$grid"
echo "== demo: done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s; open report.html in a browser"
exit "$status"
