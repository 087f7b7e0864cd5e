"""Weight names of diffusers and transformers -> the official names.

Layouts differ only in the names of equal tensors, so a layout is a short list of
rules. Source of the names: diffusers' ``WanTransformer3DModel`` and ``AutoencoderKLWan``; those of
the text encoder are in ``umt5.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from pixelwizard.models.wan.umt5 import official_names

Rules = Sequence[tuple[str, str]]
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


def official_dit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's tensors under their official names; those that have them stay as they are."""
    if not _any_starts(tensors, "condition_embedder."):
        return dict(tensors)
    return _renamed(tensors, lambda name: _apply(_DIT, name))


def official_vae(tensors: Mapping[str, Tensor], num_res_blocks: int) -> dict[str, Tensor]:
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


def official_text(tensors: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """A text encoder's tensors under their official names; the embedding may be there twice."""
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


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): tensor for name, tensor in tensors.items()}
