"""Rectified flow: the path between data and noise, and the way back along a schedule.

Time convention of the whole project: sigma runs from 1 (pure noise) to 0 (data), the timestep is
t = 1000 sigma, the path is x = (1 - sigma) x0 + sigma noise, and networks predict its derivative
v = dx/dsigma = noise - x0. The state of a sampling run can be saved at every step.

A latent longer than the network was trained for goes through it in overlapping windows of time.
Every step evaluates the network in each window of one shared latent, which starts as one shared
noise, and blends the outputs. So the solver, its history and a skip rule see a single latent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Sequence

import torch
from torch import Tensor

from pixelwizard.config.geometry import windows_of
from pixelwizard.diffusion.schedules import SKIP, SOLVER, TRAIN_TIMESTEPS, Schedule, Step

if TYPE_CHECKING:
    from pixelwizard.diffusion.skip.base import Kept, Moment, Skip
    from pixelwizard.diffusion.solvers.base import Solver
    from pixelwizard.parallel.exchange import CFGParallel


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """The point of the path at ``sigma``, a number or one value per sample ([B])."""
    if isinstance(sigma, Tensor) and sigma.ndim:
        sigma = per_sample(sigma, x0.ndim)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """dx/dsigma of the path, the same at every sigma."""
    return noise - x0


def initial_noise(shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal float32 noise from a separate generator on ``device``."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)


def keyed_generator(*key: object) -> torch.Generator:
    """A random generator for a key like (seed, step, "noise"), independent of earlier draws."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise with the shape, dtype and device of ``x``.

    ``generator`` is on the CPU. For a GPU it only draws the seed of a generator there: a CPU takes
    nearly as long to draw the noise of a batch as a GPU for a whole step of a small network.
    """
    if x.device.type == "cpu":
        return torch.randn(x.shape, generator=generator).to(x)
    seed = int(torch.randint(2**62, (), generator=generator))
    return initial_noise(x.shape, seed, x.device).to(x)


def per_sample(values_B: Tensor, axes: int = 5) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1], or with another number of axes, to multiply latents."""
    return values_B.view(-1, *[1] * (axes - 1))


Velocity = Callable[[Tensor, Step], Tensor]
"""The velocity that a network predicts for a latent at a step."""


def guided(
    conditional: Velocity,
    unconditional: Velocity,
    scale: float,
    cfg: CFGParallel | None = None,
    together: Velocity | None = None,
) -> Velocity:
    """Classifier-free guidance: u + scale (c - u) on guided steps, c alone on the others.

    With ``cfg`` the first rank computes c and the second u; both compute unguided steps.
    ``together`` computes c and u as one batch: [B, ...] -> [2 B, ...].
    """

    def velocity(x: Tensor, step: Step) -> Tensor:
        if not step.guided:
            return conditional(x, step)
        if cfg is not None:
            c, u = cfg.both((conditional, unconditional)[cfg.index](x, step))
        elif together is not None:
            c, u = together(x, step).chunk(2)
        else:
            c, u = conditional(x, step), unconditional(x, step)
        return u + scale * (c - u)

    return velocity


@dataclass(frozen=True)
class SolverState:
    """Everything that the rest of a sampling run depends on, after ``step`` finished steps.

    ``history`` is the solver's, ``kept`` the skip rule's; ``skipped`` are the steps skipped so far.
    """

    step: int
    latent: Tensor
    history: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()
    skipped: tuple[int, ...] = ()

    def to_tensors(self) -> dict[str, Tensor]:
        """As a flat dict, to be written to a file."""
        step, skipped = torch.tensor(self.step), torch.tensor(self.skipped, dtype=torch.int64)
        history = {f"history.{index}": tensor for index, tensor in enumerate(self.history)}
        kept = {f"kept.{index}": tensor for index, tensor in enumerate(self.kept)}
        return {"step": step, "skipped": skipped, "latent": self.latent, **history, **kept}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SolverState:
        """The inverse of ``to_tensors``."""
        history, kept = (
            tuple(tensors[f"{part}.{i}"] for i in range(sum(n.startswith(part) for n in tensors)))
            for part in ("history", "kept")
        )
        skipped = tuple(int(step) for step in tensors.get("skipped", ()))
        return cls(int(tensors["step"]), tensors["latent"], history, kept, skipped)


def sample(
    velocity: Velocity,
    noise: Tensor,
    schedule: Schedule,
    *,
    first: Tensor | None = None,
    probe: Velocity | None = None,
    state: SolverState | None = None,
    on_step: Callable[[SolverState], None] | None = None,
) -> Tensor:
    """Integrates ``velocity(x, step)`` from ``noise`` to data -> float32, shaped like ``noise``.

    ``first`` [B, C, 1, H, W] is a given first frame of the latent. It replaces the latent's own
    before every evaluation and after every step (Wan2.2 ``WanTI2V.i2v``).

    ``probe(x, step)`` is the first block's change of some tokens, for skip rules that use it.
    ``on_step`` receives the state after every step; a run that starts from such a state ends in
    the same bits. Raises ValueError if a solver evaluates the network more or less often than its
    ``evaluations`` says, because plans and NFE would be wrong.
    """
    solver = SOLVER.make(schedule.solver, "solver")
    skip = None if schedule.skip == "none" else SKIP.make(schedule.skip, "skip")
    state = state or SolverState(0, with_first(first, noise.float()))
    for index in range(state.step, len(schedule.steps)):
        step, kept = schedule.steps[index], state.kept
        answer, computed = velocity, step.computed
        if skip is not None:
            look = cache(partial(probe or _no_probe, state.latent, step))
            moment = skip.at(schedule.sigmas, index, state.latent, look)
            computed = skip.asks(moment, kept) if computed is None else computed
            answer = velocity if computed else partial(_instead, skip, moment, kept)
        ask = _Ask(answer, step, first)
        made = solver.step(schedule.sigmas, index, state.latent, ask, state.history)
        latent, history = _result(solver, made, state.latent, index)
        if ask.count != step.evaluations:
            raise ValueError(
                f"{type(solver).__name__} asked the network {ask.count} times in step {index};"
                f" its evaluations() says {step.evaluations}"
            )
        if skip is not None and computed:
            kept = skip.remember(moment, ask.first, kept)
        skipped = state.skipped if computed else (*state.skipped, index)
        latent = with_first(first, latent.float())
        state = SolverState(index + 1, latent, history, kept, skipped)
        if on_step is not None:
            on_step(state)
    return state.latent


def with_first(first: Tensor | None, latent: Tensor) -> Tensor:
    """A latent [B, C, T, H, W] with its first frame replaced, if one is given."""
    return latent if first is None else torch.cat((first, latent[:, :, 1:]), dim=2)


def _no_probe(x: Tensor, step: Step) -> Tensor:
    raise ValueError("a skip rule needs the network's first block, and there is none")


class _Ask:
    """The velocity for a solver inside one step, anywhere along the path; counts evaluations.

    The network gets the step's own timestep at its start, and 1000 sigma elsewhere.
    """

    def __init__(self, velocity: Velocity, step: Step, given: Tensor | None) -> None:
        self.velocity, self.step, self.given, self.count = velocity, step, given, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        step = self.step
        if sigma != step.sigma:
            step = replace(step, sigma=sigma, timestep=TRAIN_TIMESTEPS * sigma)
        answer = self.velocity(with_first(self.given, x), step).float()
        if self.count == 0:
            self.first = answer
        self.count += 1
        return answer


def _result(solver: Solver, made: Any, before: Tensor, index: int) -> tuple[Tensor, Kept]:
    """What a solver's step returned. Raises ValueError where it is no latent and tensors."""
    place = f"{type(solver).__name__}.step() of step {index}"
    latent, history = made if isinstance(made, tuple) and len(made) == 2 else (None, None)
    tensors = [latent, *(history if isinstance(history, (tuple, list)) else [None])]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise ValueError(f"{place} must return the next latent and a tuple of tensors")
    _check_shape(place, tensors[0], before)
    return tensors[0], tuple(tensors[1:])


def _check_shape(place: str, made: Tensor, like: Tensor) -> None:
    if made.shape != like.shape:
        raise ValueError(
            f"{place} returned a tensor of {list(made.shape)}; it must be {list(like.shape)}"
        )


def _instead(skip: Skip, moment: Moment, kept: Kept, x: Tensor, step: Step) -> Tensor:
    """The velocity of a step that is skipped."""
    velocity = skip.velocity(moment, step.sigma, kept)
    _check_shape(f"{type(skip).__name__}.velocity() of step {moment.index}", velocity, x)
    return velocity


Join = Callable[[Callable[[slice], Tensor], int, int], Tensor]
"""(evaluate a window, frames, window length) -> the outputs of all windows as one."""


def blended(ask: Callable[[slice], Tensor], frames: int, window: int) -> Tensor:
    """The outputs ``[B, C, window, H, W]`` of all windows as one ``[B, C, frames, H, W]``, float32.

    ``ask(span)`` returns the output for the latent frames of ``span``. Where windows overlap, their
    weights rise and fall linearly and are divided by their sum. One window needs no blending.
    """
    spans = windows_of(frames, window)
    if len(spans) == 1:
        return ask(spans[0])
    total: Tensor | None = None
    weights = [_weights(span, frames) for span in spans]
    share = torch.stack(weights).sum(0)
    for span, weight in zip(spans, weights, strict=True):
        answer = ask(span).float()
        if total is None:
            total = answer.new_zeros(*answer.shape[:2], frames, *answer.shape[3:])
        part = (weight / share)[span].to(answer.device, torch.float32)
        total[:, :, span] += answer * part.view(-1, 1, 1)
    assert total is not None
    return total


def side_by_side(ask: Callable[[slice], Tensor], frames: int, window: int) -> Tensor:
    """The outputs ``[B, L, E]`` of all windows, concatenated along L."""
    return torch.cat([ask(span) for span in windows_of(frames, window)], dim=1)


def _weights(span: slice, frames: int) -> Tensor:
    """The weight of a window in every latent frame: 0 outside, falling towards its inner ends."""
    place = torch.arange(frames, dtype=torch.float64)
    rise = place - span.start + 1 if span.start else torch.full_like(place, frames)
    fall = span.stop - place if span.stop < frames else torch.full_like(place, frames)
    return torch.minimum(rise, fall).clamp_min(0)
