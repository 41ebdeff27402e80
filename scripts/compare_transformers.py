#!/usr/bin/env python3
"""Logits of a Hugging Face folder by quantgrid against transformers in float32, on a machine with a GPU and PyTorch.

    scripts/compare_transformers.py MODEL_DIR [--program bin/quantgrid-cuda] [--tokens 512] [--json FILE]

Prints the relative error, the mean KL divergence and how often the best token is the same. Exit 1 when the KL divergence is
above 1e-4 or the best token the same in less than 99 %."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def reference_logits(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cuda")
    with torch.no_grad():
        logits = model(torch.tensor([ids], device="cuda")).logits[0].float().cpu()
    del model
    torch.cuda.empty_cache()
    return logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--program", default="bin/quantgrid-cuda")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--json")
    options = parser.parse_args()
    vocab = json.loads((pathlib.Path(options.model) / "config.json").read_text())["vocab_size"]
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, vocab, (options.tokens,), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as work:
        tokens, out = pathlib.Path(work) / "ids.json", pathlib.Path(work) / "logits.safetensors"
        tokens.write_text(json.dumps(ids))
        subprocess.run([options.program, "logits", "--model", options.model, "--tokens", tokens, "--out", out,
                        "--progress", "none"], check=True)
        got = load_file(out)["logits"].double()
    want = reference_logits(options.model, ids).double()
    error = ((got - want).norm() / want.norm()).item()
    p, q = torch.log_softmax(want, -1), torch.log_softmax(got, -1)
    kl = (p.exp() * (p - q)).sum(-1).mean().item()
    top1 = (got.argmax(-1) == want.argmax(-1)).double().mean().item()
    result = {"model": pathlib.Path(options.model).name, "tokens": options.tokens, "relative_error": error, "kl": kl,
              "top1": top1}
    print(json.dumps(result))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result) + "\n")
    sys.exit(0 if kl <= 1e-4 and top1 >= 0.99 else 1)


if __name__ == "__main__":
    main()
