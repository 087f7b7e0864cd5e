"""The causal video autoencoder of Wan2.2-TI2V-5B, whole clips or streamed.

Re-implements ``wan/modules/vae2_2.py`` of Wan2.2 under the same parameter names. Shapes are BCTHW:
video ``[B, 3, 4n+1, H, W]`` in [-1, 1], latent ``[B, z, n+1, H/16, W/16]`` normalised per channel.

Time is causal everywhere, so a clip can be processed whole or in chunks with equal results: the
first chunk begins with the clip's first frame, and ``Stream`` carries what each layer needs of the
chunks before.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.geometry import TEMPORAL_STRIDE
from pixelwizard.settings import VAESizes

PIXEL_PATCH = 2


class Stream(dict[nn.Module, Tensor]):
    """The last frames each causal layer has seen; empty before the first chunk of a clip."""


class CausalConv3d(nn.Conv3d):
    """3-D convolution that sees no later frame: zeros, or the frames before, are put in front."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int) -> None:
        super().__init__(in_dim, out_dim, kernel, padding=(0, kernel // 2, kernel // 2))
        self.history = kernel - 1

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.history:
            x = _prepend(self, x, self.history, stream)
        return super().forward(x)


class TimeConv(nn.Conv3d):
    """Convolution over three frames only; the caller decides what stands in front."""

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1) -> None:
        super().__init__(in_dim, out_dim, (3, 1, 1), stride=(stride, 1, 1))


def _prepend(layer: nn.Module, x: Tensor, frames: int, stream: Stream | None) -> Tensor:
    """Puts the ``frames`` frames before ``x`` (zeros at the start of a clip) in front of it."""
    before = None if stream is None else stream.get(layer)
    if before is None:
        x = F.pad(x, (0, 0, 0, 0, frames, 0))
    else:
        x = torch.cat([before, x], dim=2)
    if stream is not None:
        stream[layer] = x[:, :, -frames:].clone()
    return x


def _starts_clip(layer: nn.Module, x: Tensor, stream: Stream | None) -> bool:
    """True if ``x`` begins with the clip's first frame; remembers that the layer has started."""
    if stream is None:
        return True
    first = layer not in stream
    stream[layer] = x[:, :, -1:].clone()
    return first


class RMSNorm(nn.Module):
    """Scales each position to unit root mean square over its channels, times ``gamma``."""

    def __init__(self, dim: int, spatial_dims: int = 3) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (self.scale * self.gamma)


class ResidualBlock(nn.Module):
    """Two normalised causal convolutions around a shortcut."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(in_dim),
            nn.SiLU(),
            CausalConv3d(in_dim, out_dim, 3),
            RMSNorm(out_dim),
            nn.SiLU(),
            nn.Identity(),  # the official dropout of rate 0; keeps the names of the weights
            CausalConv3d(out_dim, out_dim, 3),
        )
        self.shortcut = CausalConv3d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        shortcut = self.shortcut(x)
        for layer in self.residual:
            x = layer(x, stream) if isinstance(layer, CausalConv3d) else layer(x)
        return x + shortcut


class AttentionBlock(nn.Module):
    """Single-head self-attention over the positions of each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, spatial_dims=2)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        batch, dim, frames, height, width = x.shape
        frames_NCHW = x.transpose(1, 2).reshape(batch * frames, dim, height, width)
        qkv = self.to_qkv(self.norm(frames_NCHW)).flatten(2).transpose(1, 2)
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        out = self.proj(attended.reshape(batch * frames, dim, height, width))
        return x + out.view(batch, frames, dim, height, width).transpose(1, 2)


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a 2-D layer to every frame of ``x``."""
    batch, _, frames = x.shape[:3]
    y = layer(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (batch, frames)).transpose(1, 2)


class Downsample(nn.Module):
    """Halves height and width; with ``temporal`` also time, where the first frame stays alone."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = TimeConv(dim, dim, stride=2) if temporal else None

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        before = None if stream is None else stream.get(self)
        if _starts_clip(self, x, stream):
            first = x[:, :, :1]
            return first if x.shape[2] == 1 else torch.cat([first, self.time_conv(x)], dim=2)
        assert before is not None
        return self.time_conv(torch.cat([before, x], dim=2))


class Upsample(nn.Module):
    """Doubles height and width; with ``temporal`` also time, where the first frame stays alone."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        enlarge = nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        self.resample = nn.Sequential(enlarge, nn.Conv2d(dim, dim, 3, padding=1))
        self.time_conv = TimeConv(dim, dim * 2) if temporal else None

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        if self.time_conv is not None:
            if _starts_clip(self, x, stream):
                first, rest = x[:, :, :1], x[:, :, 1:]
                x = torch.cat([first, self._double(rest, stream)], dim=2) if rest.numel() else first
            else:
                x = self._double(x, stream)
        return _per_frame(self.resample, x)

    def _double(self, x: Tensor, stream: Stream | None) -> Tensor:
        """[B, C, T, H, W] -> [B, C, 2T, H, W]: the two halves of the channels are two frames."""
        assert self.time_conv is not None
        pair = self.time_conv(_prepend(self.time_conv, x, 2, stream))
        pair = pair.unflatten(1, (2, x.shape[1]))
        return torch.stack([pair[:, 0], pair[:, 1]], dim=3).flatten(2, 3)


def _average_down(x: Tensor, out_dim: int, time: int, space: int) -> Tensor:
    """Shortcut around a downsampling: folds pixels into channels and averages groups of them."""
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    batch, dim, frames, height, width = x.shape
    x = x.view(batch, dim, frames // time, time, height // space, space, width // space, space)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    return x.unflatten(1, (out_dim, -1)).mean(dim=2)


def _duplicate_up(x: Tensor, out_dim: int, time: int, space: int, first: bool) -> Tensor:
    """Shortcut around an upsampling: repeats channels and unfolds them into pixels."""
    batch, dim, frames, height, width = x.shape
    x = x.repeat_interleave(out_dim * time * space**2 // dim, dim=1)
    x = x.view(batch, out_dim, time, space, space, frames, height, width)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(batch, out_dim, frames * time, height * space, width * space)
    return x[:, :, time - 1 :] if first else x


class DownLevel(nn.Module):
    """One level of the encoder: residual blocks, then a downsampling unless it is the last."""

    def __init__(self, in_dim: int, out_dim: int, blocks: int, down: bool, temporal: bool) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.time, self.space = (2 if temporal else 1), (2 if down else 1)
        layers: list[nn.Module] = []
        for index in range(blocks):
            layers.append(ResidualBlock(in_dim if index == 0 else out_dim, out_dim))
        if down:
            layers.append(Downsample(out_dim, temporal))
        self.downsamples = nn.ModuleList(layers)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        shortcut = _average_down(x, self.out_dim, self.time, self.space)
        for layer in self.downsamples:
            x = layer(x, stream)
        return x + shortcut


class UpLevel(nn.Module):
    """One level of the decoder: residual blocks, then an upsampling unless it is the last."""

    def __init__(self, in_dim: int, out_dim: int, blocks: int, up: bool, temporal: bool) -> None:
        super().__init__()
        self.out_dim, self.up = out_dim, up
        self.time = 2 if temporal else 1
        layers: list[nn.Module] = []
        for index in range(blocks):
            layers.append(ResidualBlock(in_dim if index == 0 else out_dim, out_dim))
        if up:
            layers.append(Upsample(out_dim, temporal))
        self.upsamples = nn.ModuleList(layers)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        first = self.up and _starts_clip(self, x, stream)
        shortcut = _duplicate_up(x, self.out_dim, self.time, 2, first) if self.up else None
        for layer in self.upsamples:
            x = layer(x, stream)
        return x if shortcut is None else x + shortcut


def _middle(dim: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(dim, dim), AttentionBlock(dim), ResidualBlock(dim, dim)])


def _head(dim: int, out_dim: int) -> nn.ModuleList:
    return nn.ModuleList([RMSNorm(dim), nn.SiLU(), CausalConv3d(dim, out_dim, 3)])


class Encoder(nn.Module):
    """Patchified video ``[B, 12, T, H/2, W/2]`` -> ``[B, 2z, t, H/16, W/16]`` features."""

    def __init__(self, sizes: VAESizes) -> None:
        super().__init__()
        dims = [sizes.dim * multiple for multiple in [1, *sizes.dim_mult]]
        temporal = [*sizes.temporal_downsample, False]
        self.conv1 = CausalConv3d(3 * PIXEL_PATCH**2, dims[0], 3)
        self.downsamples = nn.ModuleList(
            DownLevel(dims[i], dims[i + 1], sizes.num_res_blocks, i + 2 < len(dims), temporal[i])
            for i in range(len(dims) - 1)
        )
        self.middle = _middle(dims[-1])
        self.head = _head(dims[-1], 2 * sizes.z_dim)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        x = self.conv1(x, stream)
        for layer in [*self.downsamples, *self.middle]:
            x = layer(x, stream)
        norm, act, conv = self.head
        return conv(act(norm(x)), stream)


class Decoder(nn.Module):
    """Latent ``[B, z, t, h, w]`` -> patchified video ``[B, 12, T, 8h, 8w]``."""

    def __init__(self, sizes: VAESizes) -> None:
        super().__init__()
        dims = [sizes.dec_dim * m for m in [sizes.dim_mult[-1], *reversed(sizes.dim_mult)]]
        temporal = [*reversed(sizes.temporal_downsample), False]
        self.conv1 = CausalConv3d(sizes.z_dim, dims[0], 3)
        self.middle = _middle(dims[0])
        self.upsamples = nn.ModuleList(
            UpLevel(dims[i], dims[i + 1], sizes.num_res_blocks + 1, i + 2 < len(dims), temporal[i])
            for i in range(len(dims) - 1)
        )
        self.head = _head(dims[-1], 3 * PIXEL_PATCH**2)

    def forward(self, x: Tensor, stream: Stream | None) -> Tensor:
        x = self.conv1(x, stream)
        for layer in [*self.middle, *self.upsamples]:
            x = layer(x, stream)
        norm, act, conv = self.head
        return conv(act(norm(x)), stream)


def patchify(video: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, 4C, T, H/2, W/2]; channels ordered (colour, column, row)."""
    batch, dim, frames, height, width = video.shape
    p = PIXEL_PATCH
    x = video.view(batch, dim, frames, height // p, p, width // p, p)
    return x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def unpatchify(x: Tensor) -> Tensor:
    """The inverse of ``patchify``."""
    p = PIXEL_PATCH
    x = x.unflatten(1, (-1, p, p)).permute(0, 1, 4, 5, 3, 6, 2)
    return x.flatten(5, 6).flatten(3, 4)


class WanVAE(nn.Module):
    """The autoencoder; latents in and out are normalised with the statistics in ``sizes``."""

    def __init__(self, sizes: VAESizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = Encoder(sizes)
        self.conv1 = CausalConv3d(2 * sizes.z_dim, 2 * sizes.z_dim, 1)
        self.conv2 = CausalConv3d(sizes.z_dim, sizes.z_dim, 1)
        self.decoder = Decoder(sizes)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent channels, shaped to broadcast over BCTHW."""
        mean, std = (
            like.new_tensor(list(values)).view(1, -1, 1, 1, 1)
            for values in (self.sizes.latent_mean, self.sizes.latent_std)
        )
        return mean, std

    def moments(self, video: Tensor, stream: Stream | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent before normalisation, each ``[B, z, t, h, w]``."""
        mean, logvar = self.conv1(self.encoder(patchify(video), stream)).chunk(2, dim=1)
        return mean, logvar

    def reconstruct(self, latent: Tensor, stream: Stream | None = None) -> Tensor:
        """Decodes a latent that is not normalised; the video is not clamped."""
        return unpatchify(self.decoder(self.conv2(latent), stream))

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 4n+1, H, W] in [-1, 1] -> normalised latent mean; four frames at a time."""
        video, stream = video.to(self.conv1.weight.dtype), Stream()
        chunks = [video[:, :, :1], *video[:, :, 1:].split(TEMPORAL_STRIDE, dim=2)]
        latents = [self.moments(c, stream)[0] for c in chunks if c.shape[2]]
        mean, std = self._statistics(latents[0])
        return (torch.cat(latents, dim=2) - mean) / std

    def decode_stream(self, latent: Tensor) -> Iterator[Tensor]:
        """Normalised latent -> chunks ``[B, 3, t, H, W]`` in order of time: one frame, then fours.

        Memory does not grow with the number of frames. The video is not clamped.
        """
        latent, stream = latent.to(self.conv2.weight.dtype), Stream()
        mean, std = self._statistics(latent)
        for frame in latent.split(1, dim=2):
            yield self.reconstruct(frame * std + mean, stream)

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent -> the whole video, not clamped."""
        return torch.cat(list(self.decode_stream(latent)), dim=2)
