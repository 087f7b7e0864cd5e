"""The autoencoder: causal, streamed, and decoded in strips."""

import numpy as np
import pytest
import torch

from pixelwizard.settings import VAESizes
from pixelwizard.wan.tiling import stream_frames, strips, tiled_frames, to_frames
from pixelwizard.wan.vae import WanVAE, patchify, unpatchify


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


def test_the_autoencoder_is_trainable_on_whole_clips() -> None:
    vae = WanVAE(VAESizes(z_dim=4, dim=4, dec_dim=4, num_res_blocks=1))
    video = torch.rand(1, 3, 5, 32, 32)
    vae.reconstruct(vae.moments(video)[0]).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())


def test_strips_cover_all_columns_and_share_what_they_say() -> None:
    parts = strips(160, 3, 3)
    assert [part.stop - part.start for part in parts] == [56, 60, 56]
    assert parts[0].start == 0 and parts[-1].stop == 160
    for left, right in zip(parts, parts[1:], strict=False):
        assert left.stop - right.start == right.shared == 6


def test_more_strips_than_the_width_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 2"):
        strips(12, 3, 3)


def test_one_strip_is_the_streamed_decode(vae: WanVAE) -> None:
    latent = torch.randn(1, 4, 2, 2, 6)
    whole = np.concatenate(list(stream_frames(vae, latent)))
    assert np.array_equal(tiled_frames(vae, latent, 1, 3), whole)


def test_strips_of_a_flat_video_show_no_seam() -> None:
    class Flat(WanVAE):
        def decode_stream(self, latent):
            yield torch.full((1, 3, 1, 16, latent.shape[-1] * 16), 0.25)

    frames = tiled_frames(
        Flat(VAESizes(z_dim=4, dim=4, dec_dim=4)), torch.zeros(1, 4, 1, 1, 24), 3, 3
    )
    assert frames.shape == (1, 16, 384, 3)
    assert (
        np.unique(frames).tolist() == to_frames(torch.full((3, 1, 1, 1), 0.25)).ravel().tolist()[:1]
    )
