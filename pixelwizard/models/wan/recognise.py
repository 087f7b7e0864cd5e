"""What a file of weights is, if it is not what was asked for: one sentence with a way out.

Files are known by names and shapes; those whose names and shapes are the base's, by what their
publishers call them. Sources of the names: the repositories in NOTICE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

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
    (r"delta_embedder|far_patch_embedding", "AnyFlow, of Wan2.1", _OTHER),
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
