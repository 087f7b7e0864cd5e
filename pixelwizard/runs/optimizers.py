"""Muon for matrices beside AdamW for everything else, as one optimizer; the rate over a training.

Sources: K. Jordan et al., Muon (2024), for the iteration and its coefficients; Moonlight
(arXiv 2502.16982) for the scale that matches the size of AdamW's updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pixelwizard.runs.sharded import like
from pixelwizard.settings.train import OptimizerSettings

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalised(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values of about 0.7 to 1.2.

    ``matrix`` is [out, in]; the iteration runs in ``dtype``. One matrix after the other is faster
    on a CPU than a batch.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the parameters of groups with ``muon=True``, AdamW on those of the others.

    Convolution weights are taken as [out, everything else]. Muon's updates are scaled by
    0.2 sqrt(longer side), so that both kinds of update have about the same size per entry. Weight
    decay is decoupled from the gradient in both. ``dtype`` is that of Muon's iteration.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        settings: OptimizerSettings,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = dict(
            lr=settings.lr,
            momentum=settings.momentum,
            betas=tuple(settings.betas),
            weight_decay=settings.weight_decay,
            muon=False,
        )
        super().__init__(groups, defaults)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adamw)(parameters, group)
        return result

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
            scale = 0.2 * max(update.shape) ** 0.5
            full = update.full_tensor() if isinstance(update, DTensor) else update
            change = like(orthogonalised(full, self.dtype).view(p.shape), p)
            p.add_(change, alpha=-group["lr"] * scale)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for p in parameters:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1 - first)
            state["square"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
            spread = (state["square"] / (1 - second ** state["step"])).sqrt_().add_(1e-8)
            p.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - first ** state["step"]))


def make_optimizer(
    network: nn.Module,
    settings: OptimizerSettings,
    matrices: Callable[[str, Tensor], bool],
    dtype: torch.dtype,
) -> MuonAdamW:
    """The optimizer of a network; ``matrices`` says which named parameters Muon takes.

    ``dtype`` is that in which the network computes. Each group remembers its highest rate as
    ``peak``.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    use_muon = settings.muon_lr > 0
    chosen = {name for name, p in named if use_muon and matrices(name, p)}
    muon = [p for name, p in named if name in chosen]
    rest = [p for name, p in named if name not in chosen]
    groups: list[dict[str, Any]] = [dict(params=rest, lr=settings.lr, peak=settings.lr)]
    if muon:
        groups.append(dict(params=muon, lr=settings.muon_lr, peak=settings.muon_lr, muon=True))
    return MuonAdamW(groups, settings, dtype)


def rate(progress: float, step: int, settings: OptimizerSettings) -> float:
    """The factor in 0..1 on the peak rates: rise over ``warmup`` steps, hold, cosine to 0.

    ``progress`` is the share of the training that is done.
    """
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    fall = (progress - (1 - settings.decay)) / max(settings.decay, 1e-9)
    return rise * 0.5 * (1 + math.cos(math.pi * min(max(fall, 0.0), 1.0)))
