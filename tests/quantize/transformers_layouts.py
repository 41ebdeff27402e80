#!/usr/bin/env python3
"""compressed-tensors and AutoAWQ folders that Quantgrid made, loaded and run by transformers: other people's code judges.

    transformers_layouts.py --program bin/quantgrid [--executor cpu|cuda] [--tiny|--quick] [--work FOLDER] [--only fp8,int4,…]

For SmolLM2, every form of the layouts: the perplexity that transformers computes on windows of the evaluation text is
within 0.5 % of Quantgrid's, and differs from the 16-bit model's (so that a folder which was silently run unquantized
does not pass). --tiny: the same on a golden model of 3 layers, by its logits, in seconds.

How much text: where activations are rounded, another order of float sums turns single codes, each turns more in the next
layer, and after some layers the rounding errors have nothing in common. transformers' own two attentions then differ by a KL
of .022 nats (FP8 per token, where the format costs .030), and we differ from either by as much; the logarithms of two such
perplexities differ by about sqrt(2 * .022 / tokens) for no reason, .16 % on 16 windows and .33 % on 4.

Needs scripts/requirements-layouts.txt (scripts/setup.sh --layouts). AutoAWQ's layout is read by GPTQModel, which transformers
asks for, and which has no wheel to pin: `pip install gptqmodel` beside them. Without it AutoAWQ's own code reads it, on a card and in an
environment of its own (`pip install autoawq==0.2.9 transformers==4.51.3`, --only autoawq). Without either it is left out and said. The
last line counts.
"""
import argparse
import importlib.util
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMOLLM2, TEXT = ROOT / "models/smollm2-135m-instruct", ROOT / "models/texts/evaluation.txt"
COMPRESSED = ["--layout", "compressed-tensors"]
FORMS = {
    "fp8": [*COMPRESSED, "--weights", "fp8"],
    "fp8_kv": [*COMPRESSED, "--weights", "fp8", "--kv", "fp8"],
    "fp8_dynamic": [*COMPRESSED, "--weights", "fp8", "--activations", "dynamic"],
    "int8": [*COMPRESSED, "--weights", "int8_sq"],
    "int8_static": [*COMPRESSED, "--weights", "int8_sq", "--activations", "static"],
    "int4": [*COMPRESSED, "--weights", "int4_awq", "--group-size", "32"],
    "int4_zeros": [*COMPRESSED, "--weights", "int4_awq", "--group-size", "32", "--zero-points"],
    "autoawq": ["--weights", "int4_awq", "--group-size", "32", "--layout", "autoawq"],
}


DEVICE_OF_AUTOAWQ = "cuda:0"  # on a processor it asks for Intel's extension of torch


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"quantgrid {' '.join(map(str, arguments))} failed")
    return done.stdout


def how_to_run(options):
    return ["--executor", options.executor, *(["--tuning", "none", "--shared"] if options.executor == "cuda" else [])]


def load_by_autoawq(folder):
    sys.modules["awq.modules.triton.gemm"] = None  # its plain code instead of its kernels
    from awq import AutoAWQForCausalLM
    return AutoAWQForCausalLM.from_quantized(str(folder), fuse_layers=False, device_map={"": DEVICE_OF_AUTOAWQ}).model.eval()


def load(folder):
    import torch
    from transformers import AutoModelForCausalLM, AwqConfig, CompressedTensorsConfig
    # compressed-tensors 0.20 makes room for unpacked zero points and then finds packed ones; dequantizing it reads them.
    quant = json.loads((folder / "config.json").read_text())["quantization_config"]
    more = {}
    if quant["quant_method"] == "awq" and not importlib.util.find_spec("gptqmodel"):
        return load_by_autoawq(folder)
    if quant["quant_method"] == "awq":  # GPTQModel's plain code: its fast one is compiled for minutes and takes fewer shapes
        more = {"quantization_config": AwqConfig(backend="torch_awq")}
    elif not quant["config_groups"]["group_0"]["weights"]["symmetric"]:
        more = {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **more).eval()


def logits_of(model, ids):
    import torch
    with torch.no_grad():
        return model(torch.tensor([ids], device=model.device), use_cache=False).logits[0].float().cpu()


def perplexity(model, windows):
    nll, tokens = 0.0, 0
    for ids in windows:
        scores = logits_of(model, ids)[:-1].double().log_softmax(-1)
        nll -= sum(scores[i, token].item() for i, token in enumerate(ids[1:]))
        tokens += len(ids) - 1
    return math.exp(nll / tokens)


def our_perplexities(options, folders):
    """eval's object of each folder, in one pass over the 16-bit model."""
    more = [word for folder in folders[1:] for word in ("--also", folder)]
    said = json.loads(run(options.program, "eval", "--model", folders[0], *more, "--base", SMOLLM2, "--text", TEXT, "--windows",
                          options.windows, "--window", options.window, *how_to_run(options), "--json"))
    return said if more else [said]


def check_smollm2(options, form, folder, ours):
    from tokenizers import Tokenizer  # transformers 5 makes another one of this tokenizer.json, which keeps digits together
    count = options.windows * options.window
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(
        TEXT.read_text(encoding="utf-8", errors="replace")[:16 * count], add_special_tokens=False).ids
    windows = [ids[i:i + options.window] for i in range(0, count, options.window)]
    theirs = perplexity(load(folder), windows)
    off = theirs / ours["ppl"] - 1
    print(f"{form:12} quantgrid {ours['ppl']:.3f}, transformers {theirs:.3f} ({100 * off:+.2f} %); 16-bit "
          f"{ours['base_ppl']:.3f}", flush=True)
    return abs(off) <= 0.005 and abs(theirs / ours["base_ppl"] - 1) > 1e-4


def check_tiny(options, form, folder, work):
    from safetensors.torch import load_file
    ids = [(i * 37 + 11) % 290 for i in range(48)]
    (work / "ids.json").write_text(json.dumps(ids))
    ours = {}
    for name, model in (("folder", folder), ("base", options.tiny_model)):
        run(options.program, "logits", "--model", model, "--tokens", work / "ids.json", "--out", work / f"{name}.safetensors",
            *how_to_run(options))
        ours[name] = load_file(work / f"{name}.safetensors")["logits"].float()
    theirs = logits_of(load(folder), ids)
    size = ours["base"].square().mean()
    error = ((theirs - ours["folder"]).square().mean() / size).sqrt().item()
    cost = ((ours["base"] - ours["folder"]).square().mean() / size).sqrt().item()
    print(f"{form:12} against transformers {error:.2e}, what the format costs {cost:.2e}", flush=True)
    # INT8's steps are 1/127 of the largest value here and 1/127.5 there, and static ones are clipped at -127 and -128.
    return error < {"int8": 0.9, "int8_static": 0.3}.get(form, 0.01) * cost


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "bin/quantgrid"))
    parser.add_argument("--executor", choices=("cpu", "cuda"), default="cpu", help="what makes and runs our side")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--tiny-model", default=ROOT / "tests/golden/models/llama-gqa8-llama3rope-tied-fp16")
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--only")
    parser.add_argument("--quick", action="store_true", help="a little calibration: what is judged is the layout")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--window", type=int, default=1024)
    options = parser.parse_args()
    try:
        if options.only != "autoawq":
            import compressed_tensors  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        sys.exit(f"transformers_layouts: {error}; scripts/setup.sh --layouts installs what this test needs")
    kept = tempfile.TemporaryDirectory() if not options.work else None
    work = options.work or pathlib.Path(kept.name)
    work.mkdir(parents=True, exist_ok=True)
    base = options.tiny_model if options.tiny else SMOLLM2
    calibration = ["--calib-sequences", 8, "--calib-tokens", 64] if options.tiny else []
    if options.quick:
        calibration = ["--calib-sequences", 8, "--calib-tokens", 128, "--search-tokens", 64]
    passed, failed, left_out = 0, [], []
    folders = {}
    for form, flags in FORMS.items():
        if options.only and form not in options.only.split(","):
            continue
        if form == "autoawq" and not (importlib.util.find_spec("gptqmodel") or importlib.util.find_spec("awq")):
            left_out.append(form)
            print(f"{form:12} left out: neither GPTQModel, by which transformers reads it, nor AutoAWQ is installed", flush=True)
            continue
        folders[form] = work / f"{'tiny-' if options.tiny else ''}{form}"
        if not (folders[form] / "config.json").exists():
            text = ROOT / "models/texts/calibration.txt"
            run(options.program, "quantize", "--executor", options.executor, "--model", base, "--calib", text, "--out",
                folders[form], *calibration, *flags)
    if not folders:
        sys.exit(f"transformers_layouts: --only has none of {', '.join(FORMS)}")
    ours = {} if options.tiny else dict(zip(folders, our_perplexities(options, list(folders.values()))))
    for form, folder in folders.items():
        try:
            good = check_tiny(options, form, folder, work) if options.tiny else check_smollm2(options, form, folder, ours[form])
        except Exception:  # what other people's code cannot load is a failure of this form alone
            traceback.print_exc()
            good = False
        if good:
            passed += 1
        else:
            failed.append(form)
    if failed:
        print(f"transformers_layouts: failed: {', '.join(failed)}")
    print(f"{passed} passed, {len(failed)} failed" + (f", {len(left_out)} left out" if left_out else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
