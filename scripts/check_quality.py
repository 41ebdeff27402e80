#!/usr/bin/env python3
"""Holds the quantizers to their targets, also on texts that nothing was tuned on.

    scripts/check_quality.py [--program bin/quantgrid] [--executor cpu|cuda] [--work FOLDER] [--only fp8,int8,…]
                             [--texts tuned,policy,…] [--windows 8] [--json FILE]

Quantizes SmolLM2 (and, for INT4, its rotated copy) once per format and scores each on
  tuned       the 8 windows of models/texts/evaluation.txt that all published figures are of
  later       8 windows further on in the same text
  manual      8 windows of Debian's reference manual that calibration has not read
  developers  Debian's developers-reference  } where scripts/make_texts.py --more has made them
  policy      Debian's policy manual         }
KL divergence against the 16-bit model must stay below the format's target on `tuned`. On the other texts the base itself
is surer or less sure of the next token, which scales every KL: the bound there is the target times the ratio of what
plain rounding costs on that text to what it costs on `tuned`. Exit 3 when a bound is missed. About 40 minutes on two
cores; folders and scores in --work are used again, also by quality_table.py.
"""
import argparse
import pathlib
import sys
import tempfile

from quality import CALIBRATION, EVALUATION, FORMS, Bench, add_bench_options

TARGETS = {"fp8": 0.036, "fp8_dynamic": 0.030, "int8": 0.016, "int4": 0.20, "int4_rotated": None}  # KL; None: a ratio
ROTATED_RATIO = 0.6  # of what plain rounding costs on the same text
MORE = {"developers": "developers-reference.txt", "policy": "debian-policy.txt"}


def make_texts(work, more):
    """The texts by name. Windows are cut from the start of a file, so what was seen is cut off first."""
    evaluation, manual = pathlib.Path(EVALUATION).read_bytes(), pathlib.Path(CALIBRATION).read_bytes()
    texts = {"tuned": pathlib.Path(EVALUATION)}
    for name, text in {"later": evaluation[len(evaluation) // 2:], "manual": manual[len(manual) // 2:]}.items():
        texts[name] = work / f"{name}.txt"
        texts[name].write_bytes(text[text.index(b"\n") + 1:])
    for name, file in MORE.items():
        if (pathlib.Path(more) / file).exists():
            texts[name] = pathlib.Path(more) / file
        else:
            print(f"check_quality: no {file} in {more}: scripts/make_texts.py --more makes it", file=sys.stderr)
    return texts


def chosen(options, name, known):
    if not options:
        return list(known)
    for one in options.split(","):
        if one not in known:
            sys.exit(f"check_quality: {name} has {one}, which is none of {', '.join(known)}")
    return options.split(",")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bench_options(parser)
    parser.add_argument("--only", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--texts", help="texts to score; the bounds of all are made from what plain rounding costs on tuned")
    parser.add_argument("--more-texts", default="models/texts", help="where make_texts.py --more put its texts")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--json")
    options = parser.parse_args()
    kept = tempfile.TemporaryDirectory() if not options.work else None
    bench = Bench(options.program, options.work or kept.name, options.executor)
    texts, rows, missed = make_texts(bench.work, options.more_texts), [], 0
    names = chosen(options.texts, "--texts", texts)

    print(f"{'format':14} {'text':10} {'KL':>8} {'95 %':>18} {'plain':>8} {'bound':>8}")
    forms = chosen(options.only, "--only", TARGETS)
    scores = {}  # (form, variant, text)
    for base in sorted({FORMS[form][1] for form in forms}):
        made = [(form, variant) for form in forms for variant in ("", "plain") if FORMS[form][1] == base]
        folders = [bench.folder(form, variant) for form, variant in made]
        for name in dict.fromkeys(["tuned", *names]):
            for one, score in zip(made, bench.score_all(folders, texts[name], base, options.windows)):
                scores[(*one, name)] = score
    for form in forms:
        target, on_tuned = TARGETS[form], scores[form, "plain", "tuned"]["kld_mean"]
        for name in names:
            ours, nearest = scores[form, "", name], scores[form, "plain", name]["kld_mean"]
            value, (low, high) = ours["kld_mean"], ours["kld_mean_ci"]
            bound = ROTATED_RATIO * nearest if target is None else target * nearest / on_tuned
            verdict = "" if value <= bound else "  MISSED"
            missed += value > bound
            print(f"{form:14} {name:10} {value:8.4f} {f'[{low:.4f}, {high:.4f}]':>18} {nearest:8.4f} {bound:8.4f}{verdict}",
                  flush=True)
            rows.append({"format": form, "text": name, "text_sha256": ours["text_sha256"], "kld_mean": value,
                         "kld_mean_ci": [low, high], "plain": nearest, "bound": bound,
                         **{key: ours[key] for key in ("ppl", "ppl_ci", "base_ppl", "top1", "top1_ci", "protocol")}})
    if options.json:
        bench.write_json(options.json, rows)
    if missed:
        print(f"check_quality: {missed} bounds missed")
    sys.exit(3 if missed else 0)


if __name__ == "__main__":
    main()
