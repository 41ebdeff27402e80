#!/usr/bin/env python3
"""Reads a quantized folder by its layout's published description and compares every tensor with what Quantgrid read.

    read_layouts.py FOLDER EXPECTED.safetensors

numpy only, and no code of Quantgrid: safetensors, e4m3 and all packings are read here. EXPECTED holds, as F32, what
Quantgrid's loader makes of the folder (tests/quantize/layouts_reader_test.cc writes it), under Hugging Face names:
  <projection>.weight       what multiplies the activation before any scale of the input: codes x scales x input scale
  <projection>.input_scale  static activation scale, where there is one
  <any other tensor>        embedding, norms, lm_head
  kv.k, kv.v                [layers], where the folder fixes an FP8 or INT8 cache
Dtypes are held to the descriptions too. Exit 1, naming the first tensors, when anything differs by more than 1e-6 of its
largest magnitude, is missing or extra.
"""
import json
import pathlib
import re
import struct
import sys

import numpy as np

PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def e4m3_values():
    """OCP 8-bit floating point, e4m3: bias 7, subnormals below 2^-6, no infinity, S.1111.111 is not a number."""
    values = np.zeros(256, np.float32)
    for code in range(256):
        exponent, fraction = (code >> 3) & 15, code & 7
        size = fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
        values[code] = np.nan if code & 127 == 127 else -size if code & 128 else size
    return values


E4M3 = e4m3_values()


class Stored(dict):
    """Arrays by name; kinds: their dtypes as the file spells them."""

    def __init__(self):
        super().__init__()
        self.kinds = {}


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    tensors = Stored()
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        raw, shape, kind = data[begin:end], entry["shape"], entry["dtype"]
        if kind == "F8_E4M3":
            array = E4M3[np.frombuffer(raw, np.uint8)]
        elif kind == "BF16":
            array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(raw, PLAIN[kind])
        tensors[name] = array.reshape(shape)
        tensors.kinds[name] = kind
    return tensors


def f32(array):
    return np.asarray(array).astype(np.float32)


def scalar(array):
    assert array.size == 1, f"{array.shape} where one value belongs"
    return f32(array).reshape(1)


KINDS = {  # by the end of the name; "model" is the dtype of what is not quantized, "codes" what the format stores
    ".weight_packed": "I32", ".weight_shape": "I64", ".weight_zero_point": "I32", ".qweight": "I32", ".qzeros": "I32",
    ".scales": "F16", ".pre_quant_scale": "model", ".prequant_scaling_factor": "model", "_scaling_factor": "F32",
    ".per_channel_scale": "F32", ".smoother": "F32", ".scale_to_int": "F32", ".input_scale": "F32", ".k_scale": "F32",
    ".v_scale": "F32", ".weight_scale": "scale", ".weight": "codes",
}
NOT_QUANTIZED = re.compile(r"norm\.weight$|ln_f\.weight$|embed|lm_head|_layernorm")


def check_kinds(stored, model, codes, scale="F32"):
    known = {"model": {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[model], "codes": codes, "scale": scale}
    known["codes"] = codes or known["model"]
    known["scale"] = known["model"] if scale == "model" else scale
    for name, kind in stored.kinds.items():
        end = next(end for end in KINDS if name.endswith(end))
        wanted = "model" if end == ".weight" and NOT_QUANTIZED.search(name) else KINDS[end]
        wanted = known.get(wanted, wanted)
        assert kind == wanted, f"{name} is {kind}, and the layout has {wanted} there"


def eight_nibbles(words):
    """[..., n] int32 → [..., n, 8]: bits 4i to 4i + 3 in place i."""
    return (words.view(np.uint32)[..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15


class Folder:
    """What every layout ends in: a dict of F32 arrays under Hugging Face names."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.config = json.loads((self.path / "config.json").read_text())
        self.out = {}

    def projections(self):
        c = self.config
        for i in range(c["num_hidden_layers"]):
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
                yield f"model.layers.{i}.{name}"

    def hugging_face(self, decode, kv=None, codes=None, scale="F32"):
        """decode(take) → weight, input scale or None; take(suffix) pops a tensor of the projection."""
        stored = read_safetensors(self.path / "model.safetensors")
        check_kinds(stored, self.config.get("dtype") or self.config["torch_dtype"], codes, scale)
        for name in self.projections():
            weight, scale = decode(lambda suffix, optional=False: stored.pop(name + suffix, None) if optional
                                   else stored.pop(name + suffix))
            self.out[name + ".weight"] = weight
            if scale is not None:
                self.out[name + ".input_scale"] = scale
        if kv:
            for key, pattern in zip(("kv.k", "kv.v"), kv):
                names = [f"model.layers.{i}.self_attn.{pattern}" for i in range(self.config["num_hidden_layers"])]
                self.out[key] = np.concatenate([scalar(stored.pop(n)) for n in names])
        self.out.update({name: f32(array) for name, array in stored.items()})
        return self.out


def two_rows_a_byte(packed):
    """[n/2, k] bytes → [n, k]: the low nibble row 2j, the high one row 2j + 1, two's complement of four bits."""
    byte = packed.view(np.uint8)
    rows = np.stack([byte & 15, byte >> 4], 1).reshape(-1, byte.shape[1]).astype(np.int32)
    return np.where(rows > 7, rows - 16, rows)


def grouped(values, scales):
    """values [n, k] times scales [n, k/g]."""
    n, groups = scales.shape
    return (values.reshape(n, groups, -1).astype(np.float32) * f32(scales)[..., None]).reshape(n, -1)


def read_modelopt(folder):
    quant = json.loads((folder.path / "hf_quant_config.json").read_text())["quantization"]
    assert set(quant["exclude_modules"]) <= {"lm_head", "model.embed_tokens"}, quant

    def decode(take):
        algo = quant["quant_algo"]
        if algo == "FP8":
            return take(".weight") * scalar(take(".weight_scale")), scalar(take(".input_scale"))
        if algo == "W4A16_AWQ":
            scales = take(".weight_scale")
            weight = grouped(two_rows_a_byte(take(".weight")), scales)
            assert weight.shape[1] // scales.shape[1] == quant["group_size"]
            factor = take(".pre_quant_scale", optional=True)
            return weight if factor is None else weight * f32(factor), None
        assert algo == "W8A8_SQ_PER_CHANNEL", algo
        weight = take(".weight") * f32(take(".weight_scale"))[:, None]
        return weight * f32(take(".pre_quant_scale")), scalar(take(".input_scale"))

    assert quant["kv_cache_quant_algo"] in (None, "FP8")
    kv = ("k_proj.k_scale", "v_proj.v_scale") if quant["kv_cache_quant_algo"] == "FP8" else None
    return folder.hugging_face(decode, kv, {"FP8": "F8_E4M3", "W4A16_AWQ": "U8"}.get(quant["quant_algo"], "I8"))


def read_compressed_tensors(folder):
    quant = folder.config["quantization_config"]
    assert quant["quantization_status"] == "compressed" and quant["ignore"] == ["lm_head"]
    (group,) = quant["config_groups"].values()
    weights, activations = group["weights"], group["input_activations"]

    def decode(take):
        static = activations is not None and not activations["dynamic"]
        if quant["format"] != "pack-quantized":
            assert quant["format"] == ("float-quantized" if weights["type"] == "float" else "int-quantized")
            scale = f32(take(".weight_scale"))
            assert scale.size == 1 or weights["strategy"] == "channel" and scale.shape[1] == 1
            return take(".weight").astype(np.float32) * scale, scalar(take(".input_scale")) if static else None
        n, k = take(".weight_shape")
        values = eight_nibbles(take(".weight_packed")).reshape(n, -1)[:, :k].astype(np.int32)
        scales = take(".weight_scale")
        assert scales.shape == (n, k // weights["group_size"])
        if weights["symmetric"]:
            return grouped(values - 8, scales), None
        zeros = np.moveaxis(eight_nibbles(take(".weight_zero_point")), -1, 1).reshape(-1, scales.shape[1])[:n]
        return grouped(values - np.repeat(zeros.astype(np.int32), weights["group_size"], 1), scales), None

    kv = ("k_scale", "v_scale") if quant["kv_cache_scheme"] else None
    return folder.hugging_face(decode, kv, "F8_E4M3" if weights["type"] == "float" else "I8",
                               "model" if quant["format"] == "pack-quantized" else "F32")


def read_awq(folder):
    quant = folder.config["quantization_config"]
    assert quant["bits"] == 4 and quant["version"] == "gemm" and quant["zero_point"]

    def columns(words):
        """AutoAWQ: of eight columns, bits 4i hold number 0, 2, 4, 6, 1, 3, 5, 7."""
        nibbles = eight_nibbles(words)
        ordered = np.zeros_like(nibbles)
        ordered[..., [0, 2, 4, 6, 1, 3, 5, 7]] = nibbles
        return ordered.reshape(words.shape[0], -1).astype(np.int32)

    def decode(take):
        values, zeros, scales = columns(take(".qweight")), columns(take(".qzeros")), f32(take(".scales"))
        repeat = values.shape[0] // zeros.shape[0]
        assert repeat == quant["group_size"]
        return ((values - np.repeat(zeros, repeat, 0)).astype(np.float32) * np.repeat(scales, repeat, 0)).T, None

    return folder.hugging_face(decode)


HF_OF_TRTLLM = {"attention.dense": "self_attn.o_proj", "mlp.fc": "mlp.gate_proj", "mlp.gate": "mlp.up_proj",
                "mlp.proj": "mlp.down_proj"}


def read_trtllm(folder):
    """Each rank's file is decoded alone; then rows of q, k, v, gate, up and columns of o and down are put together."""
    c, quant = folder.config, folder.config["quantization"]
    ranks, algo = c["mapping"]["tp_size"], quant["quant_algo"]
    heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_size"]
    files = [read_safetensors(folder.path / f"rank{r}.safetensors") for r in range(ranks)]
    out = folder.out
    assert c["mapping"]["world_size"] == ranks and len(list(folder.path.glob("rank*.safetensors"))) == ranks
    for stored in files:
        check_kinds(stored, c["dtype"], None if algo is None else "F8_E4M3" if algo.startswith("FP8") else "I8")

    def decode(stored, name):
        weight = stored.pop(name + ".weight")
        if algo is None:
            return f32(weight), None
        if algo == "W4A16_AWQ":
            weight = grouped(two_rows_a_byte(weight), stored.pop(name + ".weights_scaling_factor"))
            factor = stored.pop(name + ".prequant_scaling_factor", None)
            return weight if factor is None else weight * f32(factor), None
        if algo == "FP8":
            scale = stored.pop(name + ".weights_scaling_factor")
            return weight * scalar(scale), scalar(stored.pop(name + ".activation_scaling_factor"))
        if algo == "W8A8_SQ_PER_CHANNEL":
            weight = weight * f32(stored.pop(name + ".weights_scaling_factor"))[:, None]
            weight = weight * f32(stored.pop(name + ".prequant_scaling_factor"))
            return weight, scalar(stored.pop(name + ".activation_scaling_factor"))
        assert algo in ("FP8_PER_CHANNEL_PER_TOKEN", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"), algo
        weight = weight.astype(np.float32) * f32(stored.pop(name + ".per_channel_scale")).reshape(-1, 1)
        smoother = stored.pop(name + ".smoother", None)
        return weight if smoother is None else weight / f32(smoother).reshape(1, -1), None

    def put(name, parts, axis):
        weights, scales = zip(*parts)
        out[name + ".weight"] = np.concatenate(weights, axis)
        if scales[0] is not None:
            assert all(s == scales[0] for s in scales)
            out[name + ".input_scale"] = scales[0]

    for i in range(c["num_hidden_layers"]):
        layer, hf = f"transformer.layers.{i}.", f"model.layers.{i}."
        q, k, v = [], [], []
        for stored in files:
            weight, scale = decode(stored, layer + "attention.qkv")
            mine, shared = heads // ranks * dim, max(kv_heads // ranks, 1) * dim
            assert weight.shape[0] == mine + 2 * shared
            for list_, part in zip((q, k, v), np.split(weight, [mine, mine + shared])):
                list_.append((part, scale))
        repeats = max(ranks // kv_heads, 1)  # each KV head lies in so many ranks, one after the other
        for parts in (k, v):
            for r, (part, _) in enumerate(parts):
                assert np.array_equal(part, parts[r // repeats * repeats][0]), "repeated KV heads differ"
        for name, parts in zip(("q_proj", "k_proj", "v_proj"), (q, k[::repeats], v[::repeats])):
            put(hf + "self_attn." + name, parts, 0)
        for trtllm, name in HF_OF_TRTLLM.items():
            axis = 1 if trtllm in ("attention.dense", "mlp.proj") else 0
            put(hf + name, [decode(stored, layer + trtllm) for stored in files], axis)
        if quant["kv_cache_quant_algo"]:
            scales = [scalar(stored.pop(layer + "attention.kv_cache_scaling_factor")) for stored in files]
            assert all(s == scales[0] for s in scales)
            out.setdefault("kv.k", []).append(scales[0])
            out.setdefault("kv.v", []).append(scales[0])
            for stored in files:  # modelopt writes what it was made of beside it
                stored.pop(layer + "attention.k_cache_scaling_factor", None)
                stored.pop(layer + "attention.v_cache_scaling_factor", None)
        for trtllm, name in (("input_layernorm", "input_layernorm"), ("post_layernorm", "post_attention_layernorm")):
            norms = [f32(stored.pop(f"{layer}{trtllm}.weight")) for stored in files]
            assert all(np.array_equal(n, norms[0]) for n in norms)
            out[f"{hf}{name}.weight"] = norms[0]
            for stored in files:
                if algo == "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN":
                    assert stored.pop(f"{layer}{trtllm}.scale_to_int") == 1
    for key in ("kv.k", "kv.v"):
        if key in out:
            out[key] = np.concatenate(out[key])
    embeddings = [f32(stored.pop("transformer.vocab_embedding.weight")) for stored in files]
    if c["use_parallel_embedding"] and ranks > 1:
        assert c["embedding_sharding_dim"] == 0
        embeddings = [np.concatenate(embeddings)]
    assert all(np.array_equal(e, embeddings[0]) for e in embeddings)
    out["model.embed_tokens.weight"] = embeddings[0][:c["vocab_size"]]
    if not c["share_embedding_table"]:
        head = np.concatenate([f32(stored.pop("lm_head.weight")) for stored in files])
        assert not head[c["vocab_size"]:].any(), "padding should be zero"
        out["lm_head.weight"] = head[:c["vocab_size"]]
    for stored in files:
        out["model.norm.weight"] = f32(stored.pop("transformer.ln_f.weight"))
        assert not stored, f"unknown tensors {sorted(stored)}"
    return out


def main():
    folder, expected = Folder(sys.argv[1]), read_safetensors(sys.argv[2])
    method = folder.config.get("quantization_config", {}).get("quant_method")
    readers = {"modelopt": read_modelopt, "compressed-tensors": read_compressed_tensors, "awq": read_awq}
    found = readers.get(method, read_trtllm)(folder)
    wrong = [f"{name}: only in {'the folder' if name in found else 'what was expected'}"
             for name in sorted(set(found) ^ set(expected))]
    for name in sorted(set(found) & set(expected)):
        a, b = f32(found[name]), f32(expected[name])
        if a.shape != b.shape:
            wrong.append(f"{name}: shape {a.shape}, expected {b.shape}")
        elif not np.abs(a - b).max() <= 1e-6 * np.abs(b).max():
            wrong.append(f"{name}: differs by {np.abs(a - b).max():.3g} of {np.abs(b).max():.3g}")
    for line in wrong[:10]:
        print(line)
    print(f"{len(found)} tensors read by the {method or 'TensorRT-LLM'} layout's description, {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
