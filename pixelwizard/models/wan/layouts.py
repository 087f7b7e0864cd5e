"""Weight names of diffusers, transformers, llama.cpp and merged files -> the official names.

Layouts differ only in the names of equal tensors, so a layout is a short list of
rules. Source of the names: diffusers' ``WanTransformer3DModel`` and ``AutoencoderKLWan``; those of
the text encoder are in ``umt5.py``, and llama.cpp's in its ``gguf`` package. Prefixes: ComfyUI's
``supported_models.py`` and the trainers that write them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pixelwizard.models.wan.umt5 import official_names

Rules = Sequence[tuple[str, str]]
Value = TypeVar("Value")
"""What stands under the names: weights, shapes or anything else."""
PREFIXES = {
    "transformer": ("diffusion_model.", "net.", "pipe.dit.", "dit.", "transformer."),
    "text_encoder": (
        *("text_encoders.umt5xxl.transformer.", "text_encoders.umt5xxl.", "umt5xxl.transformer."),
        *("cond_stage_model.transformer.", "text_encoder.", "transformer."),
    ),
    "vae": ("first_stage_model.", "vae."),
}
"""What may stand in front of all names of a network, and in a merged file in front of each."""
EMBEDDING = "encoder.embed_tokens.weight"

_DIT: Rules = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^(blocks\.\d+\.)attn1\.", r"\1self_attn."),
    (r"^(blocks\.\d+\.)attn2\.", r"\1cross_attn."),
    (r"(_attn\.)to_([qkv])\.", r"\1\2."),
    (r"(_attn\.)to_out\.0\.", r"\1o."),
    (r"^(blocks\.\d+\.)norm2\.", r"\1norm3."),
    (r"^(blocks\.\d+\.ffn\.)net\.0\.proj\.", r"\g<1>0."),
    (r"^(blocks\.\d+\.ffn\.)net\.2\.", r"\g<1>2."),
    (r"^(blocks\.\d+\.)scale_shift_table$", r"\1modulation"),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
)
_DIFFUSERS: Rules = (
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"(\.attn[12]\.)([qkv])\.", r"\1to_\2."),
    (r"(\.attn[12]\.)o\.", r"\1to_out.0."),
    (r"\.norm3\.", ".norm2."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^head\.head\.", "proj_out."),
)
"""The way back, for modules."""
_VAE: Rules = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"coder\.norm_out\.", "coder.head.0."),
    (r"coder\.conv_out\.", "coder.head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.", r".\1samples.\2.\1samples."),
    (r"\.norm1\.", ".residual.0."),
    (r"(middle\.\d|samples\.\d+)\.conv1\.", r"\1.residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


_LLAMA: Rules = (
    (r"^token_embd\.", "shared."),
    (r"^enc\.output_norm\.", "encoder.final_layer_norm."),
    (r"^enc\.blk\.(\d+)\.", r"encoder.block.\1."),
    (r"\.attn_rel_b\.", ".layer.0.SelfAttention.relative_attention_bias."),
    (r"\.attn_([qkvo])\.", r".layer.0.SelfAttention.\1."),
    (r"\.attn_norm\.", ".layer.0.layer_norm."),
    (r"\.ffn_norm\.", ".layer.1.layer_norm."),
    (r"\.ffn_gate\.", ".layer.1.DenseReluDense.wi_0."),
    (r"\.ffn_up\.", ".layer.1.DenseReluDense.wi_1."),
    (r"\.ffn_down\.", ".layer.1.DenseReluDense.wo."),
)


def without_prefix(tensors: Mapping[str, Value], part: str) -> dict[str, Value]:
    """The weights of a ``part`` (of ``PREFIXES``) without what stands in front of their names.

    Of a merged file those of other parts are left out. Raises ValueError for a name that is there
    with a prefix and without.
    """
    found = dict(tensors)
    foreign = tuple(p for other, some in PREFIXES.items() if other != part for p in some)
    while prefix := next((p for p in PREFIXES[part] if _any_starts(found, p)), None):
        own = {n: v for n, v in found.items() if n.startswith(prefix) or not n.startswith(foreign)}
        found = {name.removeprefix(prefix): value for name, value in own.items()}
        if len(found) < len(own):
            twice = next(name for name in own if prefix + name in own)
            raise ValueError(f"{twice} is there twice, with {prefix} in front and without")
    return found


def official_dit(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """A transformer's tensors under their official names; those that have them stay as they are."""
    if not _any_starts(tensors, "condition_embedder."):
        return dict(tensors)
    return _renamed(tensors, lambda name: _apply(_DIT, name))


def official_module(path: str) -> str:
    """The official path of a transformer's module, given in either layout."""
    return _apply(_DIT, f"{path}.").removesuffix(".")


def diffusers_module(path: str) -> str:
    """The path in diffusers of a transformer's module, given by its official one."""
    return _apply(_DIFFUSERS, f"{path}.").removesuffix(".")


def official_vae(tensors: Mapping[str, Value], num_res_blocks: int) -> dict[str, Value]:
    """An autoencoder's tensors under their official names.

    There the resampling layer of a level follows its ``num_res_blocks`` residual blocks (one more
    in the decoder); diffusers gives it a separate name.
    """
    if not _any_starts(tensors, "quant_conv."):
        return dict(tensors)
    down, up = num_res_blocks, num_res_blocks + 1
    rules = (
        *_VAE,
        (r"\.down_blocks\.(\d+)\.downsampler\.", rf".downsamples.\1.downsamples.{down}."),
        (r"\.up_blocks\.(\d+)\.upsampler\.", rf".upsamples.\1.upsamples.{up}."),
    )
    return _renamed(tensors, lambda name: _apply(rules, name))


def official_text(tensors: Mapping[str, Value], num_layers: int) -> dict[str, Value]:
    """A text encoder's tensors under their official names; the embedding may be there twice."""
    if _any_starts(tensors, "enc."):
        tensors = _renamed(tensors, lambda name: _apply(_LLAMA, name))
    if not _any_starts(tensors, "encoder."):
        return dict(tensors)
    names = {other: official for official, other in official_names(num_layers).items()}
    once = dict(tensors)
    embedding = once.pop(EMBEDDING, None)
    if embedding is not None:
        once.setdefault("shared.weight", embedding)
    return _renamed(once, lambda name: names.get(name, name))


def _any_starts(names: Iterable[str], beginning: str) -> bool:
    return any(name.startswith(beginning) for name in names)


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _renamed(tensors: Mapping[str, Value], rename: Callable[[str], str]) -> dict[str, Value]:
    return {rename(name): tensor for name, tensor in tensors.items()}
