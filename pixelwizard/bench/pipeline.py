"""The four stages of one clip as ``generate`` runs them, each measured with only its network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pixelwizard.bench.forwards import Forward, compare
from pixelwizard.bench.measuring import (
    Peak,
    random_anchor,
    random_detail,
    random_text_encoder,
    random_vae,
)
from pixelwizard.bench.rates import now
from pixelwizard.bench.report import ForwardResult, SizeResult, StageResult
from pixelwizard.config.generate import PlanConfig, SamplerSettings
from pixelwizard.config.geometry import TEMPORAL_STRIDE, Geometry
from pixelwizard.diffusion.sampling import SolverState, initial_noise
from pixelwizard.diffusion.schedules import Schedule, make_schedule
from pixelwizard.generation.placement import ModelLoader
from pixelwizard.io.process import GB
from pixelwizard.io.terminal import STAGES
from pixelwizard.planning.decode_cost import TRACED
from pixelwizard.planning.report import Plan
from pixelwizard.stages.decode import Decode, decode_dtype
from pixelwizard.stages.latents import Anchor, Detail

SEED = 0
Report = Callable[[float], None]
"""Takes the share of a part that is done."""


@dataclass(frozen=True)
class Case:
    """One size: the run with whole schedules, the same with few steps, and the plans of both."""

    whole: PlanConfig
    short: PlanConfig
    whole_plan: Plan
    short_plan: Plan


@dataclass
class Clock:
    """When a stage began, when each of its steps ended and when it was done, in seconds."""

    started: float
    ends: list[float]

    @property
    def seconds(self) -> float:
        """The whole stage."""
        return self.ends[-1] - self.started

    def step_seconds(self, steps: int) -> float:
        """One of the ``steps``, the first left out where there are others: it also warms up."""
        if steps == 1:
            return self.seconds
        return (self.ends[steps - 1] - self.ends[0]) / (steps - 1)


class Pipeline:
    """Measures the stages of a case; ``report`` hears how far a part is."""

    def __init__(self, case: Case, device: torch.device, report: Report) -> None:
        self.case, self.device, self.report = case, device, report
        self.dtype: torch.dtype = getattr(torch, case.short.backbone.dtype)
        self.networks = ModelLoader(case.short, case.short_plan)
        self.forwards: list[ForwardResult] = []

    def parts(self) -> Iterator[tuple[str, Callable[[], StageResult]]]:
        """Name and measurement of every stage, in order."""
        yield from zip(STAGES, (self.text, self.anchor, self.detail, self.decode), strict=True)

    def result(self, stages: list[StageResult]) -> SizeResult:
        """What was found at this size."""
        size = self.case.short.resolution
        return SizeResult(size.width, size.height, size.frames, tuple(stages), tuple(self.forwards))

    def text(self) -> StageResult:
        """A prompt and its negative, each as long as can be."""
        sizes = self.case.short.backbone
        ids = torch.randint(sizes.text.vocab_size, (sizes.dit.text_len,))

        def run(encoder: Any, clock: Clock) -> None:
            for _ in range(2):
                encoder.encode([ids])
                clock.ends.append(now(self.device))

        clock, peak, _ = self._measured("text", random_text_encoder, run)
        return self._stage("text", clock, peak)

    def anchor(self) -> StageResult:
        """A few steps of the anchor, then one forward against the published code's."""
        config = self.case.short
        noise = self._noise(config.resolution.anchor_geometry)
        schedule = make_schedule(config.anchor, config.resolution.anchor_shift, "anchor")

        def run(network: Any, clock: Clock) -> None:
            stage = Anchor(network, schedule, config.anchor.guidance)
            stage(noise, *self._texts(), on_step=self._on_step(clock, schedule))

        clock, peak, network = self._measured("anchor", random_anchor, run)
        self._compare("anchor", Forward(network, noise, self._texts()[0]))
        return self._stage("anchor", clock, peak, config.anchor, self.case.whole.anchor)

    def detail(self) -> StageResult:
        """A few steps of the detail, then one forward against the published code's."""
        config = self.case.short
        noise = self._noise(config.resolution.geometry)
        anchor = self._noise(config.resolution.anchor_geometry)
        schedule = make_schedule(config.schedule, config.resolution.shift)

        def run(network: Any, clock: Clock) -> None:
            stage = Detail(network, schedule, config.schedule.guidance)
            stage(noise, anchor, *self._texts(), on_step=self._on_step(clock, schedule))

        clock, peak, network = self._measured("detail", random_detail, run)
        self._compare("detail", Forward(network, noise, self._texts()[0], anchor))
        return self._stage("detail", clock, peak, config.schedule, self.case.whole.schedule)

    def decode(self) -> StageResult:
        """The first latent frames of whole frames, or all of tiles; thrown away as they come."""
        size, tiles = self.case.short.resolution.geometry, self.networks.tiles
        latent, of = self._noise(size), size.latent_grid[0]
        few = min(of, TRACED) if tiles.count == 1 else of

        def run(vae: Any, clock: Clock) -> None:
            for number, _ in enumerate(Decode(vae, tiles)(latent[:, :few]), start=1):
                clock.ends.append(now(self.device))
                self.report(number / (TEMPORAL_STRIDE * (few - 1) + 1))

        clock, peak, _ = self._measured("decode", random_vae, run)
        stage = self._stage("decode", clock, peak)
        if few == of:
            return stage
        full = clock.seconds + (of - few) * (clock.ends[-1] - clock.ends[-1 - TEMPORAL_STRIDE])
        part = clock.seconds / full
        return replace(
            stage,
            steps=few,
            of_steps=of,
            planned_seconds=part * stage.planned_seconds,
            full_seconds=full,
        )

    def _measured(
        self, stage: str, make: Any, run: Callable[[Any, Clock], None]
    ) -> tuple[Clock, int, nn.Module]:
        """The stage's clock, its peak in bytes and its network, created here so it counts."""
        dtype = decode_dtype(self.case.short) if stage == "decode" else self.dtype
        with torch.no_grad():
            with Peak(self.device) as peak:
                network = self.networks.load(stage, make, self.device, dtype)
                clock = self._clocked(run, network)
            if peak.slow:
                clock = self._clocked(run, network)
        return clock, peak.bytes, network

    def _clocked(self, run: Callable[[Any, Clock], None], network: nn.Module) -> Clock:
        clock = Clock(now(self.device), [])
        run(network, clock)
        return clock

    def _compare(self, name: str, forward: Forward) -> None:
        """Only a network that is on the device whole can also be run the other way."""
        if self.networks.mode(name) != "stream":
            self.forwards.append(compare(name, forward, self.case.short_plan.budget_gb))

    def _on_step(self, clock: Clock, schedule: Schedule) -> Callable[[SolverState], None]:
        def on_step(state: SolverState) -> None:
            clock.ends.append(now(self.device))
            self.report(state.step / len(schedule.steps))

        return on_step

    def _stage(
        self,
        name: str,
        clock: Clock,
        peak: int,
        short: SamplerSettings | None = None,
        whole: SamplerSettings | None = None,
    ) -> StageResult:
        planned = self.case.short_plan.by_name[name]
        steps, of_steps, full = None, None, clock.seconds
        if short and whole:
            few, all_of_them = (make_schedule(sampler, 1.0) for sampler in (short, whole))
            steps, of_steps = len(few.steps), len(all_of_them.steps)
            per_forward = clock.step_seconds(steps) * steps / few.nfe
            full += per_forward * (all_of_them.nfe - few.nfe)
        return StageResult(
            name=name,
            mode=planned.mode,
            tokens=planned.tokens,
            steps=steps,
            of_steps=of_steps,
            seconds=clock.seconds,
            planned_seconds=planned.seconds,
            peak_gb=peak / GB,
            planned_gb=planned.peak_gb,
            full_seconds=full,
            planned_full_seconds=self.case.whole_plan.by_name[name].seconds,
            attention=self.networks.attention.kernel if short else None,
        )

    def _noise(self, geometry: Geometry) -> Tensor:
        channels = self.case.short.backbone.dit.in_dim
        return initial_noise((channels, *geometry.latent_grid), SEED, self.device)

    def _texts(self) -> tuple[Tensor, Tensor]:
        """Embeddings of two texts as long as can be."""
        sizes = self.case.short.backbone.dit
        shape = (sizes.text_len, sizes.text_dim)
        first, second = (torch.randn(shape, device=self.device, dtype=self.dtype) for _ in range(2))
        return first, second
