"""The layout of the ranks: sizes that follow from others, and refusals in one sentence."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pixelwizard.config import parallel, schema, tasks
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.parallel import (
    Mesh,
    ParallelSettings,
    check_parallel,
    mesh_of_world,
    resolve,
)
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.records.run_folder import config_hash


def sizes(gpus: int, heads: int = 24, guided: bool = True, **given: Any) -> tuple[int, int, int]:
    """What the settings come to on so many GPUs."""
    wanted = ParallelSettings(**given)
    check(wanted, "parallel")
    check_parallel(wanted, heads, guided, tokens=100)
    mesh = resolve(wanted, heads, gpus, guided)
    return mesh.prompts, mesh.guidance, mesh.sequence


def test_what_a_mode_leaves_open_follows_from_the_devices() -> None:
    assert sizes(8) == (1, 1, 1)
    assert sizes(8, mode="prompts") == (8, 1, 1)
    assert sizes(8, mode="prompts", prompts=3) == (3, 1, 1)
    assert sizes(8, mode="fsdp", shard="all") == (8, 1, 1)
    assert sizes(8, mode="ulysses") == (1, 1, 8)
    assert sizes(7, mode="ulysses") == (1, 1, 6)
    assert sizes(1, mode="ulysses", sequence=4) == (1, 1, 4)
    assert sizes(1, mode="guidance") == (1, 2, 1)
    assert sizes(8, mode="hybrid", guidance=2, sequence=2) == (2, 2, 2)
    assert sizes(1, mode="prompts", devices=4) == (4, 1, 1)


def test_auto_takes_guidance_then_sequence_then_prompts() -> None:
    assert sizes(1, mode="auto") == (1, 1, 1)
    assert sizes(2, mode="auto") == (1, 2, 1)
    assert sizes(8, mode="auto") == (1, 2, 4)
    assert sizes(8, mode="auto", guided=False) == (1, 1, 8)
    assert sizes(8, heads=2, mode="auto") == (2, 2, 2)
    assert sizes(8, mode="auto", sequence=2) == (2, 2, 2)
    assert sizes(10, mode="auto") == (1, 2, 4)
    reason = resolve(ParallelSettings(mode="auto"), 24, 10).reason
    assert "divides 24 heads" in reason and "2 idle" in reason


@pytest.mark.parametrize("devices", range(1, 17))
@pytest.mark.parametrize("guided", [False, True])
def test_started_ranks_find_the_mesh_that_was_resolved(devices: int, guided: bool) -> None:
    wanted = ParallelSettings(mode="auto")
    mesh = resolve(wanted, 24, devices, guided)
    assert mesh_of_world(wanted, 24, mesh.world, guided) == mesh


def test_the_ranks_of_a_prompt_lie_next_to_each_other() -> None:
    mesh = Mesh(prompts=2, guidance=2, sequence=3)
    places = [mesh.place(rank) for rank in range(mesh.world)]
    assert places == sorted(set(places)) and len(places) == 12
    assert places[7] == (1, 0, 1) and places[11] == (1, 1, 2)
    assert [Mesh(2, 2, 3, s).shards for s in ("none", "sequence", "all")] == [1, 6, 12]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"mode": "ulysses", "sequence": 5}, "must divide the 24 heads .*; nearest: 4"),
        ({"mode": "ulysses", "sequence": 0}, "parallel.sequence=0 must be at least 1"),
        ({"mode": "hybrid", "guidance": 3}, "parallel.guidance=3 must be at most 2"),
        ({"sequence": 4}, "not for parallel=single; use parallel=ulysses or parallel=hybrid"),
        ({"mode": "ulysses", "prompts": 2}, "not for parallel=ulysses; use parallel=prompts"),
        ({"mode": "fsdp"}, "parallel.shard=none is not for parallel=fsdp"),
        ({"mode": "prompts", "shard": "all"}, "is not for parallel=prompts; use parallel=fsdp"),
        ({"mode": "ulysses"}, "finds only one device; set .* parallel.sequence=2"),
        ({"mode": "prompts", "prompts": 4, "devices": 2}, "asks for 4 ranks .* the 2 devices"),
        ({"mode": "hybrid", "prompts": 1, "shard": "all"}, "has one rank to shard over"),
        ({"mode": "auto", "devices": 0}, "parallel.devices=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        sizes(1, **given)
    assert "\n" not in str(refusal.value)


def test_guidance_needs_guided_steps_and_a_sequence_needs_tokens() -> None:
    with pytest.raises(ConfigError, match="needs guided steps"):
        check_parallel(ParallelSettings(mode="guidance"), 24, guided=False, tokens=100)
    with pytest.raises(ConfigError, match="at most the 6 tokens .*; nearest: 6"):
        check_parallel(ParallelSettings(mode="ulysses", sequence=8), 24, guided=True, tokens=6)


@pytest.mark.parametrize("given", [{"mode": "ulysses", "sequence": 4}, {"mode": "auto"}])
def test_another_number_of_ranks_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"but 5 were started; start 4, or change the sizes"):
        mesh_of_world(ParallelSettings(**given), 24, 5)


def test_more_processes_than_the_cores_can_bear_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(parallel, "count_gpus", lambda: 0)
    config = tasks.from_plain(plain(mode="prompts", prompts=1000))
    assert isinstance(config, GenerateConfig)
    with pytest.raises(ConfigError, match="would start 1000 processes, and 2 cores .* at most 32"):
        parallel.mesh_of(config)
    monkeypatch.setattr(parallel, "count_gpus", lambda: 1000)
    assert parallel.mesh_of(config).world == 1000


def plain(**parallel: Any) -> dict[str, Any]:
    return {"run_dir": "run", **schema.defaults(GenerateConfig), "parallel": parallel}


def test_the_layout_does_not_change_what_a_video_is() -> None:
    one, four = plain(), plain(mode="prompts", prompts=4)
    assert config_hash(tasks.from_plain(one)) == config_hash(tasks.from_plain(four))


def test_weights_are_sharded_or_in_host_memory() -> None:
    values = plain(mode="fsdp", shard="all", prompts=2)
    values["memory"]["mode"] = "stream"
    with pytest.raises(ConfigError, match="memory=stream does; use memory=auto or"):
        tasks.from_plain(values)
