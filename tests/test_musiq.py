"""MUSIQ: names, sizes and arithmetic of Google's files, on random weights of that form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import settings, shape_clip, values, write

from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.evaluation import musiq
from pixelwizard.evaluation.evaluate import SOME_SKIPPED, evaluate
from pixelwizard.evaluation.files import inspect
from pixelwizard.evaluation.look import look
from pixelwizard.evaluation.measure import Measure
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.musiq import (
    MUSIQ,
    cells,
    load_musiq,
    patches,
    published_name,
    pyramid,
    resize,
)
from pixelwizard.evaluation.names import NETWORKS, network_folder, resolve_auto, wanted

Arrays = dict[str, np.ndarray]
DEPTH = 2
ATTENTION = "MultiHeadDotProductAttention_1"


def published_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as flax gives them to google-research's MUSIQ."""
    found = {
        "conv_root/kernel": (7, 7, 3, 64),
        "embedding/kernel": (8 * 8 * 256, 384),
        "embedding/bias": (384,),
        "Transformer/posembed_input/pos_embedding": (1, 100, 384),
        "Transformer/scaleembed_input/scale_embedding": (1, 3, 384),
        "Transformer/cls": (1, 1, 384),
        "head/kernel": (384, 1),
        "head/bias": (1,),
    }
    kernels = {"conv1": (1, 1, 64, 64), "conv2": (3, 3, 64, 64), "conv3": (1, 1, 64, 256)}
    kernels["conv_proj"] = (1, 1, 64, 256)
    found |= {f"block1/unit1/{name}/kernel": shape for name, shape in kernels.items()}
    norms = {"gn_root": (1, 1, 1, 64), "Transformer/encoder_norm": (384,)}
    channels = {"gn1": 64, "gn2": 64, "gn3": 256, "gn_proj": 256}
    norms |= {f"block1/unit1/{name}": (1, 1, 1, count) for name, count in channels.items()}
    for number in range(depth):
        block = f"Transformer/encoderblock_{number}"
        norms |= {f"{block}/LayerNorm_{place}": (384,) for place in (0, 2)}
        for name in ("query", "key", "value"):
            found[f"{block}/{ATTENTION}/{name}/kernel"] = (384, 6, 64)
            found[f"{block}/{ATTENTION}/{name}/bias"] = (6, 64)
        found[f"{block}/{ATTENTION}/out/kernel"] = (6, 64, 384)
        found[f"{block}/{ATTENTION}/out/bias"] = (384,)
        for name, given, out in (("Dense_0", 384, 1152), ("Dense_1", 1152, 384)):
            found[f"{block}/MlpBlock_3/{name}/kernel"] = (given, out)
            found[f"{block}/MlpBlock_3/{name}/bias"] = (out,)
    return found | {f"{n}/{part}": s for n, s in norms.items() for part in ("scale", "bias")}


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks instead of 14."""
    monkeypatch.setattr(musiq, "DEPTH", DEPTH)


@pytest.fixture(scope="module")
def weights() -> Arrays:
    """Random, so that every weight has an effect."""
    generator = np.random.default_rng(0)
    found = {}
    for name, shape in published_shapes(DEPTH).items():
        fans = np.prod(shape[:-1]) if name.endswith("kernel") else 100
        noise = generator.standard_normal(shape, np.float32) / np.sqrt(max(fans, 1))
        found[name] = (noise + name.endswith("/scale")).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def folder(weights: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where metrics.folder points; the file has an optimizer's state too, in bfloat16."""
    path = tmp_path_factory.mktemp("metrics") / "musiq-koniq" / "koniq_ckpt.npz"
    path.parent.mkdir()
    state = {"opt/state/step": np.array(7), "opt/state/momentum": np.zeros(4, "V2")}
    np.savez(path, **state, **{f"opt/target/{name}": array for name, array in weights.items()})
    return path.parents[1]


def koniq(folder: Path) -> Path:
    return folder / "musiq-koniq" / "koniq_ckpt.npz"


class Flax:
    """The network written once more in float64 from the names of the file, image [H, W, 3]."""

    def __init__(self, weights: Arrays) -> None:
        self.w = {name: array.astype(np.float64) for name, array in weights.items()}

    def conv(self, x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        """TensorFlow's SAME padding; [N, H, W, C]."""
        kernel = self.w[f"{name}/kernel"]
        kernel = kernel - kernel.mean((0, 1, 2))
        kernel = kernel / (kernel.std((0, 1, 2)) + 1e-5)
        windows = self.windows(x, kernel.shape[0], stride, 0.0)
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel, optimize=True)

    def windows(self, x: np.ndarray, size: int, stride: int, fill: float) -> np.ndarray:
        total = max((-(-x.shape[1] // stride) - 1) * stride + size - x.shape[1], 0)
        margin = (total // 2, total - total // 2)
        x = np.pad(x, ((0, 0), margin, margin, (0, 0)), constant_values=fill)
        found = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
        return found[:, ::stride, ::stride]

    def group_norm(self, x: np.ndarray, name: str, eps: float) -> np.ndarray:
        groups = x.reshape(*x.shape[:3], 32, -1)
        mean, var = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
        x = ((groups - mean) / np.sqrt(var + eps)).reshape(x.shape)
        return x * self.w[f"{name}/scale"] + self.w[f"{name}/bias"]

    def layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * self.w[f"{name}/scale"] + self.w[f"{name}/bias"]

    def embed(self, squares: np.ndarray) -> np.ndarray:
        x = np.maximum(self.group_norm(self.conv(squares, "conv_root", 2), "gn_root", 1e-6), 0)
        x = self.windows(x, 3, 2, -np.inf).max((-1, -2))
        unit = "block1/unit1"
        aside = self.group_norm(self.conv(x, f"{unit}/conv_proj"), f"{unit}/gn_proj", 1e-4)
        for number in (1, 2, 3):
            x = self.group_norm(self.conv(x, f"{unit}/conv{number}"), f"{unit}/gn{number}", 1e-4)
            x = np.maximum(x if number < 3 else x + aside, 0)
        flat = x.reshape(len(x), -1)
        return flat @ self.w["embedding/kernel"] + self.w["embedding/bias"]

    def attend(self, x: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (
            np.einsum("nd,dhe->hne", x, self.w[f"{name}/{part}/kernel"])
            + self.w[f"{name}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        scores = np.exp(q @ k.transpose(0, 2, 1) / 8)
        seen = (scores / scores.sum(-1, keepdims=True)) @ v
        return (
            np.einsum("hne,hed->nd", seen, self.w[f"{name}/out/kernel"])
            + self.w[f"{name}/out/bias"]
        )

    def mlp(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x @ self.w[f"{name}/Dense_0/kernel"] + self.w[f"{name}/Dense_0/bias"]
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x @ self.w[f"{name}/Dense_1/kernel"] + self.w[f"{name}/Dense_1/bias"]

    def __call__(self, pictures: list[np.ndarray]) -> float:
        tokens = [self.w["Transformer/cls"][0]]
        for scale, picture in enumerate(pictures):
            rows, columns = (-(-side // 32) for side in picture.shape[:2])
            margins = [
                (-side % 32 // 2, -side % 32 - -side % 32 // 2) for side in picture.shape[:2]
            ]
            whole = np.pad(picture, (*margins, (0, 0)))
            places = [(row, column) for row in range(rows) for column in range(columns)]
            squares = [whole[32 * r : 32 * r + 32, 32 * c : 32 * c + 32] for r, c in places]
            grid = [r * 10 // rows * 10 + c * 10 // columns for r, c in places]
            tokens.append(
                self.embed(np.stack(squares))
                + self.w["Transformer/posembed_input/pos_embedding"][0, grid]
                + self.w["Transformer/scaleembed_input/scale_embedding"][0, scale]
            )
        x = np.concatenate(tokens)
        for number in range(DEPTH):
            block = f"Transformer/encoderblock_{number}"
            x = x + self.attend(self.layer_norm(x, f"{block}/LayerNorm_0"), f"{block}/{ATTENTION}")
            x = x + self.mlp(self.layer_norm(x, f"{block}/LayerNorm_2"), f"{block}/MlpBlock_3")
        first = self.layer_norm(x[:1], "Transformer/encoder_norm")
        return float((first @ self.w["head/kernel"] + self.w["head/bias"]).item())


def test_the_network_equals_a_second_one_written_from_the_published_names(
    folder: Path, weights: Arrays
) -> None:
    picture = torch.rand(3, 40, 97, generator=torch.manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = float(load_musiq(koniq(folder))(picture))
    known = Flax(weights)([scale.permute(1, 2, 0).double().numpy() for scale in pyramid(picture)])
    assert found == pytest.approx(known, abs=1e-5)


def test_the_files_weights_are_all_of_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    known = published_shapes(14)
    with torch.device("meta"):
        owned = MUSIQ().state_dict()
    assert {published_name(n, own) for n, own in owned.items()} == set(known)
    count = sum(int(np.prod(shape)) for shape in known.values())
    assert sum(own.numel() for own in owned.values()) == count == 27_125_825


def test_resizing_weighs_three_neighbours_and_leaves_out_what_is_outside() -> None:
    picture = torch.arange(6.0).view(1, 1, 6).expand(1, 3, 6)
    found = resize(picture, 3, 3)[0, 0].numpy()
    assert found == pytest.approx([0.5, 2.5, 4.5])  # 1.5 pixels away weigh nothing, 0.5 the same
    larger = resize(picture, 3, 12)[0, 0].numpy()
    weights = np.exp(-2 * np.array([0.25, 1.25]) ** 2)  # no pixel 0.75 before the first
    assert larger[0] == pytest.approx((weights @ [0, 1]) / weights.sum(), abs=1e-6)
    weights = np.exp(-2 * np.array([0.75, 0.25, 1.25]) ** 2)
    assert larger[2] == pytest.approx((weights @ [0, 1, 2]) / weights.sum(), abs=1e-6)


def test_longer_sides_are_224_and_384_and_ratios_are_kept() -> None:
    sizes = [tuple(scale.shape[1:]) for scale in pyramid(torch.zeros(3, 2160, 3840))]
    assert sizes == [(126, 224), (216, 384), (2160, 3840)]
    high, wide = torch.rand(3, 384, 150), torch.rand(3, 10, 20)
    assert [tuple(scale.shape[1:]) for scale in pyramid(high)][:2] == [(224, 88), (384, 150)]
    assert torch.equal(pyramid(high)[1], high)
    assert tuple(pyramid(wide)[1].shape[1:]) == (192, 384)


def test_patches_are_centred_in_zeros_and_know_their_cell() -> None:
    picture = torch.arange(3 * 40 * 33.0).view(3, 40, 33) + 1
    found = patches(picture)
    assert found.shape == (4, 3, 32, 32)
    assert (found[0, :, :12] == 0).all() and (found[0, :, :, :15] == 0).all()
    assert torch.equal(found[0, :, 12:, 15:], picture[:, :20, :17])
    assert torch.equal(found[3, :, :20, :16], picture[:, 20:, 17:])
    assert cells(40, 33).tolist() == [0, 5, 50, 55]
    grid = cells(2160, 3840).view(68, 120)
    assert grid[0, 11] == 0 and grid[0, 12] == 1 and grid[0, -1] == 9 and grid[-1, 0] == 90


def test_videos_of_several_sizes_have_values_with_the_files_digits(
    folder: Path, tmp_path: Path
) -> None:
    for number, width in enumerate((128, 96)):
        write(tmp_path / f"clip{number}.mp4", shape_clip(number, 1, width))
    metrics = resolve_auto(MetricsSettings(folder=str(folder)), "tiny")
    clips = [inspect(tmp_path / f"clip{number}.mp4") for number in range(2)]
    given = Given(metrics, torch.device("cpu"), clips)
    found = []
    for _ in range(2):
        measure = Measure("musiq", metrics.parts["musiq"], given)
        for clip in clips:
            measure.take(clip.id, look(clip, [measure.metric])[0], {})
        found.append(measure.score())
        assert found[-1].value == pytest.approx(sum(measure.values.values()) / 2)
        assert measure.values["clip0"] != measure.values["clip1"]
    assert found[0] == found[1]
    recipe = r"musiq/musiq-koniq@[0-9a-f]{8}/224\+384\+native/8f-uniform/n=2"
    assert re.fullmatch(recipe, found[0].recipe)


def test_auto_takes_the_network_where_its_file_is(folder: Path, tmp_path: Path) -> None:
    for place, name in ((folder, "musiq-koniq"), (tmp_path, None)):
        found = resolve_auto(MetricsSettings(folder=str(place)), "tiny")
        assert found.musiq == name
        names = [network.name for network in wanted(found, reference=False)]
        assert names == ["tiny-clip", *[name] * bool(name)]


def test_a_missing_file_is_named_with_its_address(tmp_path: Path) -> None:
    metrics = MetricsSettings(musiq="musiq-spaq", folder=str(tmp_path))
    with pytest.raises(ConfigError, match="musiq-spaq needs spaq_ckpt.npz in .*; it is https://"):
        network_folder(NETWORKS["musiq-spaq"], metrics)
    with pytest.raises(ConfigError, match="musiq=musiq-ava.*musiq-koniq"):
        wanted(MetricsSettings(musiq="musiq-ava", video=None, clip=None, image=None), False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head/kernel": np.zeros((384, 10))}, r"head/kernel \[384, 10\] is not for \[1, 384\]"),
        (
            {"Transformer/scaleembed_input/scale_embedding": np.zeros((1, 1, 384))},
            "scale_embedding",
        ),
        ({"Transformer/cls": None}, "lacks opt/target/Transformer/cls$"),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_weights_name(
    changes: dict[str, np.ndarray | None], said: str, weights: Arrays, tmp_path: Path
) -> None:
    changed = {name: array for name, array in {**weights, **changes}.items() if array is not None}
    np.savez(tmp_path / "a.npz", **{f"opt/target/{name}": a for name, a in changed.items()})
    with pytest.raises(ValueError, match=f"a.npz is not a MUSIQ file with three scales.*{said}"):
        load_musiq(tmp_path / "a.npz")


def test_a_file_of_anything_else_costs_its_score_alone(tmp_path: Path) -> None:
    write(tmp_path / "v" / "clip0.mp4", shape_clip(0, frames=1))
    path = koniq(tmp_path / "metrics")
    path.parent.mkdir(parents=True)
    said = f"{path} is not a whole npz file of numbers"
    for content in (b"", b"PK\x03\x04", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            load_musiq(path)
    metrics = MetricsSettings(video=None, clip=None, image=None, folder=str(tmp_path / "metrics"))
    assert evaluate(settings(tmp_path, tmp_path / "v", metrics=metrics)) == SOME_SKIPPED
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["failed"] == {"musiq": said} and "hd-mse" in values(tmp_path)
