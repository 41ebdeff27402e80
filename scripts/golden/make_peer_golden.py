#!/usr/bin/env python3
"""Tiny quantized folders made by other people's code, with the logits that other people's code computes from them.

    make_peer_golden.py compressed-tensors|modelopt|trtllm

compressed-tensors: torch, transformers and compressed-tensors as scripts/requirements-layouts.txt pins them: the library
that llm-compressor writes its folders with. modelopt: `pip install nvidia-modelopt==0.47.0` on top of them. Writes
tests/golden/peers/<case>/: the folder as the library saved it, and golden.safetensors: token_ids I32 [tokens], logits
F32 [tokens, vocab], kv "fp8" in the metadata where the cache is quantized. Logits are transformers' in float32 from the
saved folder. It cannot load modelopt's; there the folder is read by tests/quantize/read_layouts.py, the weights go into
transformers' model, and what enters a linear layer is rounded as the folder's input scale says. (The model before the
export is another one: modelopt rounds q, k and v again with a common scale.) Nothing here calls Quantgrid.
"""
import copy
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "peers"
CONFIG = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
                     num_key_value_heads=2, vocab_size=160, max_position_embeddings=128, rms_norm_eps=1e-5,
                     tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, architectures=["LlamaForCausalLM"])
IDS = [(i * 37 + 11) % CONFIG.vocab_size for i in range(40)]
CALIBRATION = torch.tensor([[(i * 53 + s * 7 + 3) % CONFIG.vocab_size for i in range(64)] for s in range(4)])


def make_model():
    torch.manual_seed(20261126)
    model = LlamaForCausalLM(CONFIG).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
                parameter[3] *= 12  # an outlier channel
            else:
                parameter.normal_(0, 0.08)
            parameter.copy_(parameter.half().float())
    return model


def save_golden(case, logits, kv=None):
    for extra in ("generation_config.json",):
        (OUT / case / extra).unlink(missing_ok=True)
    save_file({"token_ids": torch.tensor(IDS, dtype=torch.int32), "logits": logits.float().contiguous()},
              OUT / case / "golden.safetensors", metadata={"kv": kv or "none"})


def run(model):
    with torch.no_grad():
        return model(torch.tensor([IDS]), use_cache=False).logits[0]


# compressed-tensors -------------------------------------------------------------------------------------------------

def arguments(bits, kind, strategy, symmetric=True, dynamic=False, group_size=None):
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric, "dynamic": dynamic,
            "group_size": group_size}


FLOAT = arguments(8, "float", "tensor")
COMPRESSED = {  # case: (format, weights, activations, KV scheme)
    "compressed-fp8": ("float-quantized", FLOAT, FLOAT, None),
    "compressed-fp8-kv": ("float-quantized", FLOAT, FLOAT, FLOAT),
    "compressed-fp8-dynamic": ("float-quantized", arguments(8, "float", "channel"),
                               arguments(8, "float", "token", dynamic=True), None),
    "compressed-int8": ("int-quantized", arguments(8, "int", "channel"), arguments(8, "int", "token", dynamic=True), None),
    "compressed-int4": ("pack-quantized", arguments(4, "int", "group", group_size=32), None, None),
    "compressed-int4-zeros": ("pack-quantized", arguments(4, "int", "group", symmetric=False, group_size=32), None, None),
}


def observe(module, name, largest):
    def hook(_, inputs):
        x = inputs[0].detach()
        low, high = largest.get(name, (x.min(), x.max()))
        largest[name] = (torch.minimum(low, x.min()), torch.maximum(high, x.max()))
    return module.register_forward_pre_hook(hook)


def set_scales(model, largest):
    from compressed_tensors.quantization.utils import calculate_qparams
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or not isinstance(module, torch.nn.Linear):
            continue
        w, args = module.weight.detach(), scheme.weights
        if args.strategy == "tensor":
            low, high = w.min().reshape(1), w.max().reshape(1)
        elif args.strategy == "channel":
            low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
        else:
            groups = w.reshape(w.shape[0], -1, args.group_size)
            low, high = groups.amin(2), groups.amax(2)
        scale, zero = calculate_qparams(low, high, args)
        module.weight_scale.data = scale.to(module.weight_scale.dtype)
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
        if scheme.input_activations is not None and not scheme.input_activations.dynamic:
            low, high = largest[name]
            scale, _ = calculate_qparams(low.reshape(1), high.reshape(1), scheme.input_activations)
            module.input_scale.data = scale.to(module.input_scale.dtype)


def compressed_tensors_case(case, form, weights, activations, kv):
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    model, largest = make_model(), {}
    hooks = [observe(m, n, largest) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        model(CALIBRATION)
    for hook in hooks:
        hook.remove()
    model = model.half()
    group = {"targets": ["Linear"], "weights": weights}
    if activations:
        group["input_activations"] = activations
    settings = {"config_groups": {"group_0": group}, "ignore": ["lm_head"], "format": form}
    if kv:
        settings["kv_cache_scheme"] = kv
    apply_quantization_config(model, QuantizationConfig(**settings))
    set_scales(model, largest)
    for layer in model.model.layers:
        for scale, projection in (("k_scale", "k_proj"), ("v_scale", "v_proj")):
            if kv:
                getattr(layer.self_attn, scale).data.fill_(0.015625 if scale == "k_scale" else 0.0078125)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    shutil.rmtree(OUT / case, ignore_errors=True)
    model.save_pretrained(OUT / case)
    compressor.update_config(str(OUT / case))
    # compressed-tensors 0.20 makes room for unpacked zero points and then finds packed ones; dequantizing it reads them.
    more = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if case.endswith("zeros") else {}
    loaded = AutoModelForCausalLM.from_pretrained(OUT / case, dtype=torch.float32, device_map="cpu", **more).eval()
    save_golden(case, run(loaded), "fp8" if kv else None)


# Folders that transformers cannot load ------------------------------------------------------------------------------

READER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "quantize"
OF_TRTLLM = {"q_proj": "attention.qkv", "k_proj": "attention.qkv", "v_proj": "attention.qkv", "o_proj": "attention.dense",
             "gate_proj": "mlp.fc", "up_proj": "mlp.gate", "down_proj": "mlp.proj"}


def read_folder(folder):
    sys.path.insert(0, str(READER))
    import read_layouts as reader
    opened = reader.Folder(folder)
    if "quantization_config" in opened.config:
        return reader.read_modelopt(opened), reader.read_safetensors(folder / "model.safetensors"), ".pre_quant_scale"
    return reader.read_trtllm(opened), reader.read_safetensors(folder / "rank0.safetensors"), ".prequant_scaling_factor"


def rounded(x, scale, bits):
    if bits == "fp8":
        return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
    return (x / scale).round().clamp(-127, 127) * scale  # what is clipped is clipped alike on both sides


def folder_logits(case, kind):
    """kind: fp8, int8 or int4, as the folder's algorithm says; KV scales as stored."""
    tensors, stored, suffix = read_folder(OUT / case)
    vocab = tensors["lm_head.weight"].shape[0]
    config = copy.deepcopy(CONFIG)
    config.vocab_size = vocab
    model = LlamaForCausalLM(config).float().eval()
    model.load_state_dict({n: torch.tensor(a) for n, a in tensors.items()
                           if n.endswith("weight")})
    for name, module in model.named_modules():
        if name + ".input_scale" not in tensors:
            continue
        scale, factor = tensors[name + ".input_scale"].item(), None
        if kind == "int8":  # rounded after the scale of the input, which the reader has multiplied into the weights
            layer, part = name.split(".")[2], name.rsplit(".", 1)[1]
            factor = torch.tensor(stored.get(name + suffix, stored.get(
                f"transformer.layers.{layer}.{OF_TRTLLM[part]}{suffix}"))).float()
        module.register_forward_pre_hook(lambda _, x, s=scale, f=factor: (
            rounded(x[0], s, kind) if f is None else rounded(x[0] * f, s, kind) / f,))
    if "kv.k" in tensors:
        quantize_cache(model, tensors["kv.k"], tensors["kv.v"])
    return run(model)


def quantize_cache(model, k_scales, v_scales):
    """K after RoPE and V, rounded to e4m3 as an FP8 cache holds them."""
    import transformers.models.llama.modeling_llama as llama
    plain = llama.eager_attention_forward

    def attention(module, q, k, v, *more, **others):
        return plain(module, q, rounded(k, float(k_scales[module.layer_idx]), "fp8"),
                     rounded(v, float(v_scales[module.layer_idx]), "fp8"), *more, **others)

    model.config._attn_implementation = "quantized"
    llama.ALL_ATTENTION_FUNCTIONS.register("quantized", attention)
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    ALL_MASK_ATTENTION_FUNCTIONS.register("quantized", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def kind_of(config_name):
    return {"FP8": "fp8", "INT8": "int8", "INT4": "int4"}[config_name.split("_")[0]]


# modelopt -----------------------------------------------------------------------------------------------------------

def modelopt_config(name):
    import modelopt.torch.quantization as mtq
    config = copy.deepcopy(getattr(mtq, name.removesuffix("+KV")))
    if name.endswith("+KV"):
        config["quant_cfg"] += copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"])
    for entry in config["quant_cfg"]:
        if "block_sizes" in (entry.get("cfg") or {}):
            entry["cfg"]["block_sizes"][-1] = 32  # 128 does not divide the tiny model
    return config


def modelopt_case(case, config_name, kv):
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    model = mtq.quantize(make_model(), modelopt_config(config_name), lambda m: m(CALIBRATION))
    shutil.rmtree(OUT / case, ignore_errors=True)
    export_hf_checkpoint(model.half(), dtype=torch.float16, export_dir=str(OUT / case))
    save_golden(case, folder_logits(case, kind_of(config_name)), kv)


def trtllm_case(case, config_name, ranks):
    """modelopt's export for trtllm-build, split among `ranks` GPUs."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_tensorrt_llm_checkpoint
    model = mtq.quantize(make_model(), modelopt_config(config_name), lambda m: m(CALIBRATION))
    shutil.rmtree(OUT / case, ignore_errors=True)
    export_tensorrt_llm_checkpoint(model.half(), "llama", torch.float16, export_dir=str(OUT / case),
                                   inference_tensor_parallel=ranks)
    save_golden(case, folder_logits(case, kind_of(config_name)), "fp8" if config_name.endswith("+KV") else None)


TRTLLM = {"trtllm-fp8-kv": ("FP8_DEFAULT_CFG+KV", 1), "trtllm-fp8-tp2": ("FP8_DEFAULT_CFG", 2),
          "trtllm-int4-awq-tp2": ("INT4_AWQ_CFG", 2), "trtllm-int8": ("INT8_SMOOTHQUANT_CFG", 1)}
MODELOPT = {"modelopt-fp8": ("FP8_DEFAULT_CFG", None), "modelopt-fp8-kv": ("FP8_DEFAULT_CFG+KV", "fp8"), "modelopt-int4-awq": ("INT4_AWQ_CFG", None),
            "modelopt-int8": ("INT8_SMOOTHQUANT_CFG", None)}


def main():
    cases, make = {"compressed-tensors": (COMPRESSED, compressed_tensors_case), "modelopt": (MODELOPT, modelopt_case),
                   "trtllm": (TRTLLM, trtllm_case)}[
        sys.argv[1]]
    for case, settings in cases.items():
        make(case, *settings)
        print(case, sorted(p.name for p in (OUT / case).iterdir()))


if __name__ == "__main__":
    main()
