"""The memory of a training step on each GPU: forwards and backward of the real network, traced.

The step is traced at full size on the meta device: bfloat16 computation, a batch of one, every
block recomputed in the backward (gradient checkpointing), and for the detail network the
self-consistency step with its two half steps. The memory between steps is counted from the
number of parameters: float32 weights, gradients, both moments of AdamW and the moving average, cut
into equal slices (FSDP2, ``fully_shard`` per block). ``further`` is what an objective adds: the
weights of a teacher, weights and moments of a score network. On several GPUs two whole blocks in
bfloat16 are added, and the gradients of one; one GPU keeps a bfloat16 copy of all weights, as
autocast does. Every GPU holds the activations of a whole clip.

With ``adapter=lora`` the network's weights are frozen, in ``backbone.dtype``, and gradients,
moments and average are the LoRA's. One GPU has the frozen weights once; several hold their slices
twice, in the network and in its average.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.config.generate import ATTENTION, PlanConfig
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.objective import TAUGHT, ObjectiveSettings
from pixelwizard.io.process import GB
from pixelwizard.io.terminal import aligned
from pixelwizard.models.lora.adapter import add_adapter
from pixelwizard.models.shortcut.network import ShortcutDiT, make_detail
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.planning.device import META, Trace

FULL, HALF = 4, 2
"""Bytes of float32 and of bfloat16."""
MOMENTS = 2
WHOLE_BLOCKS = 2


@dataclass(frozen=True)
class TrainingPlan:
    """Gigabytes on each of ``gpus`` devices; ``computing`` are bfloat16 weights in use."""

    gpus: int
    tokens: int
    weights_gb: float
    gradients_gb: float
    optimizer_gb: float
    average_gb: float
    further_gb: float
    computing_gb: float
    activations_gb: float

    @property
    def peak_gb(self) -> float:
        """All of it."""
        values = asdict(self)
        return float(sum(value for name, value in values.items() if name.endswith("_gb")))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "peak_gb": self.peak_gb}


def plan_training(config: PlanConfig) -> list[TrainingPlan]:
    """The memory of a training of ``config.train`` for each number of GPUs."""
    size, backbone = config.resolution, config.backbone
    detail = config.train == "detail"
    geometry = size.geometry if detail else size.anchor_geometry
    sizes = backbone.detail_dit if detail else backbone.dit
    with META:
        network: WanDiT = WanDiT(sizes)
        if detail:
            network = make_detail(backbone.detail_network, sizes, backbone.control_blocks)
    network = network.to(torch.bfloat16)
    network.checkpointing = True
    network.attention = ATTENTION.make(config.attention, "attention")
    if config.adapter.used:
        add_adapter(network, config.adapter, torch.bfloat16)
    (trained, frozen), block = parameters(network), parameters(network.blocks[0])
    base = getattr(torch, backbone.dtype).itemsize
    anchor, rule = size.anchor_geometry if detail else None, config.objective
    activations = trace_step(network, geometry, anchor, gradient_passes(rule))
    further = FULL * further_networks(rule) * (trained + frozen)

    def on_each_of(gpus: int) -> TrainingPlan:
        computing = trained if gpus == 1 else WHOLE_BLOCKS * sum(block) + block[0]
        return TrainingPlan(
            gpus=gpus,
            tokens=geometry.tokens,
            weights_gb=(FULL * trained + base * frozen) / gpus / GB,
            gradients_gb=FULL * trained / gpus / GB,
            optimizer_gb=MOMENTS * FULL * trained / gpus / GB,
            average_gb=(FULL * trained + (base * frozen if gpus > 1 else 0)) / gpus / GB,
            further_gb=further / gpus / GB,
            computing_gb=HALF * computing / GB,
            activations_gb=activations / GB,
        )

    return [on_each_of(gpus) for gpus in config.gpus]


def parameters(network: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many are frozen."""
    counts = {True: 0, False: 0}
    for parameter in network.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return counts[True], counts[False]


def gradient_passes(rule: ObjectiveSettings) -> int:
    """The most passes of a step whose gradients are kept together."""
    return 3 if rule.kind == "dmd" and rule.dmd.rollout == "jumps" else 1


def further_networks(rule: ObjectiveSettings) -> int:
    """What an objective keeps besides its student, in networks of float32 weights."""
    teacher = rule.target is None and rule.kind in TAUGHT
    score = rule.target is None and rule.kind == "dmd"
    return teacher + (1 + MOMENTS) * score


def trace_step(
    network: WanDiT, geometry: Geometry, anchor: Geometry | None, passes: int = 1
) -> int:
    """The peak of live bytes in a step, with weights and gradients separately."""
    sizes = network.sizes
    for parameter in filter(lambda p: p.requires_grad, network.parameters()):
        # gradients are counted apart
        parameter.register_post_accumulate_grad_hook(_without_gradient)
    trace = Trace()
    with trace, _attention_as_trained():
        latent = torch.empty(1, sizes.in_dim, *geometry.latent_grid, device=META)
        target = torch.empty_like(latent)
        text = network.encode_text([torch.empty(sizes.text_len, sizes.text_dim, device=META)])
        time = torch.empty(1, device=META)
        inputs: list[Tensor] = []
        if anchor is not None:
            assert isinstance(network, ShortcutDiT)
            condition = torch.empty(1, sizes.in_dim, *anchor.latent_grid, device=META)
            inputs = [time, network.encode_anchor(condition, geometry.token_grid)]
            with torch.no_grad():
                target = network(latent, time, text, *inputs)
                target = target + network(latent, time, text, *inputs)
        found = network(latent, time, text, *inputs)
        for _ in range(passes - 1):
            found = network(latent - found, time, text, *inputs)
        (found - target).square().mean().backward()
    return trace.peak


def _without_gradient(parameter: nn.Parameter) -> None:
    parameter.grad = None


@contextmanager
def _attention_as_trained() -> Iterator[None]:
    """Fused attention as training needs it: its inputs and output stay, its scores never exist.

    Function modes, by which ``Trace`` does the same, are off while autograd computes a block again.
    """
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _Attention.apply  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], device=query.device)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def training_table(part: str, plans: Sequence[TrainingPlan]) -> str:
    """The plans as text."""
    parts = [name for name in TrainingPlan.__annotations__ if name.endswith("_gb")]
    rows = [["GPUs", "tokens", *(name.removesuffix("_gb") for name in parts), "peak GB each"]]
    for plan in plans:
        figures = (f"{getattr(plan, name):.1f}" for name in (*parts, "peak_gb"))
        rows.append([f"{plan.gpus}", f"{plan.tokens}", *figures])
    title = f"a step of training the {part} network: bfloat16, checkpointed blocks, a clip per GPU"
    return "\n".join([title, *aligned(rows, left=())])
