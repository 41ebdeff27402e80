#!/usr/bin/env bash
# The demo itself; `make demo` does the set-up, the build, the model and the texts before it.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
journal=demo/journal.jsonl
mkdir -p demo

echo "== demo: quantizing SmolLM2-135M, measuring accuracy and speed of every case (goes on where it stopped)"
bin/quantgrid run grids/demo.toml --model-dir models --out demo --journal "$journal"
echo "== demo: report.html"
bin/quantgrid report "$journal" -o report.html
echo "== demo: the pick"
bin/quantgrid pick "$journal"
echo "== demo: done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s; open report.html in a browser"
