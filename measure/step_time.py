"""How long a step of every objective takes, beside what its passes would: run by hand.

    python measure/step_time.py --out outputs/step_time

A step of each kind of target is timed on random latents of ``tiny``'s detail network: processor
seconds of one thread, the least of some repetitions, loss, gradients, clipping and update included.
A pass with gradient counts as three, one without as one; ``flow`` has one with gradient. A kind
counts as often as it is drawn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pixelwizard.cli.compose import compose
from pixelwizard.config.train import TrainConfig
from pixelwizard.training.train import make_module
from pixelwizard.training.work import DRAWN, WITH_GRADIENT, kind_at

METHODS: dict[str, list[str]] = {
    "flow": ["objective=flow"],
    "shortcut": ["objective=shortcut"],
    "flow_map": ["objective=flow_map", "objective.flow.guidance=1"],
    "flow_map, guidance 3": ["objective=flow_map"],
    "mean_flow": ["objective=mean_flow"],
    "mean_flow, forward mode": ["objective=mean_flow", "objective.mean_flow.derivative=jvp"],
    "consistency": ["objective=consistency"],
    "consistency, continuous": ["objective=consistency", "objective.consistency.kind=continuous"],
    "progressive": ["objective=progressive"],
    "dmd": ["objective=dmd"],
    "dmd, jumps": ["objective=dmd", "objective.dmd.rollout=jumps"],
}


@dataclass
class Cost:
    """Seconds of a step, and its passes in units of one without gradient."""

    seconds: float = 0.0
    passes: float = 0.0


def cost_of(config: TrainConfig, repeats: int) -> Cost:
    """The mean step of a training, over the kinds of step that it draws."""
    module: Any = make_module(config)
    optimizer, total = module.configure_optimizers(), Cost()
    shares = Counter(kind_at(module.objective, step) for step in range(DRAWN))
    for kind, count in shares.items():
        one = min((timed(module, optimizer, kind) for _ in range(repeats)), key=lambda c: c.seconds)
        total.seconds += one.seconds * count / DRAWN
        total.passes += one.passes * count / DRAWN
    return total


def timed(module: Any, optimizer: torch.optim.Optimizer, kind: str) -> Cost:
    """One step of a kind."""
    found = Cost()
    hooks = [
        network.register_forward_pre_hook(lambda network, _: count(found, network))
        for network in module.networks
    ]
    batch, own_kind = batch_for(module.config), module.target_kind
    module.target_kind = lambda _: kind
    before = time.process_time()
    optimizer.zero_grad()
    module.loss(module.network, batch).backward()
    parameters = [p for network, _ in module.trained for p in network.parameters()]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    found.seconds = time.process_time() - before
    module.target_kind = own_kind
    for hook in hooks:
        hook.remove()
    return found


def count(found: Cost, network: torch.nn.Module) -> None:
    """Add one pass of a network."""
    trains = torch.is_grad_enabled() and any(p.requires_grad for p in network.parameters())
    found.passes += WITH_GRADIENT if trains else 1


def batch_for(config: TrainConfig) -> dict[str, Any]:
    """Random latents and texts, as encoded data are."""
    size, draw = config.resolution, torch.Generator().manual_seed(0)
    count, dit = config.objective.batch, config.backbone.dit
    grids = {"latent": size.geometry.latent_grid, "condition": size.anchor_geometry.latent_grid}
    batch: dict[str, Any] = {
        name: torch.randn(count, dit.in_dim, *grid, generator=draw) for name, grid in grids.items()
    }
    text = [torch.randn(8, dit.text_dim, generator=draw)] * count
    return {**batch, "text": text, "empty": [torch.zeros(1, dit.text_dim)] * count, "step": 0}


def costs(methods: Mapping[str, Sequence[str]], overrides: Sequence[str], n: int) -> dict[str, Any]:
    """What the steps of methods cost, each beside that of the first."""
    found: dict[str, Any] = {}
    first = Cost()
    for name, own in methods.items():
        given = ["experiments=compare_objectives", *own, "run_dir=unused", *overrides]
        cost = cost_of(compose("train", given)[0].config, n)
        first = first if first.seconds else cost
        ratio, passes = cost.seconds / first.seconds, cost.passes / first.passes
        found[name] = {**asdict(cost), "ratio": ratio, "expected": passes}
        over = 100 * (ratio / passes - 1)
        print(f"| {name} | {cost.seconds:.2f} | {ratio:.2f} | {passes:.2f} | {over:+.0f} % |")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all objectives and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="settings of train, as key=value")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    print("| objective | seconds a step | ratio | passes, ratio | above its passes |")
    print("|---|---:|---:|---:|---:|")
    found = costs(METHODS, given.overrides, given.repeats)
    (given.out / "step_time.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
