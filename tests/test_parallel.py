"""Several ranks on gloo make what one process makes, whatever their layout."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranks import (
    MESHES,
    WORLD,
    failing,
    four_heads,
    free_port,
    memory,
    networks,
    one_pass,
    runs,
    slices,
    start,
    two_stages,
)
from safetensors.torch import load_file, save_file
from small import small_config, write_backbone, write_config
from stand_ins import gguf_file
from test_detail_network import OWN as DETAIL
from test_detail_network import write_own_detail
from test_golden import TOLERANCE, GoldenDiT, relative_error
from test_launch import alive
from torch import Tensor

from pixelwizard import worker
from pixelwizard.config.backbone import BackboneSettings, DiTSizes, LoRASettings
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.parallel import Mesh, ParallelSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target
from pixelwizard.io.terminal import Display
from pixelwizard.launch.launch import launch
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.weights import load_anchor
from pixelwizard.parallel.mesh import Rank, joined
from pixelwizard.planning.transformer_cost import guidance_bytes, ulysses_bytes

EQUAL = 1e-5
GGUF = "base.gguf"
PROMPTS = ["a red circle", "a blue square moves left", "a circle", "a red square", "a blue circle"]


@pytest.fixture(scope="module")
def found(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks made of the golden networks with every mesh."""
    folder = tmp_path_factory.mktemp("networks")
    assert start(WORLD, networks, golden, folder, free_port()) == [0] * WORLD
    return folder


@pytest.fixture(scope="module")
def alone(golden: Path) -> dict[str, Tensor]:
    return two_stages(GoldenDiT(golden), golden, Rank())


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("rank", range(WORLD))
def test_every_rank_of_every_mesh_has_the_golden_latents(
    found: Path, golden: Path, alone: dict[str, Tensor], name: str, rank: int
) -> None:
    made = load_file(found / f"{name}.{rank}")
    official = load_file(golden / "two_stage_io.safetensors")
    for stage, expected in (("anchor", "lr"), ("detail", "hr")):
        assert relative_error(made[stage], alone[stage]) < EQUAL
        assert relative_error(made[stage], official[expected][0]) < TOLERANCE


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("rank", range(WORLD))
def test_every_rank_begins_a_video_with_a_picture_as_the_official_code(
    found: Path, golden: Path, name: str, rank: int
) -> None:
    made = load_file(found / f"{name}.{rank}")["begun"]
    official = load_file(golden / "ti2v_io.safetensors")["sample_unipc_4"][0]
    assert relative_error(made, official) < TOLERANCE


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("rank", range(WORLD))
def test_every_rank_skips_the_steps_that_one_alone_skips(
    found: Path, alone: dict[str, Tensor], name: str, rank: int
) -> None:
    made = load_file(found / f"{name}.{rank}")
    assert 0 < len(alone["skipped"]) < 7
    assert torch.equal(made["skipped"], alone["skipped"])
    assert relative_error(made["skipping"], alone["skipping"]) < EQUAL


@pytest.mark.parametrize("length", [12, 15, 6])
def test_tokens_that_do_not_divide_change_nothing(found: Path, length: int) -> None:
    sizes, weights = four_heads()
    network = ShortcutDiT(sizes, [0, 1])
    network.load_state_dict(weights)
    expected = one_pass(network, length)
    for rank in range(WORLD):
        made = load_file(found / f"uneven.{rank}")[f"{length}"]
        assert relative_error(made, expected) < EQUAL


def test_an_attention_sends_as_many_bytes_as_the_formula_says(found: Path) -> None:
    sent = [json.loads((found / f"sent.{rank}").read_text()) for rank in range(WORLD)]
    sizes, _ = four_heads()
    assert {s["12"] for s in sent} == {ulysses_bytes(12, sizes.dim, WORLD, dtype_bytes=4)}
    for length in (15, 6):
        most = ulysses_bytes(length, sizes.dim, WORLD, dtype_bytes=4)
        assert 0.7 * most < max(s[f"{length}"] for s in sent) <= most


def test_a_guided_step_sends_one_prediction(found: Path, golden: Path) -> None:
    io = load_file(golden / "two_stage_io.safetensors")
    settings = json.loads((golden / "two_stage.json").read_text())
    low, high = guidance_bytes(io["lr"].numel()), guidance_bytes(io["hr"].numel())
    expected = settings["lr_steps"] * low + settings["hr_steps"] * high
    for name, mesh in MESHES.items():
        sent = load_file(found / f"{name}.0")["sent"].item()
        assert sent == (expected if mesh.guidance == 2 else 0)


def test_ranks_compute_their_slices_of_quantised_weights_with_a_lora(tmp_path: Path) -> None:
    """To the bits of the whole, rounded once."""
    backbone = write_backbone(tmp_path / "backbone")
    state = load_file(tmp_path / "backbone" / "diffusion_pytorch_model.safetensors")
    gguf_file("Q8_0")(state, tmp_path / GGUF)
    module = "diffusion_model.blocks.0.ffn.0.lora_"
    pair = {f"{module}A.weight": torch.randn(3, 64), f"{module}B.weight": torch.randn(64, 3)}
    save_file(pair, tmp_path / "lora.safetensors")
    lora = [LoRASettings(str(tmp_path / "lora.safetensors"))]
    chosen = replace(backbone, anchor=str(tmp_path / GGUF), lora=lora)
    assert start(2, slices, chosen, tmp_path, free_port()) == [0, 0]
    sharded, whole = load_file(tmp_path / "slices.safetensors"), load_anchor(chosen).state_dict()
    assert all(torch.equal(sharded[name], whole[name]) for name in whole)


def test_a_rank_has_its_slices_and_two_blocks_at_most(tmp_path: Path) -> None:
    sizes = DiTSizes(
        in_dim=4, out_dim=4, dim=512, ffn_dim=2048, freq_dim=16, text_dim=16, text_len=4,
        num_heads=4, num_layers=6,
    )  # fmt: skip
    network = WanDiT(sizes)
    block = sum(weight.nbytes for weight in network.blocks[0].parameters())
    whole = sum(weight.nbytes for weight in network.parameters())
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    arguments = (tmp_path / "weights.safetensors", sizes, tmp_path, free_port())
    assert start(WORLD, memory, *arguments) == [0] * WORLD
    rest, slack = whole - 6 * block, 3e6
    sent, gathered_by_gloo = block / WORLD, block  # into buffers; NCCL does not need the latter
    for rank in range(WORLD):
        loaded, peak = json.loads((tmp_path / f"memory.{rank}").read_text())
        assert 0.9 * whole / WORLD < loaded < whole / WORLD + slack
        most = whole / WORLD + rest + 2 * block + sent + gathered_by_gloo + slack
        assert most < 0.9 * whole and peak < most


# Runs.

LAYOUTS: dict[str, tuple[int, ParallelSettings, int]] = {
    "prompts, one": (4, ParallelSettings("prompts", prompts=4), 1),
    "prompts, five": (4, ParallelSettings("prompts", prompts=4), 5),
    "fsdp, three": (4, ParallelSettings("fsdp", prompts=4, shard="all"), 3),
    "fsdp, five": (4, ParallelSettings("fsdp", prompts=4, shard="all"), 5),
    "ulysses": (2, ParallelSettings("ulysses", sequence=2), 1),
    "guidance": (2, ParallelSettings("guidance"), 1),
    "pairs of a sequence, sharded": (4, ParallelSettings("auto", 2, 1, 2, "sequence"), 3),
    "pairs of halves, sharded over all": (4, ParallelSettings("hybrid", 2, 2, 1, "all"), 3),
    "one prompt on four": (4, ParallelSettings("auto"), 1),
}
"""Name -> ranks, settings, number of prompts."""


OWN = {
    "own": (1, ParallelSettings(), 1),
    "own ulysses": (2, ParallelSettings("ulysses", sequence=2), 1),
}
"""With a user's attention and detail network."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def config_of(backbone: BackboneSettings, folder: Path, name: str) -> GenerateConfig:
    """A run of its own store; the first prompts are the same in all."""
    _, parallel, count = (LAYOUTS | OWN).get(name, (1, ParallelSettings(), len(PROMPTS)))
    config = small_config(backbone, folder / name, prompt=PROMPTS[:count], group_size=2)
    size = replace(
        config.resolution, frames=9, width=192, anchor_width=96
    )  # 3 x 1 x 3 tokens: no half of 9
    if name in OWN:
        file = write_own_detail(folder / "own")
        backbone = replace(backbone, detail_network=DETAIL, detail=str(file))
        attention = Target("test_attention.OwnFrame", {"dense": 2})
        config = replace(config, backbone=backbone, attention=attention)
    return replace(config, parallel=parallel, resolution=size)


@pytest.fixture(scope="module")
def made(backbone: BackboneSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All layouts run by the same four processes, and one process alone first."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = [("alone", 1), *((name, layout[0]) for name, layout in (LAYOUTS | OWN).items())]
    arguments = [
        (str(write_config(config_of(backbone, folder, name))), ranks, free_port())
        for name, ranks in jobs
    ]
    assert start(WORLD, runs, arguments, folder) == [0] * WORLD
    return folder


def latents(folder: Path, name: str) -> dict[str, Tensor]:
    """What a run left in its store, by kind and key; no state of a sampler may be left."""
    files = (folder / name / "store").rglob("*.safetensors")
    return {f"{f.parent.parent.name}/{f.name}": next(iter(load_file(f).values())) for f in files}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_makes_the_videos_of_one_process(made: Path, name: str) -> None:
    expected, actual = latents(made, "alone"), latents(made, name)
    count = LAYOUTS[name][2]
    assert Counter(key.split("/")[0] for key in actual) == {
        "text": count + 1, "anchor": count, "detail": count,
    }  # fmt: skip
    for key, latent in actual.items():
        assert relative_error(latent, expected[key]) < EQUAL, key
    videos = sorted(path.name for path in (made / name / "run" / "videos").iterdir())
    alone = sorted(path.name for path in (made / "alone" / "run" / "videos").iterdir())
    assert videos == alone[: len(videos)] and len(videos) == 2 * count
    status = json.loads((made / name / "run" / "status.json").read_text())
    assert [state["state"] for state in status.values()] == ["done"] * count
    assert (made / name / "run" / "contact_sheet.png").is_file()


def test_a_users_attention_and_detail_network_share_a_sequence(made: Path) -> None:
    expected, actual = (latents(made, name) for name in OWN)
    plain = latents(made, "alone")
    assert expected.keys() == actual.keys() and len(expected.keys() - plain.keys()) == 2
    assert all(relative_error(actual[key], expected[key]) < EQUAL for key in expected)


def test_every_prompt_is_made_once_by_the_lead_of_its_ranks(made: Path) -> None:
    told = [json.loads((made / f"made.{rank}").read_text()) for rank in range(WORLD)]
    for name, (ranks, parallel, count) in LAYOUTS.items():
        folder = str(made / name / "run")
        assert [codes[folder] for codes, _ in told[:ranks]] == [0] * ranks
        by_rank = [found.get(folder, []) for _, found in told]
        assert len(set(sum(by_rank, []))) == len(sum(by_rank, [])) == count
        groups = parallel.prompts or 1
        assert [len(ids) for ids in by_rank[:: ranks // groups][:groups]] == [
            len(range(group, count, groups)) for group in range(groups)
        ]


def killed_in_the_detail_stage(folder: Path) -> int:
    """The worker of a rank; the second ends in its second prompt."""
    rank, step = os.environ["RANK"], Display.step
    (folder / f"pid{rank}").write_text(str(os.getpid()))

    def killed(self: Display, done: int, steps: int, first: int = 0) -> None:
        step(self, done, steps, first)
        if (rank, self.stage, self.where[:3], done) == ("1", "detail", "[2/", 1):
            (folder / "killed").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)

    Display.step = killed  # type: ignore[method-assign]
    return worker.run(folder)


def test_a_killed_rank_ends_the_job_and_the_same_command_ends_in_the_same_videos(
    backbone: BackboneSettings, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(backbone, tmp_path, "alone")
    config = replace(config, parallel=ParallelSettings("guidance"), prompt=PROMPTS[:2])
    folder = write_config(config)
    assert launch(folder, 2, killed_in_the_detail_stage) == 3
    assert time.time() - float((folder / "killed").read_text()) < 10
    assert not any(alive(int((folder / f"pid{rank}").read_text())) for rank in range(2))
    said = capfd.readouterr().err
    assert "SIGKILL ended rank 1" in said and "the same command continues" in said
    assert "Traceback" not in said and "SIGKILL" in (folder / "failure.json").read_text()
    videos = sorted((folder / "videos").glob("*.mp4"))
    assert len(videos) == 1
    before = videos[0].stat().st_mtime_ns
    found = latents(tmp_path, "alone")
    (state,) = (key for key in found if key.startswith("detail_state"))
    assert start(2, runs, [(str(folder), 2, free_port())], tmp_path) == [0, 0]
    made_now = json.loads((tmp_path / "made.0").read_text())[1][str(folder)]
    assert made_now == ["002-a-blue-square-moves-left"] and videos[0].stat().st_mtime_ns == before
    expected, found = latents(made, "alone"), latents(tmp_path, "alone")
    assert state not in found and not (folder / "failure.json").exists()
    assert all(relative_error(latent, expected[key]) < EQUAL for key, latent in found.items())


def test_a_prompt_that_fails_on_one_rank_ends_the_job_with_its_reason(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    folder = write_config(config_of(backbone, tmp_path, "ulysses"))
    assert start(2, failing, str(folder), free_port()) == [3, 3]
    said = [(folder / f"said.{rank}").read_text().splitlines()[-1] for rank in range(2)]
    reason = "prompt 001-a-red-circle failed: detail: numbers ran out"
    kept = "; everything finished is kept"
    assert said[1] == f"pixelwizard: {reason}{kept}"
    assert said[0] == f"pixelwizard: another rank of this job is gone: {reason}" + kept
    assert reason in (folder / "failure.json").read_text()


def test_a_port_that_is_taken_is_one_sentence(
    backbone: BackboneSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = config_of(backbone, tmp_path, "ulysses")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for key, value in (("RANK", 0), ("WORLD_SIZE", 2), ("MASTER_PORT", taken.getsockname()[1])):
            monkeypatch.setenv(key, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        assert worker.run(write_config(config)) == 2
    said = capfd.readouterr().err
    assert re.fullmatch(r"pixelwizard: the 2 ranks cannot meet at 127[^\n]*another port\n", said)


def test_ranks_that_are_not_the_mesh_are_refused_before_anything_is_loaded(
    backbone: BackboneSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert worker.run(write_config(config_of(backbone, tmp_path, "ulysses"))) == 2
    sentence = "pixelwizard: parallel=ulysses is for 2 ranks (1 prompts x 1 guidance x 2 sequence)"
    assert capfd.readouterr().err.startswith(f"{sentence}, but 3 were started; start 2")


def test_two_launchers_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="one of 4 that torchrun started"):
        launch(tmp_path, 2)


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="4 ranks were started on a machine with 2 GPUs"):
        with joined(Mesh(prompts=4)):
            pass
