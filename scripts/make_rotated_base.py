#!/usr/bin/env python3
"""Makes a copy of a Llama folder that computes the same function from other weights.

    scripts/make_rotated_base.py [--model models/smollm2-135m-instruct] [--out models/smollm2-135m-rotated]

SmolLM2's weights here come from a 4-bit file: they lie on an affine grid of 16 levels per 32 inputs, and an INT4 method
can win by finding that grid again. Turning the residual stream takes them off it, so that INT4 methods can be compared.

With R orthogonal [hidden, hidden] and the residual stream x (a row) replaced by x R:
  - RMSNorm without its weight commutes with R, since it only divides by a length; so every norm's weight g moves into
    the layers that read it (W diag(g)) and becomes 1;
  - what reads the stream (q, k, v, gate, up, lm_head)      W -> W diag(g) R
  - what writes into it (o, down)                           W -> R^T W
  - the embedding, whose rows enter the stream              E -> E R
The final norm's weight moves into lm_head alone, so embedding and lm_head are no longer tied. R is block-diagonal: 64 x 64
Hadamard matrices over 8, each row and column with a random sign of a fixed seed; hidden must be a multiple of 64.

Computed in float64 and rounded to FP16 once. numpy only.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy

BLOCK = 64
READERS = {
    "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
}
WRITERS = ["self_attn.o_proj", "mlp.down_proj"]


def fail(message):
    sys.exit(f"make_rotated_base: {message}")


def make_rotation(hidden: int, seed: int):
    """Block-diagonal orthogonal matrix [hidden, hidden], float64."""
    if hidden % BLOCK:
        fail(f"the hidden size {hidden} is no multiple of {BLOCK}")
    hadamard = numpy.ones((1, 1))
    while hadamard.shape[0] < BLOCK:
        hadamard = numpy.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard /= BLOCK**0.5
    rng = numpy.random.default_rng(seed)
    rotation = numpy.zeros((hidden, hidden))
    for start in range(0, hidden, BLOCK):
        rows, columns = rng.choice([-1.0, 1.0], (2, BLOCK))
        rotation[start:start + BLOCK, start:start + BLOCK] = rows[:, None] * hadamard * columns
    return rotation


def read_safetensors(path: Path) -> dict:
    """Tensors of a file of FP16, as float16 arrays."""
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
        data = stream.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F16":
            fail(f"{path}: {name} is {entry['dtype']}; only FP16 folders, as make_model.py writes them, can be turned")
        begin, end = entry["data_offsets"]
        tensors[name] = numpy.frombuffer(data[begin:end], numpy.float16).reshape(entry["shape"])
    return tensors


def write_safetensors(path: Path, tensors: dict):
    """Names in order, data without gaps, the header padded to 8 bytes."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        header[name] = {"dtype": "F16", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in sorted(tensors):
            stream.write(numpy.ascontiguousarray(tensors[name]).tobytes())


def rotate(tensors: dict, layers: int, rotation) -> dict:
    result = {}

    def weight(name):
        if name + ".weight" not in tensors:
            fail(f"the model has no tensor {name}.weight")
        return tensors[name + ".weight"].astype(numpy.float64)

    def put(name, value):
        rounded = value.astype(numpy.float16)
        if not numpy.isfinite(rounded).all():
            fail(f"{name}.weight does not fit into FP16")
        result[name + ".weight"] = rounded

    embedding = weight("model.embed_tokens")
    head = weight("lm_head") if "lm_head.weight" in tensors else embedding
    hidden = embedding.shape[1]
    put("model.embed_tokens", embedding @ rotation)
    put("lm_head", head * weight("model.norm") @ rotation)
    put("model.norm", numpy.ones(hidden))
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for norm, readers in READERS.items():
            for reader in readers:
                put(prefix + reader, weight(prefix + reader) * weight(prefix + norm) @ rotation)
            put(prefix + norm, numpy.ones(hidden))
        for writer in WRITERS:
            put(prefix + writer, rotation.T @ weight(prefix + writer))
    unused = set(tensors) - set(result)
    if unused:
        fail(f"this Llama holds tensors that would be lost: {', '.join(sorted(unused))}")
    return result


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=root / "models" / "smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=root / "models" / "smollm2-135m-rotated")
    parser.add_argument("--seed", type=int, default=64)
    args = parser.parse_args()

    if args.out.exists():
        print(f"make_rotated_base: {args.out} is there")
        return
    config_file, weights_file = args.model / "config.json", args.model / "model.safetensors"
    for file in [config_file, weights_file]:
        if not file.is_file():
            fail(f"{file} is not there; 'make model' makes it")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    rotation = make_rotation(config["hidden_size"], args.seed)
    tensors = rotate(read_safetensors(weights_file), config["num_hidden_layers"], rotation)

    work = Path(tempfile.mkdtemp(prefix=f".{args.out.name}.", dir=args.out.parent))
    try:
        folder = work / "model"
        folder.mkdir()
        for file in args.model.iterdir():
            if file.suffix == ".json" and file != config_file:
                shutil.copy(file, folder / file.name)
        config["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_safetensors(folder / "model.safetensors", tensors)
        folder.rename(args.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"make_rotated_base: {args.out}: {len(tensors)} tensors, seed {args.seed}")


if __name__ == "__main__":
    main()
