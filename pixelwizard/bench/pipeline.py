"""The four stages of one clip as ``generate`` runs them, each measured with only its network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pixelwizard.bench.few_blocks import FewBlocks, few_blocks, with_blocks
from pixelwizard.bench.forwards import Forward, compare
from pixelwizard.bench.measuring import (
    ENOUGH_SECONDS,
    ROUNDS,
    Loader,
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
from pixelwizard.models.attention.base import Place
from pixelwizard.planning.decode_cost import TRACED
from pixelwizard.planning.report import Plan
from pixelwizard.stages.decode import Decode, decode_dtype
from pixelwizard.stages.latents import Anchor, Detail

SEED = 0
SLOWER = 1.5
"""How much longer than planned at the best rates a part may take, at worst."""
SAMPLING = ("anchor", "detail")
Report = Callable[[float], None]
"""Takes the share of a part that is done."""


@dataclass(frozen=True)
class Case:
    """One size: the run with whole schedules, the same with few steps, and the plans of both.

    ``few_frames``: the planned seconds of the latent frames of a decode that are run.
    """

    whole: PlanConfig
    short: PlanConfig
    whole_plan: Plan
    short_plan: Plan
    few_frames: float

    def sampler(self, stage: str) -> tuple[SamplerSettings, SamplerSettings]:
        """The sampler of a stage with few steps, and with all."""
        detail, configs = stage == "detail", (self.short, self.whole)
        short, whole = (c.schedule if detail else c.anchor for c in configs)
        return short, whole

    def schedule(self, stage: str) -> Schedule:
        """The few steps of a stage."""
        size, sampler = self.short.resolution, self.sampler(stage)[0]
        if stage == "detail":
            return make_schedule(sampler, size.shift)
        return make_schedule(sampler, size.anchor_shift, "anchor")

    def geometry(self, stage: str) -> Geometry:
        """What a stage makes."""
        size = self.short.resolution
        return size.anchor_geometry if stage == "anchor" else size.geometry


@dataclass
class Clock:
    """When a stage began, when its steps ended and when its forwards began, in seconds."""

    started: float
    ends: list[float] = field(default_factory=list)
    forwards: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The whole stage."""
        return self.ends[-1] - self.started

    @property
    def forward_seconds(self) -> float:
        """A forward, the first left out where there are others: it also warms up.

        What is done once before all of them, such as the text's keys, is not in it.
        """
        rest = self.forwards[1:] or self.forwards
        return (self.ends[-1] - rest[0]) / len(rest)


class Pipeline:
    """Measures the stages of a case; ``report`` hears how far a part is.

    ``shortened``: the next stage is counted from few of its blocks, where that is shorter.
    """

    def __init__(self, case: Case, device: torch.device, report: Report) -> None:
        self.case, self.device, self.report = case, device, report
        self.dtype: torch.dtype = getattr(torch, case.short.backbone.dtype)
        self.networks = ModelLoader(case.short, case.short_plan)
        self.forwards: list[ForwardResult] = []
        self.shortened = False

    def expected(self, stage: str) -> float:
        """Seconds that measuring a stage may take, with all blocks and the comparison."""
        passes = 2 if self.device.type == "cpu" else 1  # there memory is counted in another one
        if stage == "decode":
            return SLOWER * passes * self.case.few_frames
        seconds = passes * self.case.short_plan.by_name[stage].seconds
        if stage in SAMPLING and self.networks.mode(stage) != "stream":
            both = 2 * seconds / self.case.schedule(stage).nfe
            seconds += both + min(ENOUGH_SECONDS, ROUNDS * both)
        return SLOWER * seconds

    def few(self, stage: str) -> FewBlocks | None:
        """The blocks that stand for all of a stage, where that is shorter."""
        if stage not in SAMPLING or self.networks.mode(stage) == "offload":  # that keeps networks
            return None
        backbone, grid = self.case.short.backbone, self.case.geometry(stage).token_grid
        sizes = backbone.detail_dit if stage == "detail" else backbone.dit
        controlled = backbone.control_blocks if stage == "detail" else []
        sigmas = [step.sigma for step in self.case.schedule(stage).steps]
        kind = self.networks.attention.kind
        kinds = [
            tuple(kind(Place(grid, layer, sigma=sigma)) for sigma in sigmas)
            for layer in range(sizes.num_layers)
        ]
        streamed = 2 if self.networks.mode(stage) == "stream" else 1  # blocks on the device
        return few_blocks(kinds, max([streamed, *(1 + block for block in controlled)]))

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
                encoder.encode(ids)
                clock.ends.append(now(self.device))

        clock, peak, _ = self._measured("text", random_text_encoder, run)
        return self._stage("text", clock, peak)

    def anchor(self) -> StageResult:
        """A few steps of the anchor, then one forward against the published code's."""
        return self._sampled("anchor", random_anchor, Anchor)

    def detail(self) -> StageResult:
        """A few steps of the detail, then one forward against the published code's."""
        return self._sampled("detail", random_detail, Detail)

    def decode(self) -> StageResult:
        """The first latent frames of whole frames, or all of tiles; thrown away as they come."""
        size, tiles = self.case.short.resolution.geometry, self.networks.tiles
        latent, of = self._noise("decode"), size.latent_grid[0]
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
        planned = self.case.few_frames
        return replace(stage, steps=few, of_steps=of, planned_seconds=planned, full_seconds=full)

    def _sampled(self, name: str, make: Loader[Any], kind: Callable[..., Any]) -> StageResult:
        """A transformer's stage with all its blocks, or counted from few."""
        noise, texts, schedule = self._noise(name), self._texts(), self.case.schedule(name)
        anchors = [self._noise("anchor")] if name == "detail" else []

        def run(network: Any, clock: Clock) -> None:
            def on_step(state: SolverState) -> None:
                clock.ends.append(now(self.device))
                self.report(state.step / len(schedule.steps))

            stage = kind(network, schedule, self.case.sampler(name)[0].guidance)
            stage(noise, *anchors, *texts, on_step=on_step)

        def measured(make: Loader[Any]) -> tuple[Any, ...]:
            """Clock, peak and, unless its blocks are streamed, the comparison of a network.

            Only a network that is on the device whole can also be run the other way.
            """
            clock, peak, network = self._measured(name, make, run)
            if self.networks.mode(name) == "stream":
                return clock, peak
            forward = Forward(network, noise, texts[0], *anchors)
            return clock, peak, compare(name, forward, self.case.short_plan.budget_gb)

        few = self.few(name) if self.shortened else None
        if few is None:
            clock, peak, *forwards = measured(make)
        else:
            (one, low, *first), (two, high, *second) = (
                measured(_of_blocks(make, blocks)) for blocks in few.runs
            )
            clock, peak = _counted_clock(few, one, two), round(few.whole(low, high))
            forwards = [_counted(few, *pair) for pair in zip(first, second, strict=True)]
        self.forwards += forwards
        stage = self._stage(name, clock, peak)
        return replace(stage, blocks=few.runs[1], of_blocks=few.of) if few else stage

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
        clock = Clock(now(self.device))
        with network.register_forward_pre_hook(lambda *_: clock.forwards.append(now(self.device))):
            run(network, clock)
        return clock

    def _stage(self, name: str, clock: Clock, peak: int) -> StageResult:
        planned = self.case.short_plan.by_name[name]
        steps, of_steps, full = None, None, clock.seconds
        if name in SAMPLING:
            few, all_of_them = (make_schedule(each, 1.0) for each in self.case.sampler(name))
            steps, of_steps = len(few.steps), len(all_of_them.steps)
            passes = few.nfe / len(clock.forwards)
            full += clock.forward_seconds / passes * (all_of_them.nfe - few.nfe)
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
            attention=self.networks.attention.kernel if name in SAMPLING else None,
        )

    def _noise(self, stage: str) -> Tensor:
        """Noise of the size of what a stage makes, float32 CTHW."""
        channels, grid = self.case.short.backbone.dit.in_dim, self.case.geometry(stage).latent_grid
        return initial_noise((channels, *grid), SEED, self.device)

    def _texts(self) -> tuple[Tensor, Tensor]:
        """Embeddings of two texts as long as can be."""
        sizes = self.case.short.backbone.dit
        shape = (sizes.text_len, sizes.text_dim)
        first, second = (torch.randn(shape, device=self.device, dtype=self.dtype) for _ in range(2))
        return first, second


def _of_blocks(make: Loader[Any], blocks: int) -> Loader[Any]:
    """What makes the same network with that many blocks."""
    return lambda backbone, *where: make(with_blocks(backbone, blocks), *where)


def _counted_clock(few: FewBlocks, one: Clock, two: Clock) -> Clock:
    """The clock of a run with all blocks."""

    def times(found: Clock) -> list[list[float]]:
        return [[t - found.started for t in some] for some in (found.ends, found.forwards)]

    pairs = zip(times(one), times(two), strict=True)
    return Clock(0.0, *([few.whole(*t) for t in zip(*pair, strict=True)] for pair in pairs))


def _counted(few: FewBlocks, one: ForwardResult, two: ForwardResult) -> ForwardResult:
    """The forward of all blocks; how far the velocities of so many differ is not known."""
    names = ["seconds", "peak_gb", "reference_gb"]
    if one.reference_seconds is not None and two.reference_seconds is not None:
        names.append("reference_seconds")
    figures = {name: few.whole(getattr(one, name), getattr(two, name)) for name in names}
    missing = {"reference_seconds": None, "difference": None}
    return replace(two, **{**missing, **figures, "blocks": few.runs[1], "of_blocks": few.of})
