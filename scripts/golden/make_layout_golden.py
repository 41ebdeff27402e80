#!/usr/bin/env python3
"""Golden files of the modelopt, compressed-tensors and AutoAWQ layouts, packed with numpy by the layouts' descriptions.

Needs numpy and safetensors as requirements.txt pins them. Writes, for a one-layer model, into tests/golden/layouts/:
  canonical.safetensors   the quantized layers in Quantgrid's own form (src/core/quant_spec.h), "<case>/<module>.<part>"
  <case>/model.safetensors, <case>/config.json, …   the same layers as the layout stores them

Nothing here calls Quantgrid; each stored tensor is made from the integers, not from the canonical bytes.
"""
import json
import pathlib
import shutil

import make_trtllm_golden as base
import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "layouts"
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, GROUP = 32, 4, 2, 8, 48, 40, 16
P = "model.layers.0."
# projection: (rows, columns, the layer's input comes straight from a norm)
LINEARS = {
    P + "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN, True),
    P + "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN, True),
    P + "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN, True),
    P + "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM, False),
    P + "mlp.gate_proj": (FFN, HIDDEN, True),
    P + "mlp.up_proj": (FFN, HIDDEN, True),
    P + "mlp.down_proj": (HIDDEN, FFN, False),
}
base.DTYPES.update({"i4": "int32", "i8": "int64"})
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def e4m3_codes(w, scale):
    return (base.to_e4m3(w / scale), "float8_e4m3fn")


def nibbles_along(q, axis):
    """Unsigned 4-bit codes, eight to an int32, number i in bits 4i, along an axis."""
    q = np.moveaxis(q, axis, -1)
    pad = -q.shape[-1] % 8
    q = np.pad(q, [(0, 0)] * (q.ndim - 1) + [(0, pad)]).astype(np.uint32)
    words = np.zeros(q.shape[:-1] + (q.shape[-1] // 8,), np.uint32)
    for i in range(8):
        words |= q[..., i::8] << np.uint32(4 * i)
    return np.moveaxis(words, -1, axis).view(np.int32)


def canonical_int4(u):
    return (u[:, 0::2] + 16 * u[:, 1::2]).astype(np.uint8)


def grouped(w, asymmetric):
    """u, zero [n, groups], scale [n, groups] with w ~ (u - zero) * scale; the scale as F16 holds it."""
    n, k = w.shape
    g = w.reshape(n, k // GROUP, GROUP)
    if asymmetric:
        low, high = np.minimum(g.min(2), 0), np.maximum(g.max(2), 0)
        scale = ((high - low) / 15).astype("f2").astype("f4")
        zero = np.clip(np.rint(-low / scale), 0, 15)
    else:
        scale = (np.abs(g).max(2) / 7).astype("f2").astype("f4")
        zero = np.full(scale.shape, 8.0)
    u = np.clip(np.rint(g / scale[..., None]) + zero[..., None], 0, 15).astype(int).reshape(n, k)
    return u, zero.astype(np.uint8), scale


def modelopt_fp8(name, w, rng, from_norm):
    scale, act = np.float32(np.abs(w).max() / 448), np.float32(0.05 if from_norm else rng.uniform(0.01, 0.2))
    codes = e4m3_codes(w, scale)
    return ({".weight": codes, ".weight_scale": np.array(scale), ".input_scale": np.array(act)},
            {"weight": codes, "weight_scale": np.array([scale]), "input_scale": np.array([act])})


def modelopt_awq(name, w, rng, from_norm):
    u, _, scale = grouped(w, False)
    q = u - 8
    packed = ((q[0::2] % 16) + 16 * (q[1::2] % 16)).astype(np.uint8)  # rows 2j (low) and 2j + 1, two's complement
    stored, own = {".weight": packed, ".weight_scale": scale}, {"weight": canonical_int4(u), "weight_scale": scale}
    if not from_norm:
        stored[".pre_quant_scale"] = rng.uniform(0.5, 2, w.shape[1]).astype("f2")
        own["prequant_scale"] = stored[".pre_quant_scale"].astype("f4")
    return stored, own


SHARED = {}  # the scale of one activation is the same for all that read it


def modelopt_int8(name, w, rng, from_norm):
    q, scale = base.int8_rows(w)
    key = name.rsplit(".", 2)[1] if from_norm else name
    act, prequant = SHARED.setdefault(
        key, (np.float32(rng.uniform(0.01, 0.2)), rng.uniform(0.5, 2, w.shape[1]).astype("f2")))
    return ({".weight": q, ".weight_scale": scale, ".input_scale": np.array(act), ".pre_quant_scale": prequant},
            {"weight": q, "weight_scale": scale, "input_scale": np.array([act]),
             "prequant_scale": prequant.astype("f4")})


def ct_fp8_static(name, w, rng, from_norm):
    stored, own = modelopt_fp8(name, w, rng, from_norm)
    return {".weight": stored[".weight"], ".weight_scale": own["weight_scale"], ".input_scale": own["input_scale"]}, own


def ct_fp8_dynamic(name, w, rng, from_norm):
    scale = (np.abs(w).max(1) / 448).astype("f4")
    codes = e4m3_codes(w, scale[:, None])
    return {".weight": codes, ".weight_scale": scale[:, None]}, {"weight": codes, "weight_scale": scale}


def ct_int8(name, w, rng, from_norm):
    q, scale = base.int8_rows(w)
    return {".weight": q, ".weight_scale": scale[:, None]}, {"weight": q, "weight_scale": scale}


def ct_int4(asymmetric):
    def pack(name, w, rng, from_norm):
        u, zero, scale = grouped(w, asymmetric)
        stored = {".weight_packed": nibbles_along(u, 1), ".weight_shape": np.array(w.shape, "i8"),
                  ".weight_scale": scale.astype("f2")}
        own = {"weight": canonical_int4(u), "weight_scale": scale}
        if asymmetric:
            stored[".weight_zero_point"] = nibbles_along(zero, 0)
            own["zero_point"] = zero
        return stored, own

    return pack


def awq_words(u):
    """[k or groups, n] unsigned codes → int32 [.., n/8] in AutoAWQ's order."""
    return nibbles_along(u.reshape(u.shape[0], -1, 8)[:, :, AWQ_ORDER].reshape(u.shape), 1)


def autoawq(name, w, rng, from_norm):
    u, zero, scale = grouped(w, True)
    return ({".qweight": awq_words(u.T), ".qzeros": awq_words(zero.T), ".scales": scale.T.astype("f2")},
            {"weight": canonical_int4(u), "weight_scale": scale, "zero_point": zero})


def config(quantization, tied):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "head_dim": HEAD_DIM,
        "intermediate_size": FFN, "num_hidden_layers": 1, "num_attention_heads": HEADS, "hidden_act": "silu",
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": tied, "torch_dtype": "float16", "attention_bias": False,
        "mlp_bias": False, "quantization_config": quantization,
    }


def arguments(bits, kind, strategy, symmetric=True, dynamic=False, group_size=None):
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric, "dynamic": dynamic,
            "group_size": group_size}


def compressed(form, weights, activations, kv=None):
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "ignore": ["lm_head"], "kv_cache_scheme": kv,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations,
                                          "output_activations": None}}}


def modelopt(algo, kv=None, **more):
    return {"quant_method": "modelopt", "quant_algo": algo, "kv_cache_quant_algo": kv, "ignore": ["lm_head"], **more}


AWQ_MORE = {"group_size": GROUP, "has_zero_point": False, "pre_quant_scale": True}
FLOAT, TOKEN = arguments(8, "float", "tensor"), arguments(8, "float", "token", dynamic=True)
CASES = {  # case: (packer, quantization_config, tied, KV name pattern)
    "modelopt_fp8": (modelopt_fp8, modelopt("FP8", "FP8"), True, ("k_proj.k_scale", "v_proj.v_scale")),
    "modelopt_int4_awq": (modelopt_awq, modelopt("W4A16_AWQ", **AWQ_MORE), False, None),
    "modelopt_int8": (modelopt_int8, modelopt("W8A8_SQ_PER_CHANNEL"), False, None),
    "compressed_fp8_static": (ct_fp8_static, compressed("float-quantized", FLOAT, FLOAT, FLOAT), False,
                              ("k_scale", "v_scale")),
    "compressed_fp8_dynamic": (ct_fp8_dynamic, compressed("float-quantized", arguments(8, "float", "channel"), TOKEN),
                               True, None),
    "compressed_int8": (ct_int8, compressed("int-quantized", arguments(8, "int", "channel"),
                                            arguments(8, "int", "token", dynamic=True)), False, None),
    "compressed_int4": (ct_int4(False), compressed("pack-quantized", arguments(4, "int", "group", group_size=GROUP),
                                                   None), False, None),
    "compressed_int4_zeros": (ct_int4(True), compressed(
        "pack-quantized", arguments(4, "int", "group", symmetric=False, group_size=GROUP), None), False, None),
    "autoawq": (autoawq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
                          "modules_to_not_convert": None}, False, None),
}


def common(rng, tied):
    tensors = {"model.embed_tokens.weight": rng.normal(0, 0.05, (VOCAB, HIDDEN)).astype("f2"),
               P + "input_layernorm.weight": rng.normal(1, 0.1, HIDDEN).astype("f2"),
               P + "post_attention_layernorm.weight": rng.normal(1, 0.1, HIDDEN).astype("f2"),
               "model.norm.weight": rng.normal(1, 0.1, HIDDEN).astype("f2")}
    if not tied:
        tensors["lm_head.weight"] = rng.normal(0, 0.05, (VOCAB, HIDDEN)).astype("f2")
    return tensors


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    rng = np.random.default_rng(20261126)
    canonical = {}
    for case, (pack, quantization, tied, kv) in CASES.items():
        tensors = common(rng, tied)
        for name, (n, k, from_norm) in LINEARS.items():
            stored, own = pack(name, rng.normal(0, 0.1, (n, k)).astype("f4"), rng, from_norm)
            tensors.update({name + suffix: value for suffix, value in stored.items()})
            canonical.update({f"{case}/{name}.{part}": value for part, value in own.items()})
        if kv:
            shape = () if case.startswith("modelopt") else (1,)
            for name, value in zip(kv, (0.25, 0.75)):
                tensors[P + "self_attn." + name] = np.full(shape, value, "f4")
        base.save(OUT / case / "model.safetensors", tensors)
        (OUT / case / "config.json").write_text(json.dumps(config(quantization, tied), indent=1) + "\n")
        if case.startswith("modelopt"):
            inner = {key: value for key, value in quantization.items() if key not in ("quant_method", "ignore")}
            file = {"producer": {"name": "modelopt", "version": "0.47.0"},
                    "quantization": {**inner, "exclude_modules": ["lm_head"]}}
            (OUT / case / "hf_quant_config.json").write_text(json.dumps(file, indent=1) + "\n")
    base.save(OUT / "canonical.safetensors", canonical)


if __name__ == "__main__":
    main()
