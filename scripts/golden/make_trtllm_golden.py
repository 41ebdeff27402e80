#!/usr/bin/env python3
"""Golden files of the TensorRT-LLM checkpoint layout, packed with numpy by the layout's published description.

Needs numpy and safetensors as requirements.txt pins them. Writes, for a one-layer model, into tests/golden/trtllm/:
  canonical.safetensors   the quantized layers in Quantgrid's own form (src/core/quant_spec.h), "<case>/<layer>.<part>"
  <case>/rank0.safetensors, <case>/config.json   the same layers as the layout stores them

Nothing here calls Quantgrid; each stored tensor is made from the integers, not from the canonical bytes.
"""
import json
import pathlib

import numpy as np
from safetensors import TensorSpec, serialize

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "trtllm"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, GROUP = 32, 2, 1, 16, 48, 40, 16
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM
P = "transformer.layers.0."
# layer: (rows, columns, the layer's input comes straight from a norm)
LINEARS = {
    P + "attention.qkv": (QKV, HIDDEN, True),
    P + "attention.dense": (HIDDEN, HEADS * HEAD_DIM, False),
    P + "mlp.fc": (FFN, HIDDEN, True),
    P + "mlp.gate": (FFN, HIDDEN, True),
    P + "mlp.proj": (HIDDEN, FFN, False),
}
DTYPES = {"f2": "float16", "f4": "float32", "i1": "int8", "u1": "uint8"}


def save(path, tensors):
    """tensors: name -> array, or (array of bytes, safetensors dtype name)."""
    entries, alive = {}, []
    for name, value in tensors.items():
        array, dtype = value if isinstance(value, tuple) else (value, DTYPES[value.dtype.str[1:]])
        array = np.asarray(array, order="C")  # keeps a scalar a scalar
        alive.append(array)  # serialize() reads through the pointer
        entries[name] = TensorSpec(dtype=dtype, shape=list(array.shape), data_ptr=array.ctypes.data,
                                   data_len=array.nbytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialize(entries, {"format": "pt"}))


def e4m3(code):
    """Value of an e4m3 code (OCP, no infinity)."""
    exponent, mantissa = (code >> 3) & 15, code & 7
    value = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -value if code & 128 else value


CODES = np.array([code for code in range(256) if code & 127 != 127], np.uint8)
VALUES = np.array([e4m3(int(code)) for code in CODES])


def to_e4m3(x):
    return CODES[np.abs(x[..., None] - VALUES).argmin(-1)]


def quantization(algo, kv=None, **more):
    return {"quant_algo": algo, "kv_cache_quant_algo": kv, "exclude_modules": ["lm_head"] if algo else None, **more}


def config(quant, tied, scaling=None, architecture="LlamaForCausalLM"):
    return {
        "architecture": architecture, "dtype": "float16", "logits_dtype": "float32",
        "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_size": HEAD_DIM,
        "hidden_size": HIDDEN, "intermediate_size": FFN, "norm_epsilon": 1e-5, "vocab_size": VOCAB,
        "max_position_embeddings": 512, "position_embedding_type": "rope_gpt_neox", "hidden_act": "silu",
        "rotary_base": 500000.0, "rotary_scaling": scaling, "share_embedding_table": tied,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1}, "quantization": quant,
    }


def common(rng, tied):
    tensors = {
        "transformer.vocab_embedding.weight": rng.normal(0, 0.05, (VOCAB, HIDDEN)).astype("f2"),
        P + "input_layernorm.weight": rng.normal(1, 0.1, HIDDEN).astype("f2"),
        P + "post_layernorm.weight": rng.normal(1, 0.1, HIDDEN).astype("f2"),
        "transformer.ln_f.weight": rng.normal(1, 0.1, HIDDEN).astype("f2"),
    }
    if not tied:
        tensors["lm_head.weight"] = rng.normal(0, 0.05, (VOCAB, HIDDEN)).astype("f2")
    return tensors


def fp16(name, w, rng, from_norm):
    half = w.astype("f2")
    return {name + ".weight": half}, {"weight": half}


def fp8(name, w, rng, from_norm):
    scale = np.array([np.abs(w).max() / 448], "f4")
    act = np.array([rng.uniform(0.01, 0.2)], "f4")
    codes = to_e4m3(w / scale)
    stored = {".weight": (codes, "float8_e4m3fn"), ".weights_scaling_factor": scale, ".activation_scaling_factor": act}
    return ({name + k: v for k, v in stored.items()},
            {"weight": (codes, "float8_e4m3fn"), "weight_scale": scale, "input_scale": act})


def fp8_per_token(name, w, rng, from_norm):
    scale = (np.abs(w).max(1) / 448).astype("f4")
    codes = (to_e4m3(w / scale[:, None]), "float8_e4m3fn")
    return {name + ".weight": codes, name + ".per_channel_scale": scale}, {"weight": codes, "weight_scale": scale}


def int4_awq(name, w, rng, from_norm):
    n, k = w.shape
    groups = w.reshape(n, k // GROUP, GROUP)
    scale = (np.abs(groups).max(2) / 7).astype("f4")
    q = np.clip(np.rint(groups / scale[..., None]), -8, 7).astype(int).reshape(n, k)
    prequant = rng.uniform(0.5, 2, k).astype("f2")
    packed = np.zeros((n // 2, k), np.uint8)  # one byte: rows 2j (low nibble) and 2j + 1 (high), two's complement
    for j in range(n // 2):
        for c in range(k):
            packed[j, c] = (q[2 * j, c] % 16) + 16 * (q[2 * j + 1, c] % 16)
    canonical = np.zeros((n, k // 2), np.uint8)  # one byte: columns 2c (low) and 2c + 1 (high), plus 8
    for c in range(k // 2):
        canonical[:, c] = (q[:, 2 * c] + 8) + 16 * (q[:, 2 * c + 1] + 8)
    stored = {".weight": packed.view("i1"), ".weights_scaling_factor": scale, ".prequant_scaling_factor": prequant}
    return ({name + key: v for key, v in stored.items()},
            {"weight": canonical, "weight_scale": scale, "prequant_scale": prequant.astype("f4")})


def int8_rows(w):
    scale = (np.abs(w).max(1) / 127).astype("f4")
    return np.clip(np.rint(w / scale[:, None]), -127, 127).astype("i1"), scale


def int8_static(name, w, rng, from_norm):
    q, scale = int8_rows(w)
    act = np.array([rng.uniform(0.01, 0.2)], "f4")
    prequant = rng.uniform(0.5, 2, w.shape[1]).astype("f2")
    stored = {".weight": q, ".weights_scaling_factor": scale, ".activation_scaling_factor": act,
              ".prequant_scaling_factor": prequant}
    return ({name + k: v for k, v in stored.items()},
            {"weight": q, "weight_scale": scale, "input_scale": act, "prequant_scale": prequant.astype("f4")})


def int8_per_token(name, w, rng, from_norm):
    q, scale = int8_rows(w)
    stored = {name + ".weight": q, name + ".per_channel_scale": scale.reshape(1, -1)}
    canonical = {"weight": q, "weight_scale": scale}
    if not from_norm:
        smoother = 2.0 ** rng.integers(-3, 4, w.shape[1]).astype("f4")  # powers of two: exact both ways
        stored[name + ".smoother"] = smoother.reshape(1, -1)
        canonical["prequant_scale"] = (1 / smoother).astype("f4")
    return stored, canonical


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
          "rope_type": "llama3"}
AWQ = {"group_size": GROUP, "has_zero_point": False, "pre_quant_scale": True}
CASES = {
    "fp16": (fp16, config(quantization(None), False, LLAMA3)),
    "fp8": (fp8, config(quantization("FP8", "FP8"), True)),
    "fp8_per_token": (fp8_per_token, config(quantization("FP8_PER_CHANNEL_PER_TOKEN"), False)),
    "int4_awq": (int4_awq, config(quantization("W4A16_AWQ", **AWQ), False, None, "MistralForCausalLM")),
    "int8_static": (int8_static, config(quantization("W8A8_SQ_PER_CHANNEL"), False)),
    "int8_per_token": (int8_per_token, config(quantization("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "INT8"), True)),
}


def main():
    rng = np.random.default_rng(20261122)
    canonical = {}
    for case, (pack, cfg) in CASES.items():
        tensors = common(rng, cfg["share_embedding_table"])
        for name, (n, k, from_norm) in LINEARS.items():
            stored, own = pack(name, rng.normal(0, 0.1, (n, k)).astype("f4"), rng, from_norm)
            tensors.update(stored)
            canonical.update({f"{case}/{name}.{part}": value for part, value in own.items()})
        if case == "int8_per_token":
            for norm in ("input_layernorm", "post_layernorm"):
                tensors[P + norm + ".scale_to_int"] = np.ones(1, "f4")
        if cfg["quantization"]["kv_cache_quant_algo"]:
            k_scale, v_scale = np.array([0.25], "f4"), np.array([0.75], "f4")
            canonical[f"{case}/kv.k"], canonical[f"{case}/kv.v"] = k_scale, v_scale
            tensors[P + "attention.kv_cache_scaling_factor"] = np.maximum(k_scale, v_scale)
        save(OUT / case / "rank0.safetensors", tensors)
        (OUT / case / "config.json").write_text(json.dumps(cfg, indent=1) + "\n")
    save(OUT / "canonical.safetensors", canonical)


if __name__ == "__main__":
    main()
