#!/usr/bin/env python3
"""Holds checkpoint folders against the grid that needs them: names, counts, formats, sizes, KV scales, soundness.

    quantgrid plan GRID --json > cases.json
    quantgrid plan GRID --checkpoints --json > checkpoints.json
    quantgrid inspect FOLDER --json > FOLDER.json          # for each folder
    scripts/check_plan_folders.py cases.json checkpoints.json FOLDER.json… [--model M] [--matrix FILE.md]

--model: only that model's checkpoints are expected. --matrix: a test matrix written for people (tables of numbered cases,
folder names in backquotes); the grid's cases must be its cases, and its folders must be made. Exit code 1 when anything
differs, with a line for each difference.
"""

import argparse
import json
import re
import sys
from pathlib import Path

WORDS = {"w4a16 awq": "int4_awq", "int8 smoothquant (w8a8)": "int8_sq"}
SIZE_MARGIN = 0.01  # of the plan's estimate of a folder's bytes, which leaves out headers, tokenizer and KV shaping


def word(text):
    text = text.strip().lower()
    return WORDS.get(text, text)


def rows_of(text):
    """Numbered cases of a matrix: number -> (model, gpu, weights, kv)."""
    cases = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) >= 5 and cells[0].isdigit():
            if int(cells[0]) in cases:
                sys.exit(f"check_plan_folders: the matrix numbers two cases {cells[0]}")
            cases[int(cells[0])] = tuple(word(cell) for cell in cells[1:5])
    return cases


def against_matrix(cases, checkpoints, text):
    wanted = rows_of(text)
    have = {case["number"]: (case["model"], case["gpu"], case["weights"], case["kv"]) for case in cases}
    for number in sorted(wanted.keys() | have.keys()):
        if wanted.get(number) != have.get(number):
            yield f"case {number}: {wanted.get(number)} in the matrix, {have.get(number)} in the grid"
    names = set(re.findall(r"`([a-z0-9.-]+-trtllm-ckpt-wq_\w+-kv_\w+)`", text))
    if not names:
        yield "the matrix names no checkpoint folder"
    for name in sorted(names - {c["checkpoint"] for c in checkpoints if c["origin"] == "quantized"}):
        yield f"{name}: in the matrix, but nothing in the grid needs it"
    served = [number for c in checkpoints for number in c["cases"]]
    if sorted(served) != sorted(wanted):
        yield f"the checkpoints serve the cases {sorted(served)}, the matrix has {sorted(wanted)}"


def against_plan(checkpoint, cases, folder):
    """What is wrong with one folder, as `inspect --json` describes it."""
    quant, lineage, shape = folder["quantization"], folder["lineage"] or {}, folder["shape"]
    widths = (shape["hidden"], shape["heads"] * shape["head_dim"], shape["ffn"])
    group = next((size for size in (128, 64, 32) if all(width % size == 0 for width in widths)), None)
    expected = {
        "sound": (folder["sound"], True),
        "layout": (folder["layout"], checkpoint["layout"]),
        "weights": (quant["weights"], checkpoint["weights"]),
        "weights of its lineage": (lineage.get("recipe", {}).get("weights"), checkpoint["weights"]),
        "KV format that is fixed": (quant["fixed_kv"], None),
        "group size": (quant["group_size"], group if checkpoint["weights"] == "int4_awq" else None),
        "lm_head left as it is": ("lm_head" in quant["exclude"], True),
    }
    for case in cases:
        if case["kv"] != "fp16":
            expected[f"{case['kv']} scales for case {case['number']}"] = (folder["kv_scales"][case["kv"]], True)
        element = 2 if case["kv"] == "fp16" else 1
        expected[f"KV bytes a token of case {case['number']}"] = (
            2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"] * element, case["kv_bytes_per_token"])
    for what, (found, wanted) in expected.items():
        if found != wanted:
            yield f"{what}: {found}, expected {wanted}"
    size = folder["bytes"]["files"]
    if abs(size - checkpoint["disk_bytes"]) > SIZE_MARGIN * checkpoint["disk_bytes"]:
        yield f"{size} bytes of files, the plan says {checkpoint['disk_bytes']}"
    for problem in folder["problems"]:
        yield f"inspect: {problem}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--model")
    parser.add_argument("--matrix", type=Path)
    flags = parser.parse_args()
    cases, checkpoints = (json.loads(path.read_text(encoding="utf-8")) for path in (flags.cases, flags.checkpoints))
    folders, problems = {}, []
    for path in flags.folders:
        folder = json.loads(path.read_text(encoding="utf-8"))
        name = Path(folder["folder"]).name
        if name in folders:
            problems.append(f"{name}: described twice")
        folders[name] = folder
    needed = {c["checkpoint"]: c for c in checkpoints
              if c["origin"] == "quantized" and flags.model in (None, c["model"])}
    for name in sorted(needed.keys() - folders.keys()):
        problems.append(f"{name}: not there; cases {needed[name]['cases']} need it")
    for name in sorted(folders.keys() - needed.keys()):
        problems.append(f"{name}: no case needs it")
    for name in sorted(needed.keys() & folders.keys()):
        served = [case for case in cases if case["checkpoint"] == name]
        if [case["number"] for case in served] != needed[name]["cases"]:
            problems.append(f"{name}: the plan's two lists differ in its cases")
        problems += [f"{name}: {problem}" for problem in against_plan(needed[name], served, folders[name])]
    if flags.matrix:
        problems += against_matrix(cases, checkpoints, flags.matrix.read_text(encoding="utf-8"))
    for problem in problems:
        print(f"check_plan_folders: {problem}")
    if problems:
        sys.exit(1)
    served = sum(len(c["cases"]) for c in needed.values())
    print(f"check_plan_folders: {len(needed)} folders for {served} cases are as the plan needs them")


if __name__ == "__main__":
    main()
