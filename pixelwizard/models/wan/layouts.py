"""Names of weights: those of other layouts -> the official ones, and what names tell of a file.

Layouts (diffusers, transformers, llama.cpp, merged files) differ only in the names of equal
tensors, so a layout is a short list of rules. Source of the names: diffusers'
``WanTransformer3DModel`` and ``AutoencoderKLWan``, transformers' ``UMT5EncoderModel``, and
llama.cpp's ``gguf`` package. Prefixes: ComfyUI's ``supported_models.py`` and the
trainers that write them. A file that is not what was asked for is known by names and shapes, or by
what its publisher calls it (the repositories in NOTICE).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

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

_DIT_NAMES = (
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("delta_embedding.0", "condition_embedder.delta_embedder.linear_1"),
    ("delta_embedding.2", "condition_embedder.delta_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    *(
        (f"blocks.*.{ours}.{one}", f"blocks.*.{other}.to_{'out.0' if one == 'o' else one}")
        for ours, other in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for one in "qkvo"
    ),
    ("blocks.*.self_attn", "blocks.*.attn1"),
    ("blocks.*.cross_attn", "blocks.*.attn2"),
    ("blocks.*.norm3", "blocks.*.norm2"),
    ("blocks.*.ffn.0", "blocks.*.ffn.net.0.proj"),
    ("blocks.*.ffn.2", "blocks.*.ffn.net.2"),
    ("blocks.*.modulation", "blocks.*.scale_shift_table"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
)
"""Beginnings of a transformer's names: official, and of diffusers; ``*`` is a number."""
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


def _beginning(old: str, new: str) -> tuple[str, str]:
    """The rule that gives names another beginning."""
    number = re.escape(old).replace(r"\*", r"(\d+)")
    return rf"^{number}(?=\.|$)", new.replace("*", r"\1")


_OFFICIAL: Rules = [_beginning(other, ours) for ours, other in _DIT_NAMES]
_DIFFUSERS: Rules = [_beginning(ours, other) for ours, other in _DIT_NAMES]
_TEXT_ENDS = {
    "token_embedding.weight": "shared.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
}
_TEXT_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
"""The text encoder's names -> those of transformers."""
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
            raise ValueError(f"{twice} appears twice, with and without the prefix {prefix}")
    return found


def official_dit(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """A transformer's tensors under their official names; those that have them stay as they are."""
    if not _any_starts(tensors, "condition_embedder."):
        return dict(tensors)
    return _renamed(tensors, official_module)


def official_module(path: str) -> str:
    """The official path of a transformer's module or tensor, given in either layout."""
    return _apply(_OFFICIAL, path)


def diffusers_module(path: str) -> str:
    """The path in diffusers of a transformer's module, given by its official one."""
    return _apply(_DIFFUSERS, path)


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


def official_names(num_layers: int) -> dict[str, str]:
    """Map every official weight name to its name in ``UMT5EncoderModel`` (one to one)."""
    names = dict(_TEXT_ENDS)
    for layer in range(num_layers):
        for official, other in _TEXT_BLOCK.items():
            names[f"blocks.{layer}.{official}.weight"] = f"encoder.block.{layer}.{other}.weight"
    return names


def official_text(tensors: Mapping[str, Value], num_layers: int) -> dict[str, Value]:
    """A text encoder's tensors under their official names; the embedding may be there twice."""
    if _any_starts(tensors, "enc."):
        tensors = _renamed(tensors, lambda name: _apply(_LLAMA, name))
    if not _any_starts(tensors, "encoder."):
        return dict(tensors)
    names = {other: official for official, other in official_names(num_layers).items()}
    once = dict(tensors)
    embedding = once.pop("encoder.embed_tokens.weight", None)
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


Shapes = Mapping[str, Sequence[int]]

_OTHER = "take the files of Wan2.2-TI2V-5B"
_LORA = re.compile(r"[._](lora_|lora\.|hada_|lokr_|oft_|diff$|diff_b$|diff_m$|dora_scale)")
_QUANTISED = re.compile(
    r"\.(qweight|qzeros|wscales|weight_packed|absmax|quant_map|weight_scale_2|SCB)$|bitsandbytes"
)
_WAN_SIZES = {1536: "Wan2.1-1.3B", 3072: "Wan2.2-TI2V-5B", 5120: "the 14B of Wan2.1 and 2.2"}
_T5_VOCABULARY = 32128

_BY_NAME = (
    (r"to_gate_compress", "FastWan with sparse attention (VSA)", "take its FullAttn version"),
    (r"^vace_", "Wan VACE, which takes control videos", _OTHER),
    (r"control_adapter|control_layers", "a control variant of Wan (Fun)", _OTHER),
    (r"motion_encoder|face_adapter", "Wan-Animate", _OTHER),
    (r"audio_injector|audio_encoder|audio_proj", "Wan-S2V, which takes sound", _OTHER),
    (r"img_emb\.|image_embedder|\.k_img\.|add_k_proj", "Wan2.1-I2V", _OTHER),
    (r"far_patch_embedding", "AnyFlow's causal network (FAR)", "take its T2V version"),
    (r"double_blocks\.|single_blocks\.|single_transformer_blocks", "Flux or HunyuanVideo", _OTHER),
    (r"^(blocks\.\d+\.block\.|joint_blocks|input_blocks)", "another model's network", _OTHER),
    (r"^decoder\.22\.", "the preview decoder TAEHV", "take Wan2.2_VAE.pth"),
)
"""What only another network has in a name, what that is, and what to do."""

_DISTILLED = (
    (r"turbo", "Turbo", [1000, 750, 500, 250]),
    (r"fast[-_]?wan", "FastWan", [1000, 757, 522]),
)
"""Networks with the base's names and shapes that were trained for few steps without guidance."""


def advice(name: str) -> str | None:
    """How to sample a distilled network, which only the ``name`` of its file or folder tells."""
    for pattern, model, steps in _DISTILLED:
        if re.search(pattern, name, re.IGNORECASE):
            times = str(steps).replace(" ", "")
            return (
                f"{name} is {model} by its name, made for {len(steps)} steps without guidance; use"
                f" anchor.timesteps={times} anchor.guidance=1"
            )
    return None


def refuse_exact(name: str) -> None:
    """Raise ValueError for weights that exact attention would turn into noise.

    T3-Video's have the base's names and shapes: only the ``name`` of their file or folder tells.
    """
    if re.search(r"t3[-_]?video", name, re.IGNORECASE):
        raise ValueError(
            f"{name} is T3-Video by its name, whose weights need their own attention; use"
            " attention=t3"
        )


def recognised(shapes: Shapes, expected: Shapes) -> str | None:
    """What a file with these names and shapes is and what to do with it.

    None if it is unknown, or the kind of network that is ``expected``.
    """
    if any(_LORA.search(name) for name in shapes):
        return "is a LoRA, not a network; add it with backbone.lora=[FILE]"
    if quantised := next((name for name in shapes if _QUANTISED.search(name)), None):
        return (
            f"is quantised in a way that cannot be read ({quantised}); take the version in fp16,"
            " bf16, fp8 (one scale a weight) or GGUF"
        )
    for pattern, what, remedy in _BY_NAME:
        if any(re.search(pattern, name) for name in shapes):
            return f"is {what}; {remedy}"
    parts: tuple[Callable[[Shapes], str | None], ...] = (_transformer, _text_encoder, _autoencoder)
    found = next((found for part in parts if (found := part(shapes))), None)
    return None if any(part(expected) == found for part in parts) else found


def _transformer(shapes: Shapes) -> str | None:
    head = shapes.get("head.modulation", shapes.get("scale_shift_table"))
    patches = shapes.get("patch_embedding.weight")
    if head is None or patches is None:
        return None
    model = _WAN_SIZES.get(head[-1])
    what = f"is a transformer of width {head[-1]}" + (f", that of {model}" if model else "")
    if any(name.startswith("spatial_adapter.") for name in shapes):
        return f"{what}, with the adapter of a detail network; name it with backbone.detail=FILE"
    kinds = {16: "Wan's text to video with the VAE of 2.1", 36: "Wan's image to video of 14B"}
    if patches[1] in kinds:
        return f"{what}, for {kinds[patches[1]]}; {_OTHER}"
    if model == "Wan2.2-TI2V-5B":
        return f"{what}; use backbone=wan2_2_ti2v_5b backbone.anchor=FILE"
    return f"{what}; name it with backbone.anchor=FILE, and its sizes with backbone.dit"


def _text_encoder(shapes: Shapes) -> str | None:
    names = ("shared.weight", "token_embedding.weight", "token_embd.weight")
    embedding = next((shapes[name] for name in names if name in shapes), None)
    if embedding is None:
        return None
    if embedding[0] == _T5_VOCABULARY:
        return "is T5 v1.1 (of Flux and others), not UMT5; take the umt5-xxl encoder"
    return f"is a text encoder of {embedding[0]} tokens; name it with backbone.text_encoder=FILE"


def _autoencoder(shapes: Shapes) -> str | None:
    if not any(name.startswith(("decoder.middle.", "decoder.mid_block.")) for name in shapes):
        return None
    last = shapes.get("decoder.head.2.weight", shapes.get("decoder.conv_out.weight", ()))
    if len(last) == 5 and last[2] == 1:
        return "is the autoencoder of Qwen-Image; take Wan2.2_VAE.pth"
    nested = re.compile(r"decoder\.(upsamples\.\d+\.upsamples|up_blocks\.\d+\.(upsampler|resnets))")
    old = re.compile(r"decoder\.(upsamples\.\d+\.residual|up_blocks\.\d+\.upsamplers)\.")
    if any(old.match(name) for name in shapes) or not any(nested.match(name) for name in shapes):
        return "is the autoencoder of Wan2.1 (16 channels); take Wan2.2_VAE.pth (48 channels)"
    return "is a video autoencoder; name it with backbone.vae=FILE"
