#!/usr/bin/env bash
# The speed tables, on a machine with a GPU: scripts/gpu_speed.sh [--journal FILE] [--filter EXPR] [--points A,B]
# Goes on where it stopped: what is in the journal is not measured again.
set -euo pipefail
cd "$(dirname "$0")/.."
journal=results/h100-speed.jsonl
[[ "${1:-}" == --journal ]] && { journal=$2; shift 2; }
[[ -x bin/quantgrid-cuda ]] || { echo "gpu_speed: bin/quantgrid-cuda is not there; run 'make gpu'" >&2; exit 4; }
bin/quantgrid-cuda run grids/h100-speed.toml --weights-from synth:1 --journal "$journal" "$@"
