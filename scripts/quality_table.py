#!/usr/bin/env python3
"""Perplexity, KL divergence and top-1 of quantized checkpoints: Quantgrid's against those of Model Optimizer and AutoAWQ.

    scripts/quality_table.py [--tools quantgrid,modelopt,autoawq] [--only fp8,int4,…] [--variants ours,plain,…]
                             [--executor cpu|cuda] [--device cpu|cuda] [--work FOLDER] [--json FILE] [--md FILE]

Every form of ours is made as it is by default, without error feedback, (FP8) with scales from maxima alone, and rounded to
nearest. All tools get the same 16-bit model and the same calibration tokens (32 x 512 of models/texts/calibration.txt);
every folder that a tool exports is scored by `quantgrid eval` on the same windows. What modelopt makes is also scored before
it is exported, by transformers, since INT4 loses some on the way. For a person who has the packages (not part of any test):

    pip install nvidia-modelopt==0.47.0 torch transformers==5.23.0 accelerate requests      # modelopt
    pip install autoawq==0.2.9 transformers==4.51.3 datasets==3.6.0 torch                  # autoawq: an environment of its own

modelopt needs no GPU; AutoAWQ's search starts without one too. A tool whose package is not there is left out, and said. Group
size 64: 128 does not divide SmolLM2's width. Folders and scores of ours in --work are used again, also by check_quality.py.
"""
import argparse
import functools
import importlib.metadata
import importlib.util
import math
import pathlib
import shutil
import sys
import tempfile

from quality import BASE, CALIBRATION, EVALUATION, FORMS, GROUP, VARIANTS, Bench, add_bench_options, cell

MODELOPT = {"fp8": "FP8_DEFAULT_CFG", "int8_static": "INT8_SMOOTHQUANT_CFG", "int4": "INT4_AWQ_CFG"}
ONLY_FP8 = {"amax"}  # variants that say nothing new of the other formats


def row(tool, form, result, base=BASE):
    return {"tool": tool, "format": FORMS[form][0], "base": base, **{key: result[key] for key in
            ("ppl", "ppl_ci", "base_ppl", "kld_mean", "kld_mean_ci", "top1", "top1_ci", "protocol", "text_sha256") if key in result}}


def score(options, bench, folder):
    return bench.score(folder, options.text, BASE, options.windows, options.window)


def quantgrid_rows(options, bench):
    made = [(form, variant) for form in options.only for variant in options.variants
            if form.startswith("fp8") or variant not in ONLY_FP8]
    for base in dict.fromkeys(FORMS[form][1] for form, _ in made):
        mine = [one for one in made if FORMS[one[0]][1] == base]
        scores = bench.score_all([bench.folder(*one) for one in mine], options.text, base, options.windows, options.window)
        for (form, variant), score in zip(mine, scores):
            yield row(VARIANTS[variant][0], form, score, base)


def token_rows(path, count, length):
    """By the tokenizers library: transformers 5 makes another tokenizer of this file, which keeps digits together."""
    import torch
    from tokenizers import Tokenizer
    ids = Tokenizer.from_file(f"{BASE}/tokenizer.json").encode(
        pathlib.Path(path).read_text(encoding="utf-8", errors="replace")[:count * length * 16], add_special_tokens=False).ids
    return torch.tensor(ids[:count * length]).view(count, length)


def interval(values, seed=20261126, rounds=1000, block=128):
    """95 % interval of a mean over tokens, as src/eval/bootstrap.h: blocks are drawn, since neighbours are alike."""
    import numpy as np
    count = len(values)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[:block]]))])
    starts = np.random.default_rng(seed).integers(0, count, (rounds, -(-count // block)))
    means = (sums[starts + block] - sums[starts]).mean(1) / block
    return [float(v) for v in np.quantile(means, (0.025, 0.975))]


@functools.cache
def wanted_in_transformers(text, windows, window, device):
    """Of each window: its tokens, and what the FP32 model makes of them as log probabilities [window - 1, vocab]."""
    import torch
    from transformers import AutoModelForCausalLM
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval().to(device)
    with torch.no_grad():
        return [(ids, base(ids[None]).logits[0, :-1].log_softmax(-1)) for ids in token_rows(text, windows, window).to(device)]


def score_in_transformers(options, model):
    """As `quantgrid eval` defines them: non-overlapping windows, no BOS, KL of the FP32 model's distribution."""
    import torch
    columns = {"nll": [], "kld": [], "top1": []}
    with torch.no_grad():
        for window, wanted in wanted_in_transformers(options.text, options.windows, options.window,
                                                     options.device):
            logits = model(window[None]).logits[0, :-1].float().log_softmax(-1)
            columns["nll"] += (-logits.gather(1, window[1:, None])[:, 0]).tolist()
            columns["kld"] += (wanted.exp() * (wanted - logits)).sum(-1, dtype=torch.double).tolist()
            columns["top1"] += (logits.argmax(-1) == wanted.argmax(-1)).double().tolist()
    mean = {name: sum(values) / len(values) for name, values in columns.items()}
    return {"ppl": math.exp(mean["nll"]), "ppl_ci": [math.exp(v) for v in interval(columns["nll"])],
            "kld_mean": mean["kld"], "kld_mean_ci": interval(columns["kld"]),
            "top1": mean["top1"], "top1_ci": interval(columns["top1"]),
            "protocol": f"{options.windows} windows of {options.window} tokens, no BOS, non-overlapping; by transformers"}


def keep_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path(BASE) / name, folder)


def modelopt_quantized(form, device):
    import copy
    import modelopt.torch.quantization as mtq
    import torch
    from transformers import AutoModelForCausalLM
    config = copy.deepcopy(getattr(mtq, MODELOPT[form]))
    for entry in config["quant_cfg"]:
        if "block_sizes" in (entry.get("cfg") or {}):
            entry["cfg"]["block_sizes"][-1] = GROUP

    def forward(model):
        with torch.no_grad():
            for sequence in token_rows(CALIBRATION, 32, 512).to(device):
                model(sequence[None])

    return mtq.quantize(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval().to(device), config, forward)


def modelopt_rows(options, bench):
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    for form in (form for form in options.only if form in MODELOPT):
        out = bench.work / f"modelopt-{form}"
        shutil.rmtree(out, ignore_errors=True)
        model = modelopt_quantized(form, options.device)
        tool = f"modelopt {importlib.metadata.version('nvidia-modelopt')}"
        yield row(f"{tool}, before export", form, score_in_transformers(options, model))
        try:
            export_hf_checkpoint(model.half(), dtype=torch.float16, export_dir=str(out))
        except Exception as error:  # some formats are not exported by some versions: the other forms go on
            print(f"quality_table: modelopt does not export {form}: {error}", file=sys.stderr)
            continue
        keep_tokenizer(out)
        bench.forget(out)
        yield row(f"{tool}, its HF folder", form, score(options, bench, out))


def autoawq_rows(options, bench):
    if "int4_zeros" not in options.only:
        return
    from awq import AutoAWQForCausalLM

    out = bench.work / "autoawq-int4_zeros"
    shutil.rmtree(out, ignore_errors=True)
    model = AutoAWQForCausalLM.from_pretrained(BASE, device_map=options.device)
    model.quantize(None, calib_data=token_rows(CALIBRATION, 32, 512).tolist(), max_calib_samples=32,
                   max_calib_seq_len=512,
                   quant_config={"zero_point": True, "q_group_size": GROUP, "w_bit": 4, "version": "GEMM"})
    model.save_quantized(str(out))
    keep_tokenizer(out)
    bench.forget(out)
    yield row(f"AutoAWQ {importlib.metadata.version('autoawq')}, its folder", "int4_zeros", score(options, bench, out))


TOOLS = {"quantgrid": ("json", quantgrid_rows), "modelopt": ("modelopt", modelopt_rows), "autoawq": ("awq", autoawq_rows)}


def listed(name, text, known):
    for one in text.split(","):
        if one not in known:
            sys.exit(f"quality_table: {name} has {one}, which is none of {', '.join(known)}")
    return text.split(",")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bench_options(parser)
    parser.add_argument("--device", default="cpu", help="where torch runs the other tools: cpu or cuda")
    parser.add_argument("--text", default=EVALUATION)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--only", default=",".join(FORMS))
    parser.add_argument("--variants", default="ours,no-feedback,amax,plain")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--md", help="also write the table to this file")
    options = parser.parse_args()
    options.only = listed("--only", options.only, FORMS)
    options.variants = ["" if one == "ours" else one
                        for one in listed("--variants", options.variants, ["ours", *filter(None, VARIANTS)])]
    kept = tempfile.TemporaryDirectory() if not options.work else None
    bench = Bench(options.program, options.work or kept.name, options.executor)
    rows, lines = [], []

    def say(line):
        lines.append(line)
        print(line, flush=True)

    say("| format | made by | perplexity [95 %] | KL, nats [95 %] | top-1 [95 %] |\n|---|---|--:|--:|--:|")
    for tool in listed("--tools", options.tools, TOOLS):
        package, rows_of = TOOLS[tool]
        if not importlib.util.find_spec(package):
            print(f"quality_table: {tool} is left out: its package {package} is not installed", file=sys.stderr)
            continue
        for result in rows_of(options, bench):
            rows.append(result)
            say(f"| {result['format']} | {result['tool']} | {cell(result, 'ppl', 2)} | {cell(result, 'kld_mean', 4)} | "
                f"{cell(result, 'top1', 3)} |")
    if options.json:
        bench.write_json(options.json, rows, text=options.text)
    if options.md:
        pathlib.Path(options.md).write_text("\n".join([*bench.said_of_it(), "", *lines, ""]))


if __name__ == "__main__":
    main()
