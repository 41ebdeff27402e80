#!/usr/bin/env python3
"""Perplexity, KL divergence and top-1 of quantized checkpoints: Quantgrid's against those of Model Optimizer and AutoAWQ.

    scripts/quality_table.py [--tools quantgrid,modelopt,autoawq] [--json FILE]

All tools get the same 16-bit model and the same calibration tokens (32 x 512 of models/texts/calibration.txt); every
folder that a tool exports is scored by `quantgrid eval` on the same windows. modelopt's INT4 is also scored before it is
exported, by transformers, since it loses some on the way. For a person who has the packages (not part of any test):

    pip install nvidia-modelopt==0.47.0 torch transformers==5.23.0 accelerate     # modelopt
    pip install autoawq==0.2.9 'transformers<4.52' torch                          # autoawq: an environment of its own

A tool whose package is not there is left out, and said. Group size 64: 128 does not divide SmolLM2's width.
"""
import argparse
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

GROUP = 64
FORMATS = {  # name: (quantgrid's flags, modelopt's configuration)
    "fp8 static": (["--weights", "fp8"], "FP8_DEFAULT_CFG"),
    "fp8 dynamic": (["--weights", "fp8", "--activations", "dynamic"], None),
    "int8_sq per token": (["--weights", "int8_sq"], None),
    "int8_sq static": (["--weights", "int8_sq", "--activations", "static"], "INT8_SMOOTHQUANT_CFG"),
    f"int4_awq g{GROUP}": (["--weights", "int4_awq", "--group-size", str(GROUP)], "INT4_AWQ_CFG"),
    f"int4_awq g{GROUP}, zero points": (["--weights", "int4_awq", "--group-size", str(GROUP), "--layout", "autoawq"], None),
}


def run(options, *arguments):
    done = subprocess.run([options.program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"quality_table: quantgrid {' '.join(map(str, arguments))} failed")
    return done.stdout


def score(options, folder):
    return json.loads(run(options, "eval", "--model", folder, "--base", options.model, "--text", options.text,
                          "--windows", options.windows, "--window", options.window, "--json"))


def row(tool, name, result):
    return {"tool": tool, "format": name, **{key: result[key] for key in
            ("ppl", "ppl_ci", "kld_mean", "kld_mean_ci", "top1", "top1_ci") if key in result}}


def quantgrid_rows(options, work):
    for name, (flags, _) in FORMATS.items():
        out = work / ("quantgrid-" + name.replace(" ", "-").replace(",", ""))
        run(options, "quantize", "--model", options.model, "--calib", options.calib, "--calib-sequences", 32,
            "--calib-tokens", 512, "--out", out, *flags)
        yield row("quantgrid", name, score(options, out))


def token_rows(options, path, count, length):
    """By the tokenizers library: transformers 5 makes another tokenizer of this file, which keeps digits together."""
    import torch
    from tokenizers import Tokenizer
    ids = Tokenizer.from_file(f"{options.model}/tokenizer.json").encode(
        pathlib.Path(path).read_text(encoding="utf-8", errors="replace")[:count * length * 16], add_special_tokens=False).ids
    return torch.tensor(ids[:count * length]).view(count, length)


def score_in_transformers(options, model):
    """As `quantgrid eval` defines them: non-overlapping windows, no BOS, KL of the FP32 model's distribution."""
    import torch
    from transformers import AutoModelForCausalLM
    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    nll = kld = same = tokens = 0
    with torch.no_grad():
        for window in token_rows(options, options.text, options.windows, options.window):
            logits = model(window[None]).logits[0, :-1].double().log_softmax(-1)
            wanted = base(window[None]).logits[0, :-1].double().log_softmax(-1)
            nll -= logits.gather(1, window[1:, None]).sum().item()
            kld += (wanted.exp() * (wanted - logits)).sum().item()
            same += (logits.argmax(-1) == wanted.argmax(-1)).sum().item()
            tokens += len(window) - 1
    return {"ppl": 2.718281828459045 ** (nll / tokens), "kld_mean": kld / tokens, "top1": same / tokens}


def keep_tokenizer(options, folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pathlib.Path(options.model) / name, folder)


def modelopt_rows(options, work):
    import copy
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM
    calibration = token_rows(options, options.calib, 32, 512)
    for name, (_, config_name) in FORMATS.items():
        if not config_name:
            continue
        config = copy.deepcopy(getattr(mtq, config_name))
        for entry in config["quant_cfg"]:
            if "block_sizes" in (entry.get("cfg") or {}):
                entry["cfg"]["block_sizes"][-1] = GROUP
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()

        def forward(m):
            with torch.no_grad():
                for sequence in calibration:
                    m(sequence[None])

        model = mtq.quantize(model, config, forward)
        yield row("modelopt, before export", name, score_in_transformers(options, model))
        out = work / ("modelopt-" + config_name)
        try:
            export_hf_checkpoint(model.half(), dtype=torch.float16, export_dir=str(out))
            keep_tokenizer(options, out)
        except Exception as error:  # some formats are not exported by some versions
            print(f"quality_table: modelopt does not export {name}: {error}", file=sys.stderr)
            continue
        yield row("modelopt, its HF folder", name, score(options, out))


def autoawq_rows(options, work):
    from awq import AutoAWQForCausalLM
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    texts = [tokenizer.decode(s) for s in token_rows(options, options.calib, 32, 512)]
    model = AutoAWQForCausalLM.from_pretrained(options.model)
    model.quantize(tokenizer, calib_data=texts, max_calib_samples=32, max_calib_seq_len=512,
                   quant_config={"zero_point": True, "q_group_size": GROUP, "w_bit": 4, "version": "GEMM"})
    out = work / "autoawq"
    model.save_quantized(str(out))
    keep_tokenizer(options, out)
    yield row("AutoAWQ, its folder", f"int4_awq g{GROUP}, zero points", score(options, out))


TOOLS = {"quantgrid": ("json", quantgrid_rows), "modelopt": ("modelopt", modelopt_rows), "autoawq": ("awq", autoawq_rows)}


def cell(result, key, digits):
    if key not in result:
        return "-"
    low_high = result.get(key + "_ci")
    interval = f" [{low_high[0]:.{digits}f}, {low_high[1]:.{digits}f}]" if low_high else ""
    return f"{result[key]:.{digits}f}{interval}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="bin/quantgrid")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--calib", default="models/texts/calibration.txt")
    parser.add_argument("--text", default="models/texts/evaluation.txt")
    parser.add_argument("--tools", default="quantgrid,modelopt,autoawq")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    rows = []
    print("| format | tool | perplexity [95 %] | KL, nats [95 %] | top-1 [95 %] |\n|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as work:
        for tool in options.tools.split(","):
            package, rows_of = TOOLS[tool]
            if not importlib.util.find_spec(package):
                print(f"quality_table: {tool} is left out: its package {package} is not installed", file=sys.stderr)
                continue
            for result in rows_of(options, pathlib.Path(work)):
                rows.append(result)
                print(f"| {result['format']} | {result['tool']} | {cell(result, 'ppl', 2)} | "
                      f"{cell(result, 'kld_mean', 4)} | {cell(result, 'top1', 3)} |", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
