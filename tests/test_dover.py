"""DOVER: names, sizes, views and arithmetic of its file, on random weights of that form."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluate import write
from torch import Tensor
from torch.nn.functional import layer_norm

from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.evaluation import dover
from pixelwizard.evaluation.dover import ConvNeXt3D
from pixelwizard.evaluation.files import inspect
from pixelwizard.evaluation.look import look
from pixelwizard.evaluation.measure import Measure
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.names import NETWORKS, network_folder, resolve_auto
from pixelwizard.evaluation.score import Unavailable
from pixelwizard.evaluation.swin3d import Swin3D, _Attention, offsets, relations, windows

PARAMETERS = 56_218_302
"""Its page says 5.7 times the 9.86 million of DOVER-Mobile; in float32 they and the twelve indices
of positions make the 239 MB of the file."""


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights, so that every one has an effect."""
    for number, weight in enumerate(network.parameters()):
        fan = max(1, math.prod(weight.shape[1:]) if weight.ndim > 1 else 9)
        weight.data = noise(tuple(weight.shape), number) / math.sqrt(fan)
    return network.eval()


def published_names() -> set[str]:
    """As https://github.com/VQAssessment/DOVER names its weights, without the indices."""
    both, found = ("weight", "bias"), set()

    def add(prefix: str, *names: str) -> None:
        found.update(f"{prefix}.{name}.{part}" for name in names for part in both)

    swin, convnext = "technical_backbone", "aesthetic_backbone"
    for head in ("technical_head", "aesthetic_head"):
        add(head, "fc_hid", "fc_last")
    add(swin, "patch_embed.proj", "patch_embed.norm", "norm")
    for layer, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            name = f"{swin}.layers.{layer}.blocks.{block}"
            add(name, "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
            found.add(f"{name}.attn.relative_position_bias_table")
            if layer < 3:
                found.add(f"{name}.attn.fragment_position_bias_table")
        if layer < 3:
            add(f"{swin}.layers.{layer}.downsample", "norm")
            found.add(f"{swin}.layers.{layer}.downsample.reduction.weight")
    for stage, depth in enumerate((3, 3, 9, 3)):
        add(f"{convnext}.downsample_layers.{stage}", "0", "1")
        for block in range(depth):
            name = f"{convnext}.stages.{stage}.{block}"
            add(name, "dwconv", "norm", "pwconv1", "pwconv2")
            found.add(f"{name}.gamma")
    add(convnext, "norm")
    return found


def test_names_and_number_of_weights_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        owned = dover.DOVER().state_dict()
    assert set(owned) == published_names()
    assert sum(weight.numel() for weight in owned.values()) == PARAMETERS
    assert owned["technical_backbone.layers.0.blocks.0.attn.qkv.weight"].shape == (288, 96)
    table = owned["technical_backbone.layers.3.blocks.1.attn.relative_position_bias_table"]
    assert table.shape == (15 * 13 * 13, 24)
    kernels = [owned[f"aesthetic_backbone.stages.2.{n}.dwconv.weight"].shape[2] for n in range(9)]
    assert kernels == [1, 3, 1, 1, 3, 1, 1, 3, 1]


def renamed(state: dict[str, Tensor], *rules: tuple[str, str]) -> dict[str, Tensor]:
    """A state whose names are changed by regular expressions, one after another."""
    found = {}
    for name, value in state.items():
        for old, new in rules:
            name = re.sub(old, new, name)
        found[name] = value
    return found


def test_the_technical_branch_sees_a_still_as_transformers_swin_does() -> None:
    from transformers import SwinConfig, SwinModel

    sizes: dict[str, Any] = dict(embed_dim=32, depths=[2, 1, 1, 1], num_heads=[1, 2, 4, 8])
    model: Any = filled(SwinModel(SwinConfig(**sizes, window_size=7, image_size=224)))
    state = renamed(
        {name: value for name, value in model.state_dict().items() if "index" not in name},
        (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^embeddings\.norm", "patch_embed.norm"),
        (r"^encoder\.", ""),
        (r"^layernorm", "norm"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"attention\.o_proj", "attn.proj"),
        (r"attention\.relative_position_bias\.", "attn."),
    )
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        state[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    for name in [name for name in state if name.endswith("relative_position_bias_table")]:
        state[name] = state[name].repeat(15, 1)
        if ".layers.3" not in f".{name}":
            state[name.replace("relative", "fragment")] = state[name]
    name = "patch_embed.proj.weight"
    state[name] = (state[name] / 2)[:, :, None].repeat(1, 1, 2, 1, 1)
    network = Swin3D((2, 1, 1, 1), 32).eval()
    network.load_state_dict(state)
    still = noise((3, 224, 224))
    with torch.no_grad():
        known = model(pixel_values=still[None]).last_hidden_state[0].view(7, 7, 256)
        found = network(still[:, None].expand(3, 16, 224, 224))
    assert found.shape == (8, 7, 7, 256)
    assert torch.allclose(found, known.expand_as(found), atol=2e-3)


def test_the_aesthetic_branch_sees_a_still_as_transformers_convnext_does() -> None:
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[3, 1, 2, 1])
    model: Any = filled(ConvNextModel(config))
    state = renamed(
        model.state_dict(),
        (r"^embeddings\.patch_embeddings", "downsample_layers.0.0"),
        (r"^embeddings\.layernorm", "downsample_layers.0.1"),
        (r"^encoder\.stages\.(\d)\.downsampling_layer", r"downsample_layers.\1"),
        (r"^encoder\.stages\.(\d)\.layers", r"stages.\1"),
        (r"^layernorm", "norm"),
        (r"layernorm", "norm"),
        (r"layer_scale_parameter", "gamma"),
    )
    network = ConvNeXt3D((3, 1, 2, 1), 8).eval()
    for name, own in network.state_dict().items():
        if state[name].ndim == 4:  # only the middle frame counts, or all of the first layer alike
            frames = own.shape[2]
            share = torch.full((frames,), 0.5) if frames == 2 else torch.eye(frames)[frames // 2]
            state[name] = state[name][:, :, None] * share.view(1, 1, -1, 1, 1)
    network.load_state_dict(state)
    still = noise((1, 3, 64, 96))
    with torch.no_grad():
        places = model(pixel_values=still).last_hidden_state.movedim(1, -1)
        known = layer_norm(places, (64,), state["norm.weight"], state["norm.bias"], 1e-6)
        found = network(still[:, :, None].expand(1, 3, 8, 64, 96)).movedim(1, -1)
    assert found.shape == (1, 4, 2, 3, 64)
    assert torch.allclose(found, known[:, None].expand_as(found), atol=1e-4)


def test_gates_count_the_steps_between_fragments_and_shifts_keep_regions_apart() -> None:
    fragments, apart = relations((16, 56, 56), (0, 0, 0))
    assert fragments.shape == (128, 392, 392) and not apart.any()
    assert not fragments[0].any()  # 7 tokens of a fragment's 8
    assert fragments[1, 0, :8].tolist() == [0, 1, 1, 1, 1, 1, 1, 0]  # columns 7 | 8 to 13 | 7
    corner = fragments[9]  # rows and columns 7 to 13
    assert corner[0, 48] == 2 and corner[0, 6] == 1 and corner[48, 48] == 0
    fragments, apart = relations((16, 56, 56), (4, 3, 3))
    assert not apart[0].any() and apart[-1].unique().tolist() == [-100, 0]
    last = apart[-1].view(8, 7, 7, 8, 7, 7)[0, 0, 0]
    kept = last == 0  # frames 12 to 15 are cut from 0 to 3, rows and columns 53 to 55 from 0 to 2
    assert kept.nonzero().max(0).values.tolist() == [3, 3, 3] and kept.sum() == 4 * 4 * 4
    whole = torch.arange(16 * 14 * 14.0).view(16, 14, 14, 1)
    assert windows(whole)[1, :, 0].tolist() == whole[:8, :7, 7:].flatten().tolist()


def test_biases_of_other_fragments_are_mixed_by_the_gate() -> None:
    attention: Any = filled(_Attention(32, gated=True))
    inside, gates = noise((2, 392, 32)), torch.randint(3, (2, 392, 392)).float()
    with torch.no_grad():
        found = attention(inside, gates, torch.zeros_like(gates))
        query, key, value = attention.qkv(inside).chunk(3, -1)
        near, far = (
            table[offsets()][..., 0]
            for table in (
                attention.relative_position_bias_table,
                attention.fragment_position_bias_table,
            )
        )
        scores = query @ key.transpose(1, 2) / 32**0.5 + near * gates + far * (1 - gates)
        known = attention.proj(scores.softmax(-1) @ value)
    assert torch.allclose(found, known, atol=1e-5)
    first, later = (
        0,
        3 * 49 + 2 * 7 + 1,
    )  # from the first token to one 3 frames, 2 rows, 1 column on
    assert offsets()[later, first] == (10 * 13 + 8) * 13 + 7
    assert offsets()[first, later] == (4 * 13 + 4) * 13 + 5


def test_frames_are_the_middle_of_those_that_may_be_drawn() -> None:
    clips = np.array(dover.technical_frames(300)).reshape(3, 32)
    assert clips[:, 0].tolist() == [17, 117, 217] and clips[2, -1] == 279
    assert (np.diff(clips) == 2).all()
    assert dover.aesthetic_frames(300) == [9 * part + 3 for part in range(32)]
    short = np.array(dover.technical_frames(17)).reshape(3, 32)
    assert short[:, 0].tolist() == [0, 5, 10] and short[0, 8:10].tolist() == [16, 1]
    assert dover.aesthetic_frames(17) == [0] * 32
    assert dover.aesthetic_frames(65) == list(range(0, 64, 2))


def test_fragments_are_pixels_of_the_middle_of_each_cell() -> None:
    rows, columns = torch.meshgrid(torch.arange(2160), torch.arange(3840), indexing="ij")
    found = dover.fragments(torch.stack([rows, columns], -1))
    assert found.shape == (224, 224, 2)
    assert found[0, 0].tolist() == [137, 257]  # (308 - 32 - 1) // 2, (548 - 32 - 1) // 2
    assert found[31, 31].tolist() == [168, 288]
    assert found[32, 64].tolist() == [308 + 137, 2 * 548 + 257]
    same = torch.randint(256, (224, 224, 3), dtype=torch.uint8)
    assert torch.equal(dover.fragments(same), same) and torch.equal(dover.small(same), same)
    ramp = torch.arange(448)[:, None, None].expand(448, 448, 3) % 256
    assert dover.small(ramp)[:4, 0, 0].tolist() == [0, 2, 4, 6]  # 0.5, 2.5, ...: half to even


def test_scores_are_logistic_in_deviations_and_both_together_weigh_one() -> None:
    assert dover.quality(0.1107, -0.08285) == pytest.approx(
        {"technical": 50, "aesthetic": 50, "overall": 50}
    )
    found = dover.quality(0.1107 + 0.07355, -0.08285 + 0.03774)
    assert [*found.values()] == pytest.approx([100 / (1 + math.exp(-1))] * 3)
    one = dover.quality(0.1107 + 0.07355, -0.08285)["overall"]
    assert one == pytest.approx(100 / (1 + math.exp(-0.6104)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where metrics.folder points: a narrow and shallow network under the published names."""
    monkeypatch.setattr(dover, "WIDTH", 32)
    monkeypatch.setattr(dover, "SWIN", (1, 1, 1, 1))
    monkeypatch.setattr(dover, "CONVNEXT", (1, 1, 1, 1))
    state = filled(dover.DOVER()).state_dict()
    index = "technical_backbone.layers.0.blocks.0.attn.relative_position_index"
    path = tmp_path / "metrics" / "dover" / "DOVER.pth"
    path.parent.mkdir(parents=True)
    torch.save({**state, index: torch.zeros(392, 392, dtype=torch.long)}, path)
    return tmp_path / "metrics"


def video(path: Path, width: int, height: int, frames: int) -> None:
    write(path, noise((frames, height, width, 3)).mul(40).add(128).clamp(0, 255).byte().numpy())


def given(folder: Path, *paths: Path) -> Given:
    """What an evaluation of these videos has for its metrics."""
    metrics = resolve_auto(MetricsSettings(folder=str(folder)), "tiny")
    return Given(metrics, torch.device("cpu"), [inspect(path) for path in paths])


def measures(given: Given) -> list[Measure]:
    names = ("dover", "dover-technical", "dover-aesthetic")
    return [Measure(name, given.settings.parts[name], given) for name in names]


def test_three_scores_come_from_one_look_at_videos_of_several_sizes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = dover.DOVER.technical

    def counted(network: dover.DOVER, fragments: Tensor) -> float:
        asked.append(len(fragments))
        return whole(network, fragments)

    monkeypatch.setattr(dover.DOVER, "technical", counted)
    video(tmp_path / "a.mp4", 256, 224, 5)
    video(tmp_path / "b.mp4", 224, 240, 2)
    of = given(folder, tmp_path / "a.mp4", tmp_path / "b.mp4")
    found = measures(of)
    for clip in of.clips:
        for measure, seen in zip(found, look(clip, [m.metric for m in found]), strict=True):
            measure.take(clip.id, seen, {"clip": clip})
    assert asked == [96, 96]
    for measure, part in zip(found, ("overall", "technical", "aesthetic"), strict=True):
        recipe = f"{measure.name}/dover@[0-9a-f]{{8}}/{part}/3x32f\\+32f-middle/n=2"
        score, values = measure.score(), measure.values
        assert re.fullmatch(recipe, score.recipe) and score.low <= score.value <= score.high
        assert score.value == pytest.approx(sum(values.values()) / 2) and values["a"] != values["b"]
    overall, technical, aesthetic = (
        math.log(value / (100 - value)) for value in (measure.values["a"] for measure in found)
    )
    assert overall == pytest.approx(0.6104 * technical + 0.3896 * aesthetic)


def test_a_video_without_room_for_the_fragments_is_named(folder: Path, tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 222, 240, 1)
    with pytest.raises(Unavailable, match="a video is smaller than 224 pixels"):
        measures(given(folder, tmp_path / "a.mp4"))


def test_another_file_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    path = folder / "dover" / "DOVER.pth"
    video(tmp_path / "a.mp4", 224, 224, 1)
    for content in (b"", b"<html>", {"weight": torch.zeros(1)}, [1]):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ValueError, match=f"^{path} is not the known DOVER.pth$"):
            measures(given(folder, tmp_path / "a.mp4"))


def test_auto_takes_the_file_that_is_there_and_a_missing_one_is_named(
    folder: Path, tmp_path: Path
) -> None:
    assert resolve_auto(MetricsSettings(folder=str(folder)), "tiny").dover == "dover"
    assert resolve_auto(MetricsSettings(folder=str(tmp_path)), "tiny").dover is None
    with pytest.raises(ConfigError, match="dover needs DOVER.pth in .*pixelwizard fetch dover"):
        network_folder(NETWORKS["dover"], MetricsSettings(folder=str(tmp_path)))
