"""Metrics on real pictures and frames: published values, and a curve that follows the damage."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from real import data, frames, picture
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pixelwizard.config.output import MetricsSettings, VideoSettings
from pixelwizard.evaluation import ffmpeg
from pixelwizard.evaluation.efficientnet import load_efficientnet
from pixelwizard.evaluation.files import inspect
from pixelwizard.evaluation.kernel import Kernel, KernelDistance
from pixelwizard.evaluation.look import look, raised
from pixelwizard.evaluation.measure import Measure
from pixelwizard.evaluation.metrics.banding import CAMBI
from pixelwizard.evaluation.metrics.base import Given, Sampling
from pixelwizard.evaluation.metrics.blockiness import BlockDetect
from pixelwizard.evaluation.metrics.blur import BlurDetect
from pixelwizard.evaluation.metrics.frame_mmd import FrameKernelDistance
from pixelwizard.evaluation.metrics.niqe import niqe
from pixelwizard.evaluation.metrics.patch_kid import PatchKernelDistance
from pixelwizard.evaluation.metrics.si import spatial_information
from pixelwizard.evaluation.metrics.ti import TemporalInformation
from pixelwizard.evaluation.metrics.warping_error import warping_error
from pixelwizard.evaluation.names import IMAGE, NETWORKS, network_folder
from pixelwizard.evaluation.networks import ImageNetwork
from pixelwizard.evaluation.score import Unavailable
from pixelwizard.io.process import ProcessLost
from pixelwizard.io.video import VideoWriter

CPU = torch.device("cpu")
REFERENCE = {  # BasicSR 1.4.2 on the pictures of scikit-image 0.26
    "chelsea.png": 2.62552,
    "coffee.png": 4.11533,
    "coins.png": 3.63594,
    "camera.png": 3.15632,
    "gravel.png": 4.22990,
    "brick.png": 9.99821,
    "motorcycle_right.png": 2.79559,
}


@pytest.mark.parametrize("name", list(REFERENCE))
def test_niqe_is_that_of_the_reference_implementation(name: str) -> None:
    assert niqe(picture(name)) == pytest.approx(REFERENCE[name], abs=1e-3)


def network_file() -> Path:
    return network_folder(NETWORKS[IMAGE], MetricsSettings(image=IMAGE)) / NETWORKS[IMAGE].weights


@pytest.fixture(scope="module")
def network() -> ImageNetwork:
    data(NETWORKS[IMAGE].module)  # skips without the package
    return ImageNetwork(NETWORKS[IMAGE], network_file().parent, CPU)


@pytest.mark.parametrize(
    ("name", "classes"), [("chelsea.png", {281, 282, 285}), ("coffee.png", {967, 968})]
)
def test_the_image_network_knows_its_classes(
    name: str, classes: set[int], network: ImageNetwork
) -> None:
    """Cats and cups among the thousand classes of ImageNet."""
    image = picture(name).permute(2, 0, 1)[None].float()
    side = min(image.shape[-2:])
    left = (image.shape[-1] - side) // 2
    square = image[..., :side, left : left + side]
    small = interpolate(square, (224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        best = load_efficientnet(network_file())((small - 127) / 128).topk(len(classes))
    assert set(best.indices[0].tolist()) == classes


def test_patches_go_on_through_the_grid_from_frame_to_frame() -> None:
    sampling = Sampling("uniform", 16, side=2, patches=4)
    frame = torch.arange(4 * 6 * 3).view(4, 6, 3)  # six patches
    first, second = sampling.cut(frame, 0), sampling.cut(frame, 1)
    assert first.shape == second.shape == (4, 2, 2, 3)
    assert torch.equal(first[0], frame[:2, :2]) and torch.equal(first[3], frame[2:4, :2])
    assert torch.equal(second[0], frame[2:4, 2:4]) and torch.equal(second[2], first[0])
    assert str(sampling) == "16f-uniform/4x2px"


def blurred(clip: np.ndarray, level: int) -> np.ndarray:
    """A box of 1 + 2 level pixels."""
    video = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    soft = avg_pool2d(video, 1 + 2 * level, 1, level, count_include_pad=False)
    return soft.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def noisy(clip: np.ndarray, level: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 6 * level, clip.shape)
    return np.clip(clip + noise, 0, 255).astype(np.uint8)


def compressed(clip: np.ndarray, level: int) -> np.ndarray:
    """JPEG of quality 70, 25, 5."""
    found = []
    for frame in clip:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "jpeg", quality=(100, 70, 25, 5)[level])
        found.append(np.asarray(Image.open(file)))
    return np.stack(found)


def seen(network: ImageNetwork, clip: np.ndarray) -> Tensor:
    """What the metrics of patches see of a clip of three frames, [3, 2, 1280]."""
    sampling = PatchKernelDistance.sampling
    images = [sampling.cut(torch.from_numpy(f.copy()), n) for n, f in enumerate(clip)]
    return torch.stack([network.embed(image) for image in images])


def sets() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Four clips of two frames, and four others, a second and a half apart."""
    every = frames(count=250)
    some = [every[start : start + 5 : 4] for start in range(0, 240, 30)]
    return some[::2], some[1::2]


@pytest.fixture(scope="module")
def undamaged(network: ImageNetwork) -> tuple[list[Tensor], list[Tensor]]:
    ours, real = sets()
    return [seen(network, clip) for clip in ours], [seen(network, clip) for clip in real]


@pytest.mark.parametrize("damage", [blurred, noisy, compressed])
def test_distances_of_patches_grow_with_the_damage(
    damage: Callable[[np.ndarray, int], np.ndarray],
    network: ImageNetwork,
    undamaged: tuple[list[Tensor], list[Tensor]],
) -> None:
    curves: dict[str, list[float]] = {"patch-kid": [], "frame-mmd": []}
    clean, real = undamaged
    damaged = [[seen(network, damage(clip, level)) for clip in sets()[0]] for level in (2, 3)]
    for some in (clean, *damaged):
        for metric in (PatchKernelDistance(), FrameKernelDistance()):
            metric.real = metric.summary(iter([metric.features(each) for each in real]))
            for each in some:
                metric.update(each)
            curves[metric.name].append(float(metric.compute()[0]))
    print({name: np.round(curve, 3).tolist() for name, curve in curves.items()})
    for curve in curves.values():
        assert curve == sorted(curve)


class Fed(KernelDistance):
    """A kernel distance of samples that are given."""

    def __init__(self, ours: list[Tensor], real: list[Tensor]) -> None:
        super().__init__()
        self.real = self.summary(iter(real))
        self.values = list(ours)

    def look_with(self, given: Given) -> str:
        return "samples"

    def features(self, seen: Tensor) -> Tensor:
        return seen


def videos(count: int, samples: int, seed: int, shift: float = 0.0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, 16, generator=draw) + shift for _ in range(count)]


def test_the_kernel_distance_is_that_of_torchmetrics_where_samples_are_independent() -> None:
    from torchmetrics.image.kid import poly_mmd

    ours, real = videos(30, 1, 0, 0.3), videos(30, 1, 1)
    one, two = torch.cat(ours), torch.cat(real)
    kernels = [((a @ b.T) / 16 + 1) ** 3 for a, b in ((one, one), (one, two), (two, two))]
    expected = float(
        (kernels[0].sum() - kernels[0].trace() + kernels[2].sum() - kernels[2].trace()) / (30 * 29)
        - 2 * kernels[1].mean()
    )
    value, low, high = Fed(ours, real).compute().tolist()
    assert value == pytest.approx(expected, rel=1e-5)
    assert value == pytest.approx(float(poly_mmd(one, two)), rel=1e-4)
    assert low < value < high


def test_the_kernel_distance_is_unbiased_at_sixteen_videos_of_dependent_patches() -> None:
    """Videos of one kind: the mean over many draws is 0 within its error."""
    found = []
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        centres = torch.randn(32, 1, 16, generator=draw)
        sets = list(centres + 0.3 * torch.randn(32, 4, 16, generator=draw))
        found.append(float(Fed(sets[:16], sets[16:]).compute()[0]))
    error = np.std(found) / np.sqrt(len(found))
    print(f"{np.mean(found):.4f} +- {error:.4f}")
    assert abs(np.mean(found)) < 3 * error


def test_jedis_kernel_is_biased_and_of_degree_two() -> None:
    ours, real = videos(8, 1, 0, 0.5), videos(9, 1, 1)

    class JEDi(Fed):
        kernel, biased, scale = Kernel(2, 0.0), True, 100.0

    one, two = torch.cat(ours), torch.cat(real)
    k = [(((a @ b.T) / 16) ** 2).mean() for a, b in ((one, one), (two, two), (one, two))]
    assert float(JEDi(ours, real).compute()[0]) == pytest.approx(
        float(100 * (k[0] + k[1] - 2 * k[2])), rel=1e-5
    )


def written(path: Path, clip: np.ndarray, **settings: object) -> Path:
    given = VideoSettings(codec="ffv1") if not settings else VideoSettings(**settings)  # type: ignore[arg-type]
    with VideoWriter(path, clip.shape[2], clip.shape[1], given) as writer:
        writer.write(clip)
    return path


def test_si_and_ti_are_those_of_ffmpeg(tmp_path: Path) -> None:
    """ffmpeg computes both on the limited luma, expanded; it averages, so frames are compared."""
    clip = inspect(written(tmp_path / "a.mkv", frames(count=3)))
    ours = [spatial_information(torch.from_numpy(frame.copy())) for frame in frames(count=3)]
    assert ours == pytest.approx(ffmpeg.metadata(clip, "siti", "siti.si"), rel=0.02)
    (found,) = look(clip, [TemporalInformation()])
    theirs = ffmpeg.metadata(clip, "siti", "siti.ti")
    assert raised(found).tolist() == pytest.approx(theirs[1:], rel=0.03)


@pytest.mark.parametrize("kind", [BlurDetect, BlockDetect, CAMBI])
def test_filters_of_ffmpeg_see_what_they_are_made_for(kind: type, tmp_path: Path) -> None:
    if not ffmpeg.has_filter(kind.filter):  # type: ignore[attr-defined]
        pytest.skip(f"no {kind.filter} in this ffmpeg")  # type: ignore[attr-defined]
    clip = frames(count=4)
    damaged = blurred(clip, 3)
    settings: dict[str, object] = {}
    if kind is BlockDetect:
        damaged, settings = clip, {"crf": 51}
    if kind is CAMBI:
        ramp = np.linspace(20, 50, 640)[None, None, :, None]
        damaged = np.broadcast_to(ramp, clip.shape).astype(np.uint8)
        clip = (damaged + np.random.default_rng(0).normal(0, 2, clip.shape)).astype(np.uint8)
    values = []
    for name, some, how in (("a.mkv", clip, {}), ("b.mp4", damaged, settings)):
        metric = kind()
        file = inspect(written(tmp_path / name, some, **how))
        metric.prepare(Given(MetricsSettings(), CPU, [file]))
        metric.update(file)
        values.append(float(metric.compute()))
    print(kind.__name__, values)
    assert values[1] > 1.05 * values[0] + 0.01


def test_a_killed_ffmpeg_says_nothing_of_a_video_or_of_its_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = inspect(written(tmp_path / "a.mkv", frames(count=4)))
    measure = Measure("blockiness", "blockiness", Given(MetricsSettings(), CPU, [clip]))
    deadly = tmp_path / "ffmpeg"
    deadly.write_text("#!/bin/sh\nkill -9 $$\n")
    deadly.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(deadly))
    with pytest.raises(ProcessLost, match="^SIGKILL ended ffmpeg: its filters are not known"):
        ffmpeg.has_filter("another")
    with pytest.raises(ProcessLost, match="^SIGKILL ended ffmpeg: a.mkv cannot be measured"):
        measure.take("a", Unavailable("it takes no frames"), {"clip": clip})


def test_a_clip_without_edges_has_no_blur_and_says_why(tmp_path: Path) -> None:
    if not ffmpeg.has_filter("blurdetect"):
        pytest.skip("no blurdetect in this ffmpeg")
    flat = inspect(written(tmp_path / "flat.mkv", np.full((4, 64, 96, 3), 90, np.uint8)))
    measure = Measure("blur", "blur", Given(MetricsSettings(), CPU, [flat]))
    measure.take("flat", Unavailable("it takes no frames"), {"clip": flat})
    with pytest.raises(Unavailable, match="^flat: blurdetect finds nothing to measure"):
        measure.score()


def test_the_warping_error_sees_flicker_and_not_motion() -> None:
    pytest.importorskip("cv2")
    still = torch.from_numpy(frames(count=1)[0].copy())
    moved = still.roll((3, 5), (0, 1))
    brighter = (still.float() * 1.1).clamp(max=255).to(torch.uint8)
    motion, flicker = warping_error(moved, still), warping_error(brighter, still)
    plain = float((moved.float() - still.float()).square().mean()) / 255**2
    assert motion is not None and flicker is not None
    print(f"moved {motion:.5f} of {plain:.5f}, brighter {flicker:.5f}")
    assert motion < 0.15 * plain and flicker > 3 * motion


def test_flat_frames_have_no_niqe() -> None:
    assert niqe(torch.full((288, 288, 3), 20, dtype=torch.uint8)) is None


def test_one_frame_has_patches_and_no_change(tmp_path: Path) -> None:
    kid, mmd = PatchKernelDistance(), FrameKernelDistance()
    assert kid.sampling == mmd.sampling  # so that patches are embedded once
    kid.look = mmd.look = lambda patches, before: patches
    with VideoWriter(tmp_path / "a.mp4", 224, 224, VideoSettings()) as writer:
        writer.write(np.zeros((1, 224, 224, 3), np.uint8))
    seen, short = look(inspect(tmp_path / "a.mp4"), [kid, mmd])
    assert raised(seen).shape == (1, 1, 224, 224, 3)
    assert str(short) == "a.mp4 has 1 frame, and at least 2 are needed"
