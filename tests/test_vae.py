"""The autoencoder: causal, streamed, and decoded whole or in tiles."""

import copy
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from seams import decoded, seams, shipped_clip

from pixelwizard.config.backbone import VAESizes
from pixelwizard.config.geometry import WHOLE, Tiles
from pixelwizard.models.wan.kernels import PLAIN, Fused, Kernels, compiled
from pixelwizard.models.wan.vae import WanVAE, patchify, to_pixels, unpatchify
from pixelwizard.planning.device import META, Trace
from pixelwizard.stages.decode import spans, tiled_frames, whole_frames


class Eager(Fused):
    """A compiled function whose compiler changes nothing."""

    def __init__(self, function) -> None:
        self.function = self._run = function


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    sizes = VAESizes(
        z_dim=4,
        dim=4,
        dec_dim=4,
        num_res_blocks=1,
        latent_mean=[0.1, -0.2, 0.3, 0.0],
        latent_std=[1.0, 2.0, 0.5, 1.5],
    )
    return WanVAE(sizes).eval().requires_grad_(False)


def test_patches_unfold_to_the_same_video() -> None:
    video = torch.randn(2, 3, 5, 8, 12)
    assert torch.equal(unpatchify(patchify(video)), video)


def test_streamed_encode_equals_the_whole_clip(vae: WanVAE) -> None:
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.sizes.latent_mean, vae.sizes.latent_std)
    )
    whole = (vae.moments(video)[0] - mean) / std
    assert whole.shape == (1, 4, 3, 2, 3)
    torch.testing.assert_close(vae.encode(video), whole, rtol=1e-4, atol=1e-5)


def test_streamed_decode_equals_the_whole_clip(vae: WanVAE) -> None:
    latent = torch.randn(1, 4, 4, 2, 3)
    chunks = list(vae.decode_stream(latent))
    assert [chunk.shape[2] for chunk in chunks] == [1] * 13
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.sizes.latent_mean, vae.sizes.latent_std)
    )
    whole = vae.reconstruct(latent * std + mean)
    torch.testing.assert_close(torch.cat(chunks, dim=2), whole, rtol=1e-4, atol=1e-5)


def test_a_decode_with_compiled_functions_and_any_layout_is_the_same(vae: WanVAE) -> None:
    latent, other = torch.randn(1, 4, 3, 2, 3), copy.deepcopy(vae).lay_out()
    expected = vae.decode(latent)
    assert torch.allclose(other.decode(latent), expected, atol=1e-5)
    other.use(Kernels(*(Eager(function) for function in vars(PLAIN).values())))
    assert torch.allclose(other.decode(latent), expected, atol=1e-5)


def test_a_decode_of_2k_moves_at_most_120_gb_a_latent_frame_and_fits_18_gb() -> None:
    """Besides its convolutions; 367 GB before functions were fused."""
    still = {"latent_mean": [0.0] * 48, "latent_std": [1.0] * 48}
    moved, flops = [], []
    with META:
        network = WanVAE(replace(VAESizes(), **still)).to(torch.bfloat16).requires_grad_(False)
    network.lay_out().use(compiled())
    with torch.no_grad(), Trace() as trace:
        for frame in network.decode_stream(torch.empty(1, 48, 3, 90, 160, device=META)):
            moved.append(trace.moved)
            flops.append(trace.flops["conv"])
            del frame
    assert 60e9 < moved[-1] - moved[-5] <= 120e9
    assert trace.peak <= 16.5e9, "with the weights, 17.9 GB"
    assert flops[-1] - flops[-5] < 0.93 * 272e12, "an upsampling costs 4 of 9 multiplications"


def test_no_frame_depends_on_a_later_one(vae: WanVAE) -> None:
    video = torch.rand(1, 3, 9, 32, 32)
    changed = video.clone()
    changed[:, :, 5:] = 0
    before, after = vae.encode(video), vae.encode(changed)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2:], after[:, :, 2:])


def test_the_stream_takes_a_latent_frame_only_when_it_needs_it(vae: WanVAE) -> None:
    taken = 0

    def frames():
        nonlocal taken
        for _ in range(4):
            taken += 1
            yield torch.randn(1, 4, 2, 2)

    needed = [taken for _ in vae.decoder.stream(frames())]
    assert needed == [1] + [2] * 4 + [3] * 4 + [4] * 4


def peak_of_decode(vae: WanVAE, latent: torch.Tensor) -> int:
    """Bytes of the tensors alive at once, the latent apart."""
    with Trace() as trace:
        for frame in vae.decode_stream(latent):
            del frame
    return trace.peak


def test_the_memory_of_a_decode_does_not_grow_with_the_clip(vae: WanVAE) -> None:
    short, long = (peak_of_decode(vae, torch.randn(1, 4, t, 2, 3)) for t in (5, 31))
    assert short == long


def test_the_memory_of_an_encode_grows_by_the_latent_alone(vae: WanVAE) -> None:
    peaks = []
    for frames in (17, 65):
        with Trace() as trace:
            vae.encode(torch.zeros(1, 3, frames, 32, 32))
        peaks.append(trace.peak - 3 * frames * 32 * 32 * 4)  # the video is made inside
    assert peaks[1] - peaks[0] <= 12 * 4 * 512  # 12 latent frames more, in blocks of 512 bytes


def test_the_autoencoder_is_trainable_on_whole_clips() -> None:
    vae = WanVAE(VAESizes(z_dim=4, dim=4, dec_dim=4, num_res_blocks=1))
    video = torch.rand(1, 3, 5, 32, 32)
    vae.reconstruct(vae.moments(video)[0]).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


def test_spans_cover_all_columns_and_share_what_they_say() -> None:
    parts = spans(160, 3, 3)
    assert [part.stop - part.start for part in parts] == [56, 60, 56]
    assert parts[0].start == 0 and parts[-1].stop == 160
    for left, right in zip(parts, parts[1:], strict=False):
        assert left.stop - right.start == right.shared == 6


def test_one_tile_is_the_streamed_decode(vae: WanVAE) -> None:
    latent = torch.randn(1, 4, 2, 2, 6)
    whole = list(whole_frames(vae, latent))
    assert len(whole) == 5 and np.array_equal(list(tiled_frames(vae, latent, WHOLE)), whole)


class Ramp(WanVAE):
    """A decoder whose tiles are exact: the colours are the values of the latent."""

    def decode_stream(self, latent, rows=None):
        for frame in latent[:, :3].split(1, dim=2):
            yield frame.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)


def test_exact_tiles_are_put_together_exactly() -> None:
    latent = torch.rand(1, 4, 2, 20, 30) * 2 - 1
    vae = Ramp(VAESizes(z_dim=4, dim=4, dec_dim=4))
    (tiled,) = tiled_frames(vae, latent[:, :, :1], Tiles(3, 4, 2))
    assert np.array_equal(tiled, to_pixels(next(vae.decode_stream(latent))[0])[0])


def test_where_four_tiles_meet_no_line_shows() -> None:
    class Shades(WanVAE):
        shade = iter((-0.5, 0.0, 0.2, 0.5))

        def decode_stream(self, latent, rows=None):
            yield torch.full((1, 3, 1, *(16 * n for n in latent.shape[3:])), next(self.shade))

    vae = Shades(VAESizes(z_dim=4, dim=4, dec_dim=4))
    (frame,) = tiled_frames(vae, torch.zeros(1, 4, 1, 12, 12), Tiles(2, 2, 3))
    frame = frame.astype(int)
    corners = to_pixels(torch.tensor([-0.5, 0.0, 0.2, 0.5]).expand(3, 1, 1, 4))[0, 0, :, 0]
    assert frame[[0, 0, -1, -1], [0, -1, 0, -1], 0].tolist() == corners.tolist()
    assert max(np.abs(np.diff(frame, axis=axis)).max() for axis in (0, 1)) <= 3


def test_tiles_hold_little_more_than_the_clip_on_the_host() -> None:
    vae, latent = Ramp(VAESizes(z_dim=4, dim=4, dec_dim=4)), torch.rand(1, 4, 5, 24, 32) * 2 - 1
    tracemalloc.start()
    clip = list(tiled_frames(vae, latent, Tiles(2, 3, 2)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * sum(frame.nbytes for frame in clip)


@pytest.mark.parametrize("tiles", [Tiles(2, 2, 2), Tiles(1, 3, 3)], ids=str)
def test_tiles_of_a_real_clip_leave_no_visible_line(tiles: Tiles) -> None:
    vae, latent = shipped_clip()
    few = latent[:, :1, :10, :18]
    found = seams(decoded(vae, few, tiles), decoded(vae, few, WHOLE), tiles)
    assert found.psnr_db > 30 and found.excess < 1.0, found


def test_tiles_of_random_weights_leave_no_visible_line(vae: WanVAE) -> None:
    torch.manual_seed(0)
    tiles, latent = Tiles(2, 2, 2), torch.randn(4, 2, 8, 12)
    found = seams(decoded(vae, latent, tiles), decoded(vae, latent, WHOLE), tiles)
    assert found.psnr_db > 30 and found.excess < 1.0, found
