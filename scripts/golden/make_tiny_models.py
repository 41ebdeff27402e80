#!/usr/bin/env python3
"""Makes the tiny models in tests/golden/models and the logits that transformers computes from them.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -r scripts/golden/requirements.txt
    /tmp/venv/bin/python scripts/golden/make_tiny_models.py [--only NAME]

Weights come from numpy's generator with a fixed seed, are rounded to the model's storage type and written as a Hugging
Face folder. transformers then loads that folder as it would any other, in float32 with eager attention, and runs one
sequence. So a golden file holds what transformers makes of the stored bytes and of the config as it is spelled there.

golden.safetensors: token_ids I32 [tokens], logits F32 [tokens, vocab]; where the model is marked `traced` also, F32
[tokens, hidden]: embed, layers.N.input_layernorm, layers.N.self_attn (after o_proj), layers.N.post_attention_layernorm,
layers.N.mlp, layers.N (after both residuals), norm.
"""

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

SPECIAL_TOKENS = ["<|pad|>", "<|bos|>", "<|eos|>"]
LLAMA3_SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 32}


@dataclass
class TinyModel:
    name: str
    why: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tokens: int
    dtype: torch.dtype
    seed: int
    model_type: str = "llama"
    layers: int = 2
    tied: bool = False
    shards: int = 1
    head_dim_given: bool = True
    new_spelling: bool = False  # transformers 5: rope_parameters and dtype
    rope_theta: float = 10000.0
    rope_scaling: dict = None
    eps: float = 1e-5
    window: int = None
    traced: bool = False
    extra: dict = field(default_factory=dict)


MODELS = [
    TinyModel("llama-gqa1-tied-fp32", "one query head per KV head, head_dim derived, tied, FP32, new spelling, traced",
              hidden=48, heads=4, kv_heads=4, head_dim=12, ffn=104, vocab=331, tokens=50, dtype=torch.float32, seed=1,
              tied=True, head_dim_given=False, new_spelling=True, traced=True),
    TinyModel("llama-gqa3-tied-fp16", "SmolLM2's proportions: 9 heads, 3 KV heads, tied, FP16, old spelling",
              hidden=72, heads=9, kv_heads=3, head_dim=8, ffn=192, vocab=331, tokens=45, dtype=torch.float16, seed=2,
              tied=True, rope_theta=100000.0, head_dim_given=False),
    TinyModel("llama-gqa4-llama3rope-bf16", "llama3 RoPE scaling in the new spelling, head_dim not hidden/heads, BF16, three shards",
              hidden=64, heads=8, kv_heads=2, head_dim=24, ffn=160, vocab=333, tokens=70, dtype=torch.bfloat16, seed=3,
              shards=3, new_spelling=True, rope_theta=500000.0, rope_scaling=LLAMA3_SCALING),
    TinyModel("llama-gqa8-llama3rope-tied-fp16", "one KV head for 8, llama3 RoPE scaling in the old spelling, tied, FP16, 3 layers",
              hidden=64, heads=8, kv_heads=1, head_dim=16, ffn=128, vocab=301, tokens=64, dtype=torch.float16, seed=4,
              layers=3, tied=True, rope_theta=500000.0, rope_scaling={**LLAMA3_SCALING, "factor": 32.0}),
    TinyModel("mistral-window16-bf16", "Mistral with a sliding window of 16 and 60 tokens, BF16, old spelling, traced",
              hidden=64, heads=6, kv_heads=2, head_dim=16, ffn=160, vocab=331, tokens=60, dtype=torch.bfloat16, seed=5,
              model_type="mistral", window=16, traced=True),
    TinyModel("mistral-nowindow-fp32", "Mistral with sliding_window null, head_dim over hidden/heads, FP32, two shards, new spelling",
              hidden=96, heads=4, kv_heads=1, head_dim=32, ffn=96, vocab=290, tokens=40, dtype=torch.float32, seed=6,
              model_type="mistral", shards=2, new_spelling=True, rope_theta=1000000.0, layers=1),
]

DTYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def make_weights(model: TinyModel) -> dict:
    """Random weights whose activations stay near 1, with attention sharp enough for a wrong mask or angle to show."""
    rng = numpy.random.default_rng(model.seed)

    def tensor(*shape, scale=None, offset=0.0):
        scale = scale if scale is not None else shape[-1] ** -0.5
        values = rng.standard_normal(shape) * scale + offset
        return torch.from_numpy(values.astype(numpy.float32)).to(model.dtype)

    q_rows, kv_rows = model.heads * model.head_dim, model.kv_heads * model.head_dim
    sharp = 1.5 * model.hidden**-0.5
    weights = {"model.embed_tokens.weight": tensor(model.vocab, model.hidden, scale=0.5)}
    for layer in range(model.layers):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": tensor(model.hidden, scale=0.2, offset=1.0),
            prefix + "self_attn.q_proj.weight": tensor(q_rows, model.hidden, scale=sharp),
            prefix + "self_attn.k_proj.weight": tensor(kv_rows, model.hidden, scale=sharp),
            prefix + "self_attn.v_proj.weight": tensor(kv_rows, model.hidden),
            prefix + "self_attn.o_proj.weight": tensor(model.hidden, q_rows),
            prefix + "post_attention_layernorm.weight": tensor(model.hidden, scale=0.2, offset=1.0),
            prefix + "mlp.gate_proj.weight": tensor(model.ffn, model.hidden),
            prefix + "mlp.up_proj.weight": tensor(model.ffn, model.hidden),
            prefix + "mlp.down_proj.weight": tensor(model.hidden, model.ffn),
        }
    weights["model.norm.weight"] = tensor(model.hidden, scale=0.2, offset=1.0)
    if not model.tied:
        weights["lm_head.weight"] = tensor(model.vocab, model.hidden)
    return weights


def make_config(model: TinyModel) -> dict:
    config = {
        "architectures": ["LlamaForCausalLM" if model.model_type == "llama" else "MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "initializer_range": 0.02,
        "intermediate_size": model.ffn,
        "max_position_embeddings": 256,
        "model_type": model.model_type,
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads,
        "rms_norm_eps": model.eps,
        "tie_word_embeddings": model.tied,
        "use_cache": True,
        "vocab_size": model.vocab,
    }
    if model.model_type == "llama":
        config |= {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "pretraining_tp": 1}
    else:
        config |= {"attention_dropout": 0.0, "sliding_window": model.window}
    if model.head_dim_given:
        config["head_dim"] = model.head_dim
    if model.new_spelling:
        scaling = model.rope_scaling or {"rope_type": "default"}
        config |= {"dtype": DTYPE_NAMES[model.dtype], "rope_parameters": {**scaling, "rope_theta": model.rope_theta}}
    else:
        config |= {"torch_dtype": DTYPE_NAMES[model.dtype], "rope_theta": model.rope_theta}
        if model.model_type == "llama":
            config["rope_scaling"] = model.rope_scaling
    return dict(sorted(config.items()))


def make_tokenizer(vocab: int) -> dict:
    """Byte-level BPE of exactly `vocab` tokens: 3 special ones, 256 bytes, and pairs of common letters."""
    letters = "etaoinshr"
    merges = [[a, b] for a in letters for b in letters][: vocab - 256 - len(SPECIAL_TOKENS)]
    bytes_in_order = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = SPECIAL_TOKENS + bytes_in_order + ["".join(pair) for pair in merges]
    assert len(tokens) == vocab == len(set(tokens))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }


def write_json(path: Path, value, indent=2):
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_weights(model: TinyModel, weights: dict, folder: Path):
    if model.shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    step = -(-len(names) // model.shards)
    weight_map = {}
    for shard in range(model.shards):
        file = f"model-{shard + 1:05d}-of-{model.shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard * step:(shard + 1) * step]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in part}
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    write_json(folder / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def check_read_as_meant(model: TinyModel, loaded):
    """That transformers understood the config's spelling, so that a golden file is not made from defaults."""
    rope = loaded.config.rope_parameters
    assert rope["rope_theta"] == model.rope_theta, rope
    assert rope["rope_type"] == (model.rope_scaling or {"rope_type": "default"})["rope_type"], rope
    if model.rope_scaling:
        assert rope["factor"] == model.rope_scaling["factor"], rope
    assert getattr(loaded.config, "sliding_window", None) == model.window
    assert loaded.model.layers[0].self_attn.head_dim == model.head_dim
    assert loaded.dtype == torch.float32


def run(model: TinyModel, folder: Path) -> dict:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loaded.eval()
    check_read_as_meant(model, loaded)
    rng = numpy.random.default_rng(1000 + model.seed)
    token_ids = torch.from_numpy(rng.integers(len(SPECIAL_TOKENS), model.vocab, model.tokens)).to(torch.int64)
    golden = {"token_ids": token_ids.to(torch.int32)}

    def keep(name):
        def hook(_module, _inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            golden[name] = output.detach().reshape(model.tokens, model.hidden).clone()
        return hook

    if model.traced:
        inner = loaded.model
        inner.embed_tokens.register_forward_hook(keep("embed"))
        inner.norm.register_forward_hook(keep("norm"))
        for i, layer in enumerate(inner.layers):
            layer.register_forward_hook(keep(f"layers.{i}"))
            for part in ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"]:
                getattr(layer, part).register_forward_hook(keep(f"layers.{i}.{part}"))
    with torch.no_grad():
        golden["logits"] = loaded(token_ids[None], use_cache=False).logits[0].contiguous()
    return golden


def make_model(model: TinyModel, root: Path):
    folder = root / model.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", make_config(model))
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write_json(folder / "tokenizer.json", make_tokenizer(model.vocab), indent=None)
    write_json(folder / "tokenizer_config.json",
               {"bos_token": SPECIAL_TOKENS[1], "clean_up_tokenization_spaces": False, "eos_token": SPECIAL_TOKENS[2],
                "pad_token": SPECIAL_TOKENS[0], "tokenizer_class": "PreTrainedTokenizerFast"})
    write_weights(model, make_weights(model), folder)
    golden = run(model, folder)
    save_file(golden, folder / "golden.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    kib = sum(file.stat().st_size for file in folder.iterdir()) // 1024
    logits = golden["logits"]
    print(f"{model.name}: {kib} KiB, logits of {logits.min():.2f} to {logits.max():.2f}")


def write_readme(root: Path):
    lines = ["# Tiny models with the logits that transformers computes from them", "",
             "Made by `scripts/golden/make_tiny_models.py` (its docstring says how, and what golden.safetensors holds) with",
             f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__} and numpy "
             f"{numpy.__version__}, in float32 on a CPU.", "",
             "| folder | what it is there for |", "|---|---|"]
    lines += [f"| {model.name} | {model.why} |" for model in MODELS]
    (root / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="make this one model again")
    only = parser.parse_args().only
    root = Path(__file__).resolve().parent.parent.parent / "tests" / "golden" / "models"
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for model in MODELS:
        if only in (None, model.name):
            make_model(model, root)
    write_readme(root)


if __name__ == "__main__":
    main()
