"""Muon for matrices and AdamW for everything else, as one optimizer; the learning-rate schedule.

Sources: K. Jordan et al., Muon (2024), for the iteration and its coefficients; Moonlight
(arXiv 2502.16982) for the scale that matches the size of AdamW's updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pixelwizard.config.targets import Target, door_of
from pixelwizard.config.train import OptimizerSettings, TrainConfig
from pixelwizard.training.sharded import shard_like

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
TOGETHER = 1 << 24
"""How many values are updated at once: 64 MB a temporary tensor, however large the network is."""


def newton_schulz(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values of about 0.7 to 1.2.

    ``matrix`` is [out, in], or [N, out, in] for N of them; the iteration runs in ``dtype``.
    """
    a, b, c = NEWTON_SCHULZ
    product = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    x = matrix.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = product(gram, gram, gram, beta=b, alpha=c)
        x = product(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrix.dtype)


def alike(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters batched by shape on a GPU, as fast as a single one; on a CPU each alone."""
    groups: dict[Hashable, list[Tensor]] = {}
    for place, parameter in enumerate(parameters):
        key: Hashable = place if parameter.device.type == "cpu" else parameter.shape
        groups.setdefault(key, []).append(parameter)
    for group in groups.values():
        yield from bounded(group)


def bounded(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters one after the other, at most ``TOGETHER`` values of several at once."""
    some: list[Tensor] = []
    for parameter in parameters:
        if some and sum(p.numel() for p in some) + parameter.numel() > TOGETHER:
            yield some
            some = []
        some.append(parameter)
    if some:
        yield some


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the parameters of groups with ``muon=True``, AdamW on those of the others.

    Convolution weights are taken as [out, everything else]. Muon's updates are scaled by
    0.2 sqrt(longer side), so that both kinds of update have about the same size per entry. Weight
    decay is decoupled from the gradient in both. ``dtype`` is that of Muon's iteration.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], settings: OptimizerSettings, dtype: torch.dtype
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
        for some in alike(parameters):
            updates = [self._momentum(p, group["momentum"]) for p in some]
            one = len(some) == 1
            found = newton_schulz(updates[0] if one else torch.stack(updates), self.dtype)
            scale = 0.2 * max(updates[0].shape) ** 0.5
            for p, change in zip(some, [found] if one else found, strict=True):
                p.add_(shard_like(change.view(p.shape), p), alpha=-group["lr"] * scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov's momentum as a whole matrix."""
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        update = p.grad.lerp(state["momentum"], momentum).flatten(1)
        return update.full_tensor() if isinstance(update, DTensor) else update

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for some in bounded(parameters):
            states, gradients = [self.state[p] for p in some], [p.grad for p in some]
            for p, state in zip(some, states, strict=True):
                if not state:
                    state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
                state["step"] += 1
            means, squares = ([state[name] for state in states] for name in ("mean", "square"))
            torch._foreach_lerp_(means, gradients, 1 - first)
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - second)
            spread = torch._foreach_div(squares, [1 - second ** state["step"] for state in states])
            torch._foreach_sqrt_(spread)
            torch._foreach_add_(spread, 1e-8)
            steps = [-group["lr"] / (1 - first ** state["step"]) for state in states]
            torch._foreach_addcdiv_(some, means, spread, steps)


def make_optimizer(
    networks: Sequence[tuple[nn.Module, float]],
    settings: OptimizerSettings,
    matrices: Callable[[str, Tensor], bool],
    dtype: torch.dtype,
) -> torch.optim.Optimizer:
    """The optimizer of networks, each with its factor on the learning rates.

    ``matrices`` says which named parameters Muon takes. ``dtype`` is that in which the networks
    compute. Each group remembers its highest rate as ``peak``.
    """
    if settings.target is not None:
        return _own_optimizer(networks, settings.target)
    groups: list[dict[str, Any]] = []
    for network, factor in networks:
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        chosen = {name for name, p in named if settings.muon_lr > 0 and matrices(name, p)}
        muon = [p for name, p in named if name in chosen]
        rest = [p for name, p in named if name not in chosen]
        lr, muon_lr = factor * settings.lr, factor * settings.muon_lr
        groups.append(dict(params=rest, lr=lr, peak=lr))
        if muon:
            groups.append(dict(params=muon, lr=muon_lr, peak=muon_lr, muon=True))
    return MuonAdamW(groups, settings, dtype)


def _own_optimizer(
    networks: Sequence[tuple[nn.Module, float]], target: Target
) -> torch.optim.Optimizer:
    """A user's optimizer, with a group of parameters for each network if there are several."""
    params: list[Any] = [[p for p in n.parameters() if p.requires_grad] for n, _ in networks]
    grouped = params[0] if len(params) == 1 else [{"params": some} for some in params]
    door = door_of(TrainConfig, "optimizer")
    made: torch.optim.Optimizer = door.make(target, "optimizer", params=grouped)
    factors = [f for _, f in networks] if len(networks) > 1 else [1.0] * len(made.param_groups)
    for group, factor in zip(made.param_groups, factors, strict=True):
        group["peak"] = factor * group["lr"]
    return made


def rate(progress: float, step: int, settings: OptimizerSettings) -> float:
    """The factor in 0..1 on the peak rates: rise over ``warmup`` steps, hold, cosine to 0.

    ``progress`` is the share of the training that is done.
    """
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    fall = (progress - (1 - settings.decay)) / max(settings.decay, 1e-9)
    return rise * 0.5 * (1 + math.cos(math.pi * min(max(fall, 0.0), 1.0)))
