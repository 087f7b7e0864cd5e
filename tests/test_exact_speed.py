"""What makes sampling faster without changing it: whole waves, both passes of guidance at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small import BACKBONE, SIZE, write_backbone

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import PlanConfig, SamplerSettings
from pixelwizard.config.parallel import Mesh
from pixelwizard.config.targets import Target
from pixelwizard.diffusion.sampling import SolverState, initial_noise
from pixelwizard.diffusion.schedules import SOLVER, make_schedule
from pixelwizard.models.shortcut.network import Fetched
from pixelwizard.models.wan.dit import CHUNK, PAIRED
from pixelwizard.models.weights import load_anchor, load_detail
from pixelwizard.planning.planner import (
    CHUNKS,
    CONTEXT,
    chunk_of_whole_waves,
    execution_modes,
    filled,
    make_plan,
)
from pixelwizard.planning.report import details
from pixelwizard.planning.transformer_cost import Cost, Sampling, cost_of_sampling
from pixelwizard.stages.latents import Anchor, Detail

NOISE = initial_noise((4, *SIZE.anchor_geometry.latent_grid), 1)
LARGE = initial_noise((4, *SIZE.geometry.latent_grid), 2)
TEXTS = [initial_noise((length, 16), 3 + length) for length in (3, 5)]


@pytest.mark.parametrize(
    ("processors", "heads", "wanted", "chunk"),
    [
        (132, 24, 8192, 8448),  # H200: 66 tiles a head, 12 waves
        (132, 24, 2048, 1408),  # 2 waves
        (108, 24, 8192, 8064),  # A100: 14 waves
        (128, 24, 8192, 8192),  # RTX 4090: 12 waves
        (170, 24, 8192, 8064),  # RTX 5090: 8.89 waves, as full as any near
        (132, 3, 8192, 5632),  # tiny on an H200: 1 wave
        (1, 3, 128, 128),
    ],
)
def test_a_chunk_fills_whole_waves(processors: int, heads: int, wanted: int, chunk: int) -> None:
    assert chunk_of_whole_waves(wanted, heads, processors) == chunk


def test_the_tail_of_the_last_wave_is_counted() -> None:
    """11.64 waves of 132 take the time of 12; a whole video of 111,600 tokens is one long chunk."""
    assert filled(8192, 24, 132) == pytest.approx(1536 / 132 / 12) == pytest.approx(0.970, abs=1e-3)
    assert filled(8448, 24, 132) == 1
    assert filled(1, 1, 1) == 1 / 128


def product_seconds(tokens: int, processors: int) -> int:
    """The matrix products of a block of Wan2.2-TI2V-5B, in tiles of 128x256: waves times depth."""
    dim, wide = 3072, 14_336
    shapes = [*[(dim, dim)] * 6, (dim, wide), (wide, dim)]
    return sum(
        -(-(-(-tokens // 128) * columns // 256) // processors) * depth for depth, columns in shapes
    )


def test_both_passes_of_an_anchor_fill_the_waves_of_matrix_products_better() -> None:
    """336 tiles are 2.5 waves of 132, in the time of 3; 660 are 5."""
    share = product_seconds(2 * 3472, 132) / (2 * product_seconds(3472, 132))
    assert share == pytest.approx(0.879, abs=1e-3)


def with_processors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    about = SimpleNamespace(multi_processor_count=count, total_memory=int(140e9))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: about)


def test_the_plan_of_a_gpu_has_chunks_of_whole_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PlanConfig("none", backbone=BACKBONE, resolution=SIZE, compile="off")
    assert make_plan(config, only=["anchor"]).by_name["anchor"].chunk == CHUNK == CHUNKS[0]
    heads = BACKBONE.dit.num_heads
    expected = chunk_of_whole_waves(CHUNK, heads, 108)
    assert make_plan(config, "a100", only=["anchor"]).by_name["anchor"].chunk == expected
    with_processors(monkeypatch, 132)
    expected = chunk_of_whole_waves(CHUNK, heads, 132)
    assert make_plan(config, only=["anchor"]).by_name["anchor"].chunk == expected != CHUNK
    own = replace(config, memory=replace(config.memory, chunk=300))
    assert make_plan(own, only=["anchor"]).by_name["anchor"].chunk == 300


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def sampled(
    stage: Anchor | Detail, paired: int, **options: object
) -> tuple[torch.Tensor, Counter[int]]:
    """The latent of a stage, and how many forwards had one and two samples."""
    batches: Counter[int] = Counter()
    stage.network.paired = paired
    watch = stage.network.head.register_forward_pre_hook(
        lambda _, inputs: batches.update([len(inputs[0])])
    )
    inputs = (LARGE, NOISE) if isinstance(stage, Detail) else (NOISE,)
    found = stage(*inputs, *TEXTS, **options)  # type: ignore[arg-type]
    watch.remove()
    return found, batches


def anchor(backbone: BackboneSettings, **sampler: object) -> Anchor:
    settings = SamplerSettings(**{"steps": 4, **sampler})
    return Anchor(load_anchor(backbone), make_schedule(settings, 5.0, "anchor"), 5.0)


def detail(backbone: BackboneSettings, **sampler: object) -> Detail:
    settings = SamplerSettings(**{"steps": 4, "step_sizes": "raw", **sampler})
    return Detail(load_detail(backbone), make_schedule(settings, 5.0), 5.0)


@pytest.mark.parametrize("make", [anchor, detail])
@pytest.mark.parametrize("solver", SOLVER.names)
def test_both_passes_at_once_are_the_two_passes(
    backbone: BackboneSettings, make: Callable[..., Anchor | Detail], solver: str
) -> None:
    stage = make(backbone, solver=solver)
    stage.network.double()  # sums of a batch of two round apart by as much as is allowed here
    (one, paired), (two, single) = (sampled(stage, most) for most in (PAIRED["cpu"], 0))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert paired == {2: single[1] // 2} and single[1] == stage.schedule.nfe


@pytest.mark.parametrize(
    "rule", [Target("mask", {"pattern": "1101"}), Target("first_block", {"threshold": 0.0})]
)
def test_skip_rules_and_guided_steps_count_passes_as_before(
    backbone: BackboneSettings, rule: Target
) -> None:
    stage = anchor(backbone, guided_steps=[0, 3], skip=rule)
    states: dict[int, list[SolverState]] = {PAIRED["cpu"]: [], 0: []}
    (one, paired), (two, single) = (
        sampled(stage, most, on_step=kept.append) for most, kept in states.items()
    )
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    skipped, before = (kept[-1].skipped for kept in states.values())
    assert skipped == before and paired[1] + 2 * paired[2] == single[1] and paired[2] == 2


def test_a_given_first_frame_has_its_own_time_in_both_passes(backbone: BackboneSettings) -> None:
    stage, first = anchor(backbone), NOISE[:, :1] / 2
    one, two = (sampled(stage, most, first_frame=first)[0] for most in (PAIRED["cpu"], 0))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert torch.equal(one[:, :1], first)


def test_passes_that_do_not_fit_into_a_chunk_stay_two(backbone: BackboneSettings) -> None:
    stage, tokens = anchor(backbone), SIZE.anchor_geometry.tokens
    for chunk, batches in ((2 * tokens, {2: 4}), (2 * tokens - 1, {1: 8})):
        stage.network.chunk = chunk
        assert sampled(stage, PAIRED["cpu"])[1] == batches


def cost(paired: int, stream: bool = False) -> Cost:
    schedule = make_schedule(SamplerSettings(steps=3, guided_steps=[0, 1]), 5.0, "anchor")
    stage = Sampling(
        *(BACKBONE.dit, 0, SIZE.anchor_geometry, None, schedule, 5.0),
        *(torch.float32, torch.float32),
        paired=paired,
    )
    return cost_of_sampling(stage, stream, CHUNK)


def test_a_plan_counts_both_passes_at_once() -> None:
    """The same operations, more memory, and streamed weights pass once for both."""
    one, two = cost(PAIRED["cuda"]), cost(0)
    assert one.paired and not two.paired
    assert one.flops == two.flops and one.peak > two.peak
    streamed = [cost(paired, stream=True).fetched for paired in (PAIRED["cuda"], 0)]
    assert streamed[0] / streamed[1] == 3 / 5


class Stream:
    """Stands in for a stream of CUDA; notes what it waits for and what is copied on it."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits")

    def __enter__(self) -> None:
        self.log.append("copy")

    def __exit__(self, *error: object) -> None: ...


def test_features_in_host_memory_are_copied_one_span_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    monkeypatch.setattr("torch.cuda.Stream", lambda device: Stream(log, "copies"))
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Stream(log, "computing"))
    monkeypatch.setattr("torch.cuda.stream", lambda stream: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda rows, stream: log.append("kept"))
    features = torch.randn(1, 10, 3)
    rows = Fetched(features, torch.device("cpu"), asynchronous=True)
    send = ["copies waits", "copy", "kept"]
    for span, sent in (
        (slice(0, 4), [*send, "computing waits", *send]),
        (slice(4, 8), ["computing waits", *send]),
        (slice(8, 10), ["computing waits"]),
        (slice(0, 2), [*send, "computing waits", *send]),  # after the end, and another length
    ):
        log.clear()
        assert torch.equal(rows(span), features[:, span]) and log == sent


@pytest.mark.parametrize("spare", [0, 1])
def test_features_are_on_the_device_where_the_plan_has_room(spare: int) -> None:
    config = PlanConfig("none", backbone=BACKBONE, resolution=SIZE, compile="off")
    ways = list(execution_modes("detail", config, Mesh(), math.inf))
    assert [way.features for way in ways[:3]] == ["device", "host", "device"]
    device, host = (way.cost for way in ways[:2])
    features = SIZE.geometry.tokens * BACKBONE.dit.dim * 4
    assert device.peak - host.peak == features == host.features[0]
    assert host.host - device.host == features
    assert host.fetched - device.fetched == make_schedule(config.schedule, 5.0).nfe * features
    budget = (device.peak + CONTEXT - 1 + spare) / 1e9
    small = replace(config, memory=replace(config.memory, mode="resident", budget_gb=budget))
    planned = make_plan(small, only=["detail"]).by_name["detail"]
    assert planned.features == ("device" if spare else "host") and planned.fits
    assert (", anchor features in host memory" in ", ".join(["", *details(planned)])) != spare
