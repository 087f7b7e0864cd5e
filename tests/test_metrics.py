"""Metrics: the distances are the published ones, and they see what a viewer sees."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, mse_loss

from pixelwizard.config.output import MetricsSettings
from pixelwizard.data import labelled, shapes
from pixelwizard.evaluation import names
from pixelwizard.evaluation.frechet import Moments, frechet_distance
from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric, luma
from pixelwizard.evaluation.metrics.clip import CLIPScore
from pixelwizard.evaluation.metrics.frame_consistency import FrameConsistency
from pixelwizard.evaluation.metrics.fvd import FrechetVideoDistance
from pixelwizard.evaluation.metrics.hd_fvd import patches
from pixelwizard.evaluation.metrics.hd_mse import hd_mse, lost
from pixelwizard.evaluation.metrics.hd_mse_noise import NOISE_KEPT, hd_mse_of_noise
from pixelwizard.evaluation.metrics.high_frequency import high_frequency
from pixelwizard.evaluation.names import ASSETS, NETWORKS
from pixelwizard.evaluation.networks import CLIPNetwork, VideoNetwork
from pixelwizard.evaluation.reference import keep, kept
from pixelwizard.evaluation.score import mean_with_interval

CPU = torch.device("cpu")


def features(count: int, dim: int, seed: int) -> Tensor:
    """Correlated samples [count, dim] float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    samples = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return samples @ mixing + seed


ONE, TWO = features(200, 24, 1), features(150, 24, 2)


def distance(one: Tensor, two: Tensor) -> float:
    return frechet_distance(Moments.of(one), Moments.of(two))


def test_the_distance_is_that_of_the_matrix_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    root = linalg.sqrtm((torch.cov(ONE.T) @ torch.cov(TWO.T)).numpy())
    traces = torch.cov(ONE.T).trace() + torch.cov(TWO.T).trace() - 2 * float(np.trace(root).real)
    expected = float((ONE.mean(0) - TWO.mean(0)).square().sum() + traces)
    assert distance(ONE, TWO) == pytest.approx(expected, rel=1e-6)


def test_the_distance_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = nn.Identity()
    network.num_features = ONE.shape[1]  # type: ignore[assignment]
    known = FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    known.update(ONE, real=True)
    known.update(TWO, real=False)
    assert distance(ONE, TWO) == pytest.approx(float(known.compute()), rel=1e-6)


def test_the_distance_is_that_of_cd_fvd() -> None:
    """cd-fvd wants torchvision for its loaders: pip install --no-deps cd-fvd is enough here."""
    known = pytest.importorskip("cdfvd.third_party.i3d.utils")
    assert distance(ONE, TWO) == pytest.approx(float(known.frechet_distance(ONE, TWO)), rel=1e-6)


@pytest.mark.parametrize("count", [200, 10])  # of full rank, and not
def test_equal_sets_have_no_distance(count: int) -> None:
    samples = features(count, 24, 3)
    assert distance(samples, samples) < 1e-9 * float(torch.cov(samples.T).trace())


def test_one_video_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least two videos"):
        distance(ONE[:1], TWO)


def test_what_is_kept_of_a_reference_holds_for_the_same_videos_alone(tmp_path: Path) -> None:
    keep(tmp_path, {"fvd/a/b": vars(Moments.of(ONE)), "kid": {"features": TWO}}, "content")
    found = kept(tmp_path, "content")
    assert torch.equal(Moments(**found["fvd/a/b"]).outer, Moments.of(ONE).outer)
    assert torch.equal(found["kid"]["features"], TWO)
    assert kept(tmp_path, "other content") == {}
    (tmp_path / "stats.safetensors").write_bytes(b"damaged")
    assert kept(tmp_path, "content") == {}


def video_network() -> VideoNetwork:
    return VideoNetwork(NETWORKS["tiny-video"], ASSETS / "video", CPU)


def clip_network() -> CLIPNetwork:
    return CLIPNetwork(NETWORKS["tiny-clip"], ASSETS / "clip", CPU)


def small_clips(count: int, first: int = 0) -> list[Tensor]:
    """Clips as the network sees them: uint8 [16, 3, 64, 64]."""
    scenes = [shapes.scene(first + number, "heldout") for number in range(count)]
    return [labelled.stretched(shapes.render(scene, 128, 80, 16), 64) for scene in scenes]


def features_of(network: VideoNetwork, clips: list[Tensor]) -> Tensor:
    return torch.cat([network.features(clip.transpose(0, 1)[None]) for clip in clips])


def test_fvd_grows_with_every_damage() -> None:
    network, clips = video_network(), small_clips(24)
    clean = features_of(network, clips)
    levels = (0.0, 0.25, 0.5, 1.0)
    damages = (labelled.blurred, labelled.noisy, labelled.shuffled, labelled.frozen)
    for damage in damages:
        draw = random.Random(0)
        sets = [
            [damage(clip, level, draw) for clip in clips] if level else clips for level in levels
        ]
        curve = [distance(features_of(network, some), clean) for some in sets]
        print(damage.__name__, [round(value, 2) for value in curve])
        assert curve == sorted(curve) and curve[-1] > curve[1] > 1e-6


def fed(samples: Tensor) -> FrechetVideoDistance:
    """A metric that has seen a sample of each video, and the samples of the reference."""
    metric = FrechetVideoDistance()
    metric.real = vars(Moments.of(features(200, 64, 1)))
    metric.features = lambda seen: seen  # type: ignore[method-assign]
    for sample in samples:
        metric.update(sample[None])
    return metric


def test_a_distance_has_an_interval_and_a_warning() -> None:
    samples = features(70, 64, 2)
    few, many = fed(samples[:20]), fed(samples)
    value, low, high = many.compute().tolist()
    assert low < value < high and not many.warnings
    assert value == pytest.approx(distance(samples, features(200, 64, 1)))
    wide = few.compute()
    assert wide[2] - wide[1] > high - low
    assert "20 samples here are fewer than the 64 features" in few.warnings[0]


def test_an_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, low, high = mean_with_interval(values)
    half = 1.96 * float(values.std()) / math.sqrt(400)
    assert value == pytest.approx(float(values.mean()))
    assert high - value == pytest.approx(half, rel=0.1)
    assert value - low == pytest.approx(half, rel=0.1)


def prepared(metric: VideoMetric) -> VideoMetric:
    """A metric that looks with the CLIP of tiny."""
    metric.prepare(Given(MetricsSettings(clip="tiny-clip"), CPU, []))
    return metric


def embedded(network: CLIPNetwork, frames: list[Tensor]) -> Tensor:
    return torch.stack([network.embed(frame) for frame in frames])


def stills(text: str, seed: int) -> list[Tensor]:
    """Eight frames of a clip with a caption, uint8 [H, W, 3]."""
    clip = shapes.render(shapes.scene_for(text, seed), 256, 160, 8)
    return [torch.from_numpy(frame.copy()) for frame in clip]


def test_right_captions_beat_shuffled_ones() -> None:
    right, wrong, steady = (prepared(m()) for m in (CLIPScore, CLIPScore, FrameConsistency))
    network, texts = clip_network(), shapes.prompts("heldout", 16)
    for number, text in enumerate(texts):
        found = embedded(network, stills(text, number))
        right.update(found, text)
        wrong.update(found, texts[number - 5])
        steady.update(found)
    one, two = float(right.compute()), float(wrong.compute())
    print(f"right captions {one:.1f}, shuffled captions {two:.1f}")
    assert one > two + 30 and 0.8 < float(steady.compute()) <= 1


def test_the_clip_score_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.multimodal import clip_score

    network, text = clip_network(), "a red circle grows over a white background"
    frames = stills(text, 3)

    class Wrapped(nn.Module):
        """transformers 5 wraps the features that torchmetrics expects as tensors."""

        config = network.network.config

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return network.network.get_image_features(pixels).pooler_output

        def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
            return network.network.get_text_features(ids, mask).pooler_output

    def processor(
        text: list[str] | None = None, images: list[Tensor] | None = None, **rest: object
    ):
        return (
            network.tokenizer(text, **rest)
            if text
            else network.processor(images=images, return_tensors="pt")
        )

    with torch.no_grad():
        images = [frame.permute(2, 0, 1) for frame in frames]
        known = clip_score(images, [text] * 8, lambda: (Wrapped(), processor))
    metric = prepared(CLIPScore())
    metric.update(embedded(network, frames), text)
    assert float(metric.compute()) == pytest.approx(float(known), rel=1e-5)


def test_long_captions_are_cut_and_counted() -> None:
    metric, text = prepared(CLIPScore()), "a red circle grows over a white background "
    metric.update(embedded(clip_network(), stills(text.strip(), 0)[:1]), 3 * text)
    assert metric.warnings == ["1 captions were cut after 16 tokens"]


def test_hd_mse_is_the_published_sum() -> None:
    """Of an image that is black and white in turn, all is lost at each of the three factors."""
    stripes = torch.arange(128).remainder(2).mul(255)[:, None].expand(128, 128, 3)
    assert hd_mse(stripes) == pytest.approx(3 * 0.25, rel=1e-5)
    assert hd_mse(torch.full((64, 96, 3), 77)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [(320, 512), (333, 250), (40, 20), (2144, 96)])
def test_strips_have_the_values_of_whole_frames(size: tuple[int, int]) -> None:
    """HD-MSE, its noise and the high frequencies as their definitions write them, to 1e-6."""
    frame = textured(*size)
    image = frame.permute(2, 0, 1).double() / 255
    whole = lost(image, lambda one, two: float(mse_loss(one, two)))
    assert hd_mse(frame) == pytest.approx(whole, rel=1e-6)
    kernel = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    response = conv2d(image[:, None], torch.outer(kernel, kernel)[None, None]).abs().mean((1, 2, 3))
    noise = 3 * NOISE_KEPT * (response * (torch.pi / 2) ** 0.5 / 6).square().mean()
    assert hd_mse_of_noise(frame) == pytest.approx(float(noise), rel=1e-6)
    assert high_frequency(frame) == pytest.approx(high_frequency_of_spectrum(frame), rel=1e-6)


def textured(height: int, width: int) -> torch.Tensor:
    """Smooth colours under fine noise, uint8 [H, W, 3]."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 8 + 1, width // 8 + 1, generator=draw)
    smooth = interpolate(coarse, (height, width), mode="bicubic")[0] * 230
    noisy = smooth + 5 * torch.randn(smooth.shape, generator=draw)
    return noisy.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def high_frequency_of_spectrum(frame: torch.Tensor) -> float:
    """From the whole spectrum, both halves of it, in float64."""
    grey = luma(frame).double()
    window = torch.outer(
        *(torch.hann_window(n, periodic=False, dtype=torch.float64) for n in grey.shape)
    )
    power = torch.fft.fft2((grey - grey.mean()) * window, norm="ortho").abs().square()
    rows, columns = (torch.fft.fftfreq(size).abs() for size in grey.shape)
    above = power[torch.maximum(rows[:, None], columns) > 0.25].sum()
    return float((above / window.square().sum()).sqrt())


def test_noise_is_told_from_detail() -> None:
    clean = torch.from_numpy(shapes.render(shapes.scene(0), 256, 160, 1)[0]).float()
    noise = 0.05 * 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    added = hd_mse(clean + noise) - hd_mse(clean)
    control = hd_mse_of_noise(clean + noise) - hd_mse_of_noise(clean)
    assert added == pytest.approx(3 * NOISE_KEPT * 0.05**2, rel=0.1)
    assert control == pytest.approx(added, rel=0.1)
    assert hd_mse_of_noise(clean) < 0.05 * hd_mse(clean)


def test_frames_are_sampled_by_rule() -> None:
    assert Sampling("first", 4).numbers(9) == [0, 1, 2, 3]
    assert Sampling("uniform", 4).numbers(9) == [0, 3, 5, 8]
    assert Sampling("all").numbers(3) == [0, 1, 2]
    assert Sampling("pairs", 2).numbers(9) == [0, 1, 7, 8]
    assert Sampling("pairs", 8).numbers(3) == [0, 1, 2]
    assert Sampling("uniform", 16).numbers(1) == [0]


def test_patches_are_cut_and_not_resized() -> None:
    frame = torch.arange(5 * 7 * 3).view(5, 7, 3)
    cut = patches(frame, 2)
    assert cut.shape == (6, 2, 2, 3)
    assert torch.equal(cut[4], frame[2:4, 2:4])


class Script(nn.Module):
    """Takes what StyleGAN-V's I3D takes, gives 400 numbers."""

    def forward(
        self,
        x: Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> Tensor:
        return x.mean(dim=(1, 2, 3, 4))[:, None].expand(x.shape[0], 400)


def test_torchscript_is_loaded_if_it_is_the_known_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.jit.save(torch.jit.script(Script()), str(tmp_path / "i3d_torchscript.pt"))
    facts = NETWORKS["i3d-k400"]
    with pytest.raises(ValueError, match="it is not loaded.*fetch i3d-k400"):
        VideoNetwork(facts, tmp_path, CPU)
    known = replace(facts, sha256=names.file_digest(tmp_path / "i3d_torchscript.pt"))
    network = VideoNetwork(known, tmp_path, CPU)
    clips = torch.full((2, 3, 16, 224, 224), 255, dtype=torch.uint8)
    assert network.label == "i3d-k400" and torch.equal(network.features(clips), torch.ones(2, 400))


def test_videomae_gives_the_tokens_mean_under_the_last_norm(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    sizes = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**sizes)).eval()
    model.save_pretrained(tmp_path)
    network = VideoNetwork(replace(NETWORKS["videomae"], dim=24, sha256=""), tmp_path, CPU)
    clips = torch.randint(256, (1, 3, 16, 224, 224), dtype=torch.uint8)
    found = network.features(clips)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (clips.permute(0, 2, 3, 4, 1) / 255 - mean) / std
    with torch.no_grad():
        logits = model(pixels.permute(0, 1, 4, 2, 3)).logits
        assert torch.allclose(model.classifier(found), logits, atol=1e-5)


def test_the_encoders_of_tiny_are_small() -> None:
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size < 3e6
