"""One clip decoded by several processes equals the clip of one; what they send and need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spread import Case, run
from test_golden import TOLERANCE, golden_autoencoder, relative_error

from pixelwizard.config.backbone import BackboneSettings, VAESizes
from pixelwizard.config.generate import PlanConfig
from pixelwizard.config.geometry import WHOLE, ResolutionSettings, Tiles
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.planning.decode_cost import cost_of_decode, strip_bytes
from pixelwizard.stages.decode import Decode

WORLD = 4
CELLS = (6, 4)
"""Latent rows and columns: 2, 1, 1 and 2 rows on four ranks."""


SIZES = VAESizes(
    z_dim=4,
    dim=4,
    dec_dim=4,
    num_res_blocks=1,
    latent_mean=[0.1, -0.2, 0.3, 0.0],
    latent_std=[1.0, 2.0, 0.5, 1.5],
)


def make_cases(golden: Path) -> dict[str, Case]:
    """Rows and tiles that fit the ranks and that do not, on 2 and 4 ranks."""
    torch.manual_seed(0)
    vae = WanVAE(SIZES).requires_grad_(False)
    latent, long = torch.randn(4, 3, *CELLS), torch.randn(4, 5, *CELLS)
    cases = {
        f"{tiles.rows}x{tiles.columns} on {ranks}": Case(vae, latent[:, :2], ranks, tiles)
        for ranks in (2, WORLD)
        for tiles in (WHOLE, Tiles(1, 2, 1), Tiles(2, 2, 1), Tiles(3, 2, 1))
    }
    official, io = golden_autoencoder(golden)
    return cases | {
        "two rows": Case(vae, latent[:, :1, :2], WORLD),
        "short": Case(vae, latent, WORLD),
        "halves": Case(vae, latent, 2),
        "long": Case(vae, long, WORLD),
        "golden": Case(official, io["z"][0], 2),
    }


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, Case]:
    return make_cases(golden)


@pytest.fixture(scope="module")
def found(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every rank has of every case."""
    return run(cases, tmp_path_factory.mktemp("ranks"), WORLD)


def alone(case: Case) -> np.ndarray:
    return np.concatenate(list(Decode(case.vae, case.tiles)(case.latent)))


def rows_of(found: list[dict[str, Any]], name: str, ranks: int) -> torch.Tensor:
    """The video before rounding, put together from the rows of all ranks."""
    return torch.cat([found[rank][name]["video"] for rank in range(ranks)], dim=3)


@pytest.mark.parametrize("ranks", [2, WORLD])
def test_whole_frames_in_rows_are_those_of_one_process_to_rounding(
    cases: Mapping[str, Case], found: list[dict[str, Any]], ranks: int
) -> None:
    name = f"1x1 on {ranks}"
    case = cases[name]
    whole = case.vae.decode(case.latent[None])
    torch.testing.assert_close(rows_of(found, name, ranks), whole, rtol=1e-5, atol=1e-6)
    frames = np.stack(found[0][name]["frames"]).astype(int)
    difference = np.abs(frames - alone(case))
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_rows_of_the_official_autoencoder_equal_its_video(
    golden: Path, found: list[dict[str, Any]]
) -> None:
    _, io = golden_autoencoder(golden)
    assert relative_error(rows_of(found, "golden", 2), io["decoded"]) < TOLERANCE


@pytest.mark.parametrize("ranks", [2, WORLD])
@pytest.mark.parametrize("grid", ["1x2", "2x2", "3x2"])
def test_tiles_are_the_same_pixels_whoever_decodes_them(
    cases: Mapping[str, Case], found: list[dict[str, Any]], grid: str, ranks: int
) -> None:
    """Fewer tiles than ranks, as many, and several turns with ranks that have nothing to do."""
    name = f"{grid} on {ranks}"
    assert np.array_equal(found[0][name]["frames"], alone(cases[name]))


def test_fewer_rows_than_ranks_are_decoded_by_one(
    cases: Mapping[str, Case], found: list[dict[str, Any]]
) -> None:
    assert np.array_equal(found[0]["two rows"]["frames"], alone(cases["two rows"]))
    assert all(not found[rank]["two rows"]["sent"] for rank in range(WORLD))


def test_frames_come_out_of_the_rank_that_writes_alone(found: list[dict[str, Any]]) -> None:
    for results in found[1:]:
        assert not any(len(result["frames"]) for result in results.values())


def test_what_travels_to_the_writer_is_a_strip_of_bytes(found: list[dict[str, Any]]) -> None:
    for ranks, cells in ((2, [12, 12]), (WORLD, [8, 4, 4, 8])):
        sent = [found[rank][f"1x1 on {ranks}"]["sent"].get(torch.uint8, 0) for rank in range(ranks)]
        assert sent[0] == 0 and max(sent) == strip_bytes([cells], 5)


def test_the_memory_of_a_rank_does_not_grow_with_the_clip(found: list[dict[str, Any]]) -> None:
    """Three latent frames against five; what is on its way to another rank may linger a little."""
    for rank in range(1, WORLD):
        short, long = (found[rank][name]["peak"] for name in ("short", "long"))
        assert 0 < long < 1.02 * short


def test_the_plan_of_a_rank_is_what_it_sends_and_needs(found: list[dict[str, Any]]) -> None:
    config = PlanConfig(
        "none",
        backbone=BackboneSettings(vae=SIZES),
        resolution=ResolutionSettings(width=64, height=96, frames=9),
    )
    planned, real = cost_of_decode(config, WHOLE, ranks=2), found[1]["halves"]
    assert planned.sent == {"decode": sum(real["sent"].values())}
    assert planned.peak - planned.weights == pytest.approx(real["peak"], rel=0.1)
