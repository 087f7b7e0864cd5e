"""Stand-ins of the files that people have: one network in many layouts, types and wrappings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pixelwizard.models.wan.layouts import diffusers_module, official_vae
from pixelwizard.models.wan.umt5 import official_names

State = dict[str, Tensor]
F8, F8_RANGE = torch.float8_e4m3fn, 448.0

_DIFFUSERS_VAE = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "coder.conv1": "coder.conv_in",
    "coder.head.0": "coder.norm_out",
    "coder.head.2": "coder.conv_out",
    ".middle.0.": ".mid_block.resnets.0.",
    ".middle.1.": ".mid_block.attentions.0.",
    ".middle.2.": ".mid_block.resnets.1.",
    ".residual.0.": ".norm1.",
    ".residual.2.": ".conv1.",
    ".residual.3.": ".norm2.",
    ".residual.6.": ".conv2.",
    ".shortcut.": ".conv_shortcut.",
}
_LLAMA = {
    "norm1": "attn_norm",
    "attn.q": "attn_q",
    "attn.k": "attn_k",
    "attn.v": "attn_v",
    "attn.o": "attn_o",
    "pos_embedding.embedding": "attn_rel_b",
    "norm2": "ffn_norm",
    "ffn.gate.0": "ffn_gate",
    "ffn.fc1": "ffn_up",
    "ffn.fc2": "ffn_down",
}


def diffusers_dit(state: State) -> State:
    """Official names -> those of diffusers' transformer."""
    named = {}
    for name, tensor in state.items():
        module, _, end = name.rpartition(".")
        if end == "modulation":
            named[f"{module}.scale_shift_table".removeprefix("head.")] = tensor
        else:
            named[f"{diffusers_module(module)}.{end}"] = tensor
    return named


def diffusers_vae(state: State, num_res_blocks: int) -> State:
    """Official names -> those of diffusers' autoencoder, found by trying."""
    named = {}
    for name, tensor in state.items():
        other = name
        for ours, theirs in _DIFFUSERS_VAE.items():
            if ours.startswith("conv") and not name.startswith(ours + "."):
                continue
            other = other.replace(ours, theirs)
        for side, word in (("down", "downsampler"), ("up", "upsampler")):
            blocks = num_res_blocks + (side == "up")
            for level in range(4):
                inner = f".{side}samples.{level}.{side}samples."
                other = other.replace(f"{inner}{blocks}.", f".{side}_blocks.{level}.{word}.")
                other = other.replace(inner, f".{side}_blocks.{level}.resnets.")
        named[other] = tensor
    assert official_vae(named, num_res_blocks).keys() == state.keys()
    return named


def llama_text(state: State) -> State:
    """Official names -> llama.cpp's."""
    named = {}
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            ends = {"token_embedding.weight": "token_embd.weight"}
            named[ends.get(name, "enc.output_norm.weight")] = tensor
            continue
        _, layer, rest = name.split(".", 2)
        named[f"enc.blk.{layer}.{_LLAMA[rest.removesuffix('.weight')]}.weight"] = tensor
    return named


def transformers_text(state: State, num_layers: int) -> State:
    """Official names -> those of transformers, with the embedding twice."""
    names = official_names(num_layers)
    named = {names[name]: tensor for name, tensor in state.items()}
    return {**named, "encoder.embed_tokens.weight": named["shared.weight"].clone()}


def quantised(name: str, tensor: Tensor) -> bool:
    """What makers of float8 files quantise: the linears of the blocks."""
    return tensor.ndim == 2 and "block" in name and name.endswith(".weight")


def cast(dtype: torch.dtype) -> Callable[[State, Path], State]:
    """A file in one type, and what it holds."""

    def write(state: State, path: Path) -> State:
        made = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
        save_file(made, path)
        return made

    return write


def fp8_cast(state: State, path: Path) -> State:
    """Linears cast to float8, without a scale."""
    made = {n: t.to(F8) if quantised(n, t) else t.half() for n, t in state.items()}
    save_file(made, path)
    return made


def fp8_scaled(new: bool) -> Callable[[State, Path], State]:
    """Linears in float8 with a scale each, in ComfyUI's old or new form."""

    def write(state: State, path: Path) -> State:
        made, held = {}, {}
        for name, tensor in state.items():
            if not quantised(name, tensor):
                made[name] = held[name] = tensor.half()
                continue
            scale = tensor.float().abs().max() / F8_RANGE
            made[name] = (tensor.float() / scale).to(F8)
            held[name] = made[name].float() * scale
            module = name.removesuffix("weight")
            made[module + ("weight_scale" if new else "scale_weight")] = scale.reshape(())
            made[module + ("input_scale" if new else "scale_input")] = torch.ones(())
            if new:
                made[module + "comfy_quant"] = as_bytes({"format": "float8_e4m3fn"})
        if not new:
            made["scaled_fp8"] = torch.zeros(2, dtype=F8)
        save_file(made, path)
        return held

    return write


def as_bytes(value: object) -> Tensor:
    """JSON as the bytes of a tensor."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def gguf_file(kind: str, architecture: str = "wan") -> Callable[[State, Path], State]:
    """A GGUF file whose wide matrices are quantised, and what it holds."""

    def write(state: State, path: Path) -> State:
        gguf = pytest.importorskip("gguf")
        of = gguf.GGMLQuantizationType[kind]
        writer, held = gguf.GGUFWriter(path, architecture), {}
        for name, tensor in state.items():
            values = tensor.float().numpy()
            packed = tensor.ndim == 2 and tensor.shape[1] % 32 == 0
            chosen = of if packed else gguf.GGMLQuantizationType.F32
            data = gguf.quants.quantize(np.ascontiguousarray(values), chosen)
            writer.add_tensor(name, data, raw_dtype=chosen)
            held[name] = torch.from_numpy(gguf.quants.dequantize(data, chosen).copy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return held

    return write
