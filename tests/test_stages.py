"""The stages alone: what they depend on, and that they can be continued."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import BACKBONE, SIZE, write_backbone

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import PlanConfig, SamplerSettings
from pixelwizard.config.output import DecodeSettings
from pixelwizard.diffusion.sampling import SolverState, initial_noise
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.weights import load_anchor, load_detail, load_text_encoder, load_vae
from pixelwizard.stages import precision
from pixelwizard.stages.decode import Decode
from pixelwizard.stages.latents import Anchor, Detail, EncodeText
from pixelwizard.stages.precision import settled

NOISE = initial_noise((4, *SIZE.anchor_geometry.latent_grid), 1)
HR_NOISE = initial_noise((4, *SIZE.geometry.latent_grid), 2)
TEXTS = [initial_noise((length, 16), 3 + length) for length in (3, 5)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def anchor_stage(backbone: BackboneSettings, **sampler: object) -> Anchor:
    settings = SamplerSettings(**{"steps": 3, **sampler})
    return Anchor(load_anchor(backbone), make_schedule(settings, 5.0), settings.guidance)


def detail_stage(backbone: BackboneSettings, **sampler: object) -> Detail:
    settings = SamplerSettings(**{"steps": 3, "step_sizes": "raw", **sampler})
    return Detail(load_detail(backbone), make_schedule(settings, 5.5), settings.guidance)


def test_an_embedding_does_not_depend_on_other_texts(backbone: BackboneSettings) -> None:
    encode = EncodeText(load_text_encoder(backbone))
    first = encode("a red circle")
    assert first.shape == (4, 16)
    encode("a blue square moves left")
    assert torch.equal(encode("a red circle"), first)
    assert not torch.equal(encode("a blue circle"), first)


def test_what_the_encoder_cannot_read_of_a_text_is_said(backbone: BackboneSettings) -> None:
    encode = EncodeText(load_text_encoder(backbone))
    assert encode.remarks("a red circle") == []
    assert encode.remarks("a furry circle, a quick fox") == ["unknown words: furry, quick, fox"]
    limit = backbone.dit.text_len
    (remark,) = encode.remarks("red " * limit)
    assert remark == f"only the first {limit} of {limit + 1} tokens are read"


def test_the_anchor_depends_on_noise_and_both_texts(backbone: BackboneSettings) -> None:
    anchor = anchor_stage(backbone)
    latent = anchor(NOISE, *TEXTS)
    assert latent.shape == NOISE.shape and latent.dtype == torch.float32
    assert torch.equal(anchor(NOISE, *TEXTS), latent)
    assert not torch.allclose(anchor(NOISE + 0.1, *TEXTS), latent)
    assert not torch.allclose(anchor(NOISE, TEXTS[0], TEXTS[0]), latent)
    assert not torch.allclose(anchor(NOISE, TEXTS[1], TEXTS[1]), latent)


def test_without_guidance_the_negative_text_is_not_used(backbone: BackboneSettings) -> None:
    anchor = anchor_stage(backbone, guidance=1.0)
    assert torch.equal(anchor(NOISE, *TEXTS), anchor(NOISE, TEXTS[0], TEXTS[0]))


def test_the_detail_depends_on_the_anchor_and_the_step_sizes(backbone: BackboneSettings) -> None:
    latent = detail_stage(backbone)(HR_NOISE, NOISE, *TEXTS)
    assert latent.shape == HR_NOISE.shape and latent.dtype == torch.float32
    assert not torch.allclose(detail_stage(backbone)(HR_NOISE, -NOISE, *TEXTS), latent)
    told_nothing = detail_stage(backbone, step_sizes="none")
    assert not torch.allclose(told_nothing(HR_NOISE, NOISE, *TEXTS), latent)


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpmpp"])
def test_continuing_from_any_step_gives_the_same_bits(
    backbone: BackboneSettings, solver: str
) -> None:
    detail = detail_stage(backbone, solver=solver, steps=4)
    states: list[dict[str, torch.Tensor]] = []
    whole = detail(HR_NOISE, NOISE, *TEXTS, on_step=lambda state: states.append(state.to_tensors()))
    assert len(states) == 4
    for state in map(SolverState.from_tensors, states):
        assert torch.equal(detail(HR_NOISE, NOISE, *TEXTS, state=state), whole)


def test_decoded_frames_are_the_decoded_video(backbone: BackboneSettings) -> None:
    vae = load_vae(backbone)
    chunks = list(Decode(vae)(HR_NOISE))
    assert [chunk.shape for chunk in chunks] == [(1, 64, 128, 3)] * 5
    frames = np.concatenate(chunks)
    assert frames.dtype == np.uint8
    video = vae.decode(HR_NOISE[None])[0].permute(1, 2, 3, 0)
    expected = (video.clamp(-1, 1).numpy() + 1) * 127.5
    assert np.abs(frames - expected).max() <= 0.501


@pytest.mark.parametrize("fast", [False, True])
def test_an_auto_decode_is_in_bfloat16_where_that_is_fast(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: fast)
    config = PlanConfig("none", backbone=BACKBONE, decode=DecodeSettings(dtype="auto"))
    assert settled(config).decode == DecodeSettings(dtype="bfloat16" if fast else None)
    assert settled(config, here=False).decode.dtype == "bfloat16"
    rounded = replace(config, backbone=replace(BACKBONE, dtype="bfloat16"))
    assert settled(rounded).decode == DecodeSettings()


@pytest.mark.parametrize("deterministic", [False, True])
def test_algorithms_of_convolutions_are_timed_in_the_decode_alone(
    backbone: BackboneSettings, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", deterministic)
    monkeypatch.setattr(cudnn, "benchmark", False)  # a training in this process has set it
    vae = load_vae(backbone, torch.device("cpu"), torch.float32)
    latent = torch.zeros(backbone.vae.z_dim, 1, 2, 2)
    for timed in (True, False):
        frames = Decode(vae, timed=timed)(latent)
        next(frames)
        assert cudnn.benchmark == (timed and not deterministic)
        frames.close()
        assert not cudnn.benchmark


def test_decode_leaves_gradients_as_they_were(backbone: BackboneSettings) -> None:
    for _ in Decode(load_vae(backbone))(NOISE):
        assert torch.is_grad_enabled()
