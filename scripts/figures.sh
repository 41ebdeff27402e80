#!/usr/bin/env bash
# The accuracy figures of the documents, by the CPU executor: the grid of every format, then variants that no grid names
# (FP8 with per-token activations; INT4 on the rotated base, ours and round to nearest). About 15 minutes on two cores.
#   scripts/figures.sh [grid|variants]     both when nothing is said
# Writes results/smollm2-accuracy.jsonl (a journal) and results/smollm2-variants.json.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
program=bin/quantgrid
[[ -x "$program" ]] || { echo "figures: $program is not there; run 'make build model texts rotated'" >&2; exit 4; }
calibration=models/texts/calibration.txt
evaluation=models/texts/evaluation.txt

if [[ "$what" != variants ]]; then
  echo "== figures: every weight format with every KV format"
  "$program" run grids/smollm2-accuracy.toml --journal results/smollm2-accuracy.jsonl
fi
[[ "$what" == grid ]] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=results/smollm2-variants.json
# variant NAME BASE FLAGS...: quantizes, evaluates, and adds one object to the list.
variant() {
  local name=$1 base=$2
  shift 2
  echo "== figures: $name"
  "$program" quantize --model "$base" --calib "$calibration" --out "$work/$name" --seed 1 --json "$@" >"$work/$name.quantize.json"
  "$program" eval --model "$work/$name" --base "$base" --text "$evaluation" --json >"$work/$name.eval.json"
  rm -rf "${work:?}/$name"
}
variant fp8_per_token models/smollm2-135m-instruct --weights fp8 --activations dynamic
variant int4_rotated models/smollm2-135m-rotated --weights int4_awq
variant int4_rotated_nearest models/smollm2-135m-rotated --weights int4_awq --no-search --alpha 0 --no-clip --no-error-feedback
python3 - "$work" "$out" "$("$program" --version)" <<'PYTHON'
import json, os, platform, sys, datetime
work, out, version = sys.argv[1:]
cpu = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
rows = []
for name in ("fp8_per_token", "int4_rotated", "int4_rotated_nearest"):
    evaluation = json.load(open(f"{work}/{name}.eval.json"))
    quantize = json.load(open(f"{work}/{name}.quantize.json"))
    quantize.pop("out")
    rows.append({"variant": name, "eval": evaluation, "quantize": quantize})
ratio = rows[1]["eval"]["kld_mean"] / rows[2]["eval"]["kld_mean"]
document = {"date": datetime.date.today().isoformat(), "machine": f"{cpu}, {os.cpu_count()} cores", "program": version,
            "command": "scripts/figures.sh variants", "int4_rotated_over_nearest": ratio, "variants": rows}
with open(out + ".tmp", "w") as f:
    json.dump(document, f, indent=1)
os.replace(out + ".tmp", out)
for row in rows:
    print(f'{row["variant"]:22} ppl {row["eval"]["ppl"]:.3f}  KL {row["eval"]["kld_mean"]:.5f}  top-1 {row["eval"]["top1"]:.4f}')
print(f"INT4 on the rotated base: {ratio:.2f} of the KL of round to nearest")
PYTHON
