#!/usr/bin/env python3
"""Holds the quantizers to their targets, also on a text that nothing was tuned on.

    scripts/check_quality.py [--program bin/quantgrid] [--work FOLDER] [--only fp8,int8,…] [--json FILE]

Quantizes SmolLM2 (and, for INT4, its rotated copy) once per format and scores each on
  tuned    the 8 windows of models/texts/evaluation.txt that all published figures are of
  later    8 windows further on in the same text
  manual   8 windows of Debian's reference manual that calibration has not read
KL divergence against the 16-bit model must stay below the format's target on `tuned`. On the other texts the base itself
is surer or less sure of the next token, which scales every KL: the bound there is the target times the ratio of what
plain rounding costs on that text to what it costs on `tuned`. Exit 3 when a bound is missed. About 40 minutes on two
cores; folders in --work are used again.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

BASE, ROTATED = "models/smollm2-135m-instruct", "models/smollm2-135m-rotated"
CASES = {  # name: (base, flags, target KL)
    "fp8": (BASE, ["--weights", "fp8"], 0.036),
    "fp8_dynamic": (BASE, ["--weights", "fp8", "--activations", "dynamic"], 0.030),
    "int8": (BASE, ["--weights", "int8_sq"], 0.016),
    "int4": (BASE, ["--weights", "int4_awq", "--group-size", "64"], 0.20),
    "int4_rotated": (ROTATED, ["--weights", "int4_awq", "--group-size", "64"], None),  # against plain rounding
}
ROTATED_RATIO = 0.6
PLAIN = ["--no-search", "--no-clip", "--no-error-feedback", "--alpha", "0"]


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"check_quality: quantgrid {' '.join(map(str, arguments))} failed")
    return done.stdout


def make_texts(work):
    """The texts by name. Windows are cut from the start of a file, so what was seen is cut off first."""
    evaluation = pathlib.Path("models/texts/evaluation.txt").read_bytes()
    manual = pathlib.Path("models/texts/calibration.txt").read_bytes()
    texts = {"tuned": evaluation, "later": evaluation[len(evaluation) // 2:], "manual": manual[len(manual) // 2:]}
    for name, text in texts.items():
        (work / f"{name}.txt").write_bytes(text[text.index(b"\n") + 1:] if name != "tuned" else text)
    return {name: work / f"{name}.txt" for name in texts}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="bin/quantgrid")
    parser.add_argument("--work")
    parser.add_argument("--only")
    parser.add_argument("--json")
    options = parser.parse_args()
    kept = tempfile.TemporaryDirectory() if not options.work else None
    work = pathlib.Path(options.work or kept.name)
    work.mkdir(parents=True, exist_ok=True)
    texts, rows, missed = make_texts(work), [], 0

    def kl(base, name, flags):
        out = work / name
        if not (out / "config.json").exists():
            run(options.program, "quantize", "--model", base, "--calib", "models/texts/calibration.txt", "--out", out, *flags)
        scores = {}
        for text, path in texts.items():
            scores[text] = json.loads(run(options.program, "eval", "--model", out, "--base", base, "--text", path, "--json"))
        return scores

    print(f"{'format':14} {'text':8} {'KL':>8} {'95 %':>18} {'plain':>8} {'bound':>8}")
    for name, (base, flags, target) in CASES.items():
        if options.only and name not in options.only.split(","):
            continue
        ours, plain = kl(base, name, flags), kl(base, name + "-plain", flags + PLAIN)
        for text in texts:
            value, nearest = ours[text]["kld_mean"], plain[text]["kld_mean"]
            bound = ROTATED_RATIO * nearest if target is None else target * nearest / plain["tuned"]["kld_mean"]
            low, high = ours[text]["kld_mean_ci"]
            verdict = "" if value <= bound else "  MISSED"
            missed += value > bound
            print(f"{name:14} {text:8} {value:8.4f} {f'[{low:.4f}, {high:.4f}]':>18} {nearest:8.4f} {bound:8.4f}{verdict}",
                  flush=True)
            rows.append({"format": name, "text": text, "kld_mean": value, "kld_mean_ci": [low, high], "plain": nearest,
                         "bound": bound, "ppl": ours[text]["ppl"], "top1": ours[text]["top1"]})
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    if missed:
        print(f"check_quality: {missed} bounds missed")
    sys.exit(3 if missed else 0)


if __name__ == "__main__":
    main()
