#!/usr/bin/env bash
# Makes the checkpoints that a grid's cases need: scripts/checkpoints.sh MODEL_DIR [GRID] [CALIB] [MORE ARGS of run...]
# On a GPU where bin/quantgrid-cuda and a card are there, else on the processor. What is there and sound is skipped, and
# interrupted work goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

models=${1:-} grid=${2:-grids/trt-llm-45.toml} calib=${3:-models/texts/calibration.txt}
shift $(($# < 3 ? $# : 3))
if [[ -z "$models" ]]; then
  echo "checkpoints: say where the models are: make checkpoints MODEL_DIR=/models (folders as in docs/checkpoints.md)" >&2
  exit 1
fi
if [[ ! -e "$calib" ]]; then
  echo "checkpoints: there is no $calib to calibrate on: make texts, or CALIB=FILE" >&2
  exit 1
fi
if [[ -x bin/quantgrid-cuda ]] && nvidia-smi -L >/dev/null 2>&1; then
  program=bin/quantgrid-cuda
elif [[ -x bin/quantgrid ]]; then
  program=bin/quantgrid
else
  echo "checkpoints: there is no bin/quantgrid-cuda or bin/quantgrid: make gpu, or make build" >&2
  exit 4
fi
echo "== checkpoints: $grid with models of $models, by $program"
exec "$program" run "$grid" --model-dir "$models" --calib "$calib" --checkpoints-only --journal "$models/checkpoints.jsonl" "$@"
