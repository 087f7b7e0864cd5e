"""The causal video autoencoder of Wan2.2-TI2V-5B, whole clips or streamed.

Re-implements ``wan/modules/vae2_2.py`` of Wan2.2 under the same parameter names. Shapes are BCTHW:
video ``[B, 3, 4n+1, H, W]`` in [-1, 1], latent ``[B, z, n+1, H/16, W/16]`` normalised per channel.

Time is causal everywhere, so every layer runs in two ways with equal results.
``forward`` takes a whole clip, for training. ``stream`` takes the frames ``[B, C, H, W]`` of a clip
one by one and yields frames, for inference. Each frame runs through all layers before
the next enters. A causal convolution keeps the two previous frames and nothing else is kept, so
memory does not depend on the length of the clip. The decoder's frames may be only some rows;
``RowShard`` then brings what its layers need of the other rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise, starmap
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.config.backbone import VAESizes
from pixelwizard.models.wan.kernels import (
    PLAIN,
    Frames,
    Kernels,
    Sums,
    alone,
    channels_last,
    lay_out,
    phase_weights,
    taps,
)

if TYPE_CHECKING:
    from pixelwizard.parallel.exchange import RowShard

PIXEL_PATCH = 2
QUERY_CHUNK = 4096
"""Positions of a frame whose attention is computed at once; bounds the memory of slow kernels."""


class _Computing:
    """A layer that computes more than convolutions in a stream."""

    kernels = PLAIN


class CausalConv3d(_Computing, nn.Conv3d):
    """3-D convolution that sees no later frame: zeros, or the frames before, are put in front."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int) -> None:
        super().__init__(in_dim, out_dim, kernel, padding=(0, kernel // 2, kernel // 2))
        self.history = kernel - 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 0, 0, 0, self.history, 0)) if self.history else x)

    def stream(self, frames: Frames, rows: RowShard | None = None) -> Sums:
        pad = (self.padding[1], self.padding[2])
        if rows and pad[0]:
            frames, pad = map(rows.with_halo, frames), (0, pad[1])
        window: deque[Tensor] = deque(maxlen=self.history + 1)
        for frame in frames:
            window.append(frame)
            del frame
            parts = [self.kernels.collected(self._used_up(window, pad))]
            yield parts.pop()

    def _used_up(self, window: deque[Tensor], pad: tuple[int, int]) -> Frames:
        """The taps of a window, whose oldest frame leaves as soon as it has been used."""
        for part in taps(self, window, padding=pad):
            _forget_oldest(window)
            yield part
            del part


class TimeConv(_Computing, nn.Conv3d):
    """Convolution over three frames only; the caller decides what stands in front."""

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1) -> None:
        super().__init__(in_dim, out_dim, (3, 1, 1), stride=(stride, 1, 1))

    def of(self, window: Sequence[Tensor], out: slice = slice(None)) -> Tensor:
        """The channels ``out`` of the frame that comes of the window."""
        return next(self.kernels.frames(iter([self.kernels.collected(taps(self, window, out))])))


def _forget_oldest(window: deque[Tensor]) -> None:
    """Drop the oldest frame of a full window: no later output needs it."""
    if len(window) == window.maxlen:
        window.popleft()


def _fork(frames: Frames) -> tuple[Frames, Frames]:
    """The same frames twice; the second keeps those that only the first has taken so far."""
    waiting: deque[Tensor] = deque()

    def first() -> Frames:
        for frame in frames:
            waiting.append(frame)
            del frame
            yield waiting[-1]

    def second() -> Frames:
        while True:
            yield waiting.popleft()

    return first(), second()


class RMSNorm(_Computing, nn.Module):
    """Scales each position to unit root mean square over its channels, times ``gamma``."""

    def __init__(self, dim: int, spatial_dims: int = 3) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        # spelled out: the norms of F.normalize along channels are slow to differentiate on a CPU
        inverse = x.square().mean(dim=1, keepdim=True).float().clamp_min(1e-24).rsqrt()
        return x * inverse.to(x.dtype) * self.gamma.to(x.dtype)

    def activate(self, *parts: Tensor) -> Tensor:
        """The norm of one frame, given as a sum, and its SiLU, in one new tensor."""
        return self.kernels.activated(self.gamma.flatten(), *parts)

    def enter(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """One frame, given as a sum, and ``activate`` of it."""
        if len(parts) == 1:
            return parts[0], self.activate(*parts)
        return self.kernels.entered(self.gamma.flatten(), *parts)


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

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)

    def stream(self, sums: Sums, rows: RowShard | None = None) -> Sums:
        norm1, _, conv1, norm2, _, _, conv2 = self.residual
        entering: deque[Tensor] = deque()

        def enter(*parts: Tensor) -> Tensor:
            frame, hidden = norm1.enter(*parts)
            entering.append(frame)
            return hidden

        hidden = conv1.stream(starmap(enter, sums), rows)
        hidden = conv2.stream(starmap(norm2.activate, hidden), rows)
        return map(
            lambda parts: conv2.kernels.collected((*parts, self._around(entering.popleft()))),
            hidden,
        )

    def _around(self, frame: Tensor) -> Tensor:
        plain = isinstance(self.shortcut, nn.Identity)
        return frame if plain else next(taps(self.shortcut, [frame]))


class AttentionBlock(nn.Module):
    """Single-head self-attention over the positions of each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.norm = RMSNorm(dim, spatial_dims=2)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return _per_frame(self.attend, x)

    def attend(self, frames: Tensor, rows: RowShard | None = None) -> Tensor:
        """Frames ``[N, C, H, W]`` plus what their positions see of each other."""
        query, keys_values = self.to_qkv(self.norm(frames)).split([self.dim, 2 * self.dim], dim=1)
        if rows:
            keys_values = rows.gather(keys_values)
        q = query.flatten(2).transpose(1, 2).unsqueeze(1)
        k, v = keys_values.flatten(2).transpose(1, 2).unsqueeze(1).chunk(2, dim=-1)
        parts = [F.scaled_dot_product_attention(p, k, v) for p in q.split(QUERY_CHUNK, dim=2)]
        attended = torch.cat(parts, dim=2).squeeze(1).transpose(1, 2).reshape(frames.shape)
        return frames + self.proj(attended)

    def stream(self, sums: Sums, rows: RowShard | None = None) -> Sums:
        frames = self.norm.kernels.frames(sums)
        return map(lambda frame: (self.attend(frame, rows),), frames)


def _per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a 2-D layer to every frame of ``x``."""
    batch, _, frames = x.shape[:3]
    y = layer(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (batch, frames)).transpose(1, 2)


class Downsample(_Computing, nn.Module):
    """Halves height and width; with ``temporal`` also time, where the first frame stays alone."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = TimeConv(dim, dim, stride=2) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)

    def stream(self, sums: Sums) -> Sums:
        frames = map(self.resample, self.kernels.frames(sums))
        return alone(frames if self.time_conv is None else self._halve(self.time_conv, frames))

    @staticmethod
    def _halve(conv: TimeConv, frames: Frames) -> Frames:
        """The first frame, then one frame for every two."""
        window = deque([next(frames)], maxlen=3)
        yield window[-1]
        for frame in frames:
            window.append(frame)
            del frame
            if len(window) == 3:
                made = [conv.of(window)]
                window.popleft()
                window.popleft()
                yield made.pop()


class Upsample(nn.Module):
    """Doubles height and width; with ``temporal`` also time, where the first frame stays alone."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        enlarge = nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        self.resample = nn.Sequential(enlarge, nn.Conv2d(dim, dim, 3, padding=1))
        self.time_conv = TimeConv(dim, dim * 2) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        if self.time_conv is not None and x.shape[2] > 1:
            pair = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)))
            pair = pair.unflatten(1, (2, x.shape[1]))
            pair = torch.stack([pair[:, 0], pair[:, 1]], dim=3).flatten(2, 3)
            x = torch.cat([x[:, :, :1], pair], dim=2)
        return _per_frame(self.resample, x)

    def phases(self, frames: Frames, rows: RowShard | None = None) -> Frames:
        """What ``enlarged`` makes into frames of twice the size."""
        if self.time_conv is not None:
            frames = self._double(self.time_conv, frames)
        if rows:
            frames = map(rows.with_halo, frames)
        conv, padding = self.resample[1], (0 if rows else 1, 1)
        weight, bias = phase_weights(conv.weight), conv.bias.repeat(4)
        return map(lambda frame: F.conv2d(frame, weight, bias, padding=padding), frames)

    @staticmethod
    def _double(conv: TimeConv, frames: Frames) -> Frames:
        """The first frame, then two for every frame: the halves of the channels."""
        yield next(frames)
        window: deque[Tensor] = deque(maxlen=3)
        half = conv.out_channels // 2
        parts = slice(half), slice(half, None)
        for frame in frames:
            window.append(frame)
            del frame
            halves = deque(conv.of(window, part) for part in parts)
            _forget_oldest(window)
            while halves:
                yield halves.popleft()


def _streamed(layers: Iterable[Any], sums: Sums, *rows: RowShard | None) -> Sums:
    for layer in layers:
        sums = layer.stream(sums, *rows)
    return sums


def _average_down(x: Tensor, out_dim: int, time: int, space: int) -> Tensor:
    """Shortcut around a downsampling: folds pixels into channels and averages groups of them."""
    x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % time, 0))
    batch, dim, frames, height, width = x.shape
    x = x.view(batch, dim, frames // time, time, height // space, space, width // space, space)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    return x.unflatten(1, (out_dim, -1)).mean(dim=2)


def _duplicate_up(x: Tensor, out_dim: int, time: int, space: int) -> Tensor:
    """Shortcut around an upsampling: repeats channels and unfolds them into pixels."""
    batch, dim, frames, height, width = x.shape
    x = x.repeat_interleave(out_dim * time * space**2 // dim, dim=1)
    x = x.view(batch, out_dim, time, space, space, frames, height, width)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(batch, out_dim, frames * time, height * space, width * space)
    return x[:, :, time - 1 :]


def _residual_blocks(in_dim: int, out_dim: int, count: int) -> nn.ModuleList:
    dims = [in_dim] + [out_dim] * count
    return nn.ModuleList(ResidualBlock(*pair) for pair in pairwise(dims))


class DownLevel(_Computing, nn.Module):
    """One level of the encoder: residual blocks, then a downsampling unless it is the last."""

    def __init__(self, in_dim: int, out_dim: int, blocks: int, down: bool, temporal: bool) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.time, self.space = (2 if temporal else 1), (2 if down else 1)
        self.downsamples = _residual_blocks(in_dim, out_dim, blocks)
        if down:
            self.downsamples.append(Downsample(out_dim, temporal))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = _average_down(x, self.out_dim, self.time, self.space)
        for layer in self.downsamples:
            x = layer(x)
        return x + shortcut

    def stream(self, sums: Sums) -> Sums:
        frames, shortcut = _fork(self.kernels.frames(sums))
        sums = _streamed(self.downsamples, alone(frames))
        around = self._shortcut(shortcut)
        return map(lambda parts, frame: self.kernels.collected((frame, *parts)), sums, around)

    def _shortcut(self, frames: Frames) -> Frames:
        """The shortcut of the first frame, then of every two where time is halved."""
        group = [next(frames)]
        while group:
            yield self._fold(group)
            group.extend(islice(frames, self.time))

    def _fold(self, group: list[Tensor]) -> Tensor:
        x = torch.stack(group, dim=2)
        group.clear()
        return _average_down(x, self.out_dim, self.time, self.space).squeeze(2)


class UpLevel(_Computing, nn.Module):
    """One level of the decoder: residual blocks, then an upsampling unless it is the last."""

    def __init__(self, in_dim: int, out_dim: int, blocks: int, up: bool, temporal: bool) -> None:
        super().__init__()
        self.out_dim, self.up = out_dim, up
        self.time = 2 if temporal else 1
        self.upsamples = _residual_blocks(in_dim, out_dim, blocks)
        if up:
            self.upsamples.append(Upsample(out_dim, temporal))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = _duplicate_up(x, self.out_dim, self.time, 2) if self.up else None
        for layer in self.upsamples:
            x = layer(x)
        return x if shortcut is None else x + shortcut

    def stream(self, sums: Sums, rows: RowShard | None = None) -> Sums:
        if not self.up:
            return _streamed(self.upsamples, sums, rows)
        *blocks, last = self.upsamples
        frames, shortcut = _fork(self.kernels.frames(sums))
        frames = self.kernels.frames(_streamed(blocks, alone(frames), rows))
        phases, sources = last.phases(frames, rows), self._sources(shortcut)
        return map(lambda x, source: (self.kernels.enlarged(x, *source),), phases, sources)

    def _sources(self, frames: Frames) -> Iterator[tuple[Tensor, int, int]]:
        """For every frame out: the frame in, the place in its time group, the size of groups."""
        yield next(frames), self.time - 1, self.time
        for frame in frames:
            held = deque([frame] * self.time)
            del frame
            while held:
                yield held.popleft(), self.time - 1 - len(held), self.time


def _middle(dim: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(dim, dim), AttentionBlock(dim), ResidualBlock(dim, dim)])


def _head(dim: int, out_dim: int) -> nn.ModuleList:
    return nn.ModuleList([RMSNorm(dim), nn.SiLU(), CausalConv3d(dim, out_dim, 3)])


class _Coder(nn.Module):
    """Its children in their order: a convolution, lists of layers, a head."""

    def forward(self, x: Tensor) -> Tensor:
        conv, *groups = self._parts()
        for layer in (conv, *chain.from_iterable(groups)):
            x = layer(x)
        return x

    def stream(self, frames: Frames, *rows: RowShard | None) -> Frames:
        conv, *groups, (norm, _, last) = self._parts()
        sums = _streamed(chain.from_iterable(groups), conv.stream(frames, *rows), *rows)
        return norm.kernels.frames(last.stream(starmap(norm.activate, sums), *rows))

    def _parts(self) -> list[Any]:
        return list(self.children())


class Encoder(_Coder):
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


class Decoder(_Coder):
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

    def lay_out(self) -> WanVAE:
        """Lay the weights out in memory as a stream reads them; their values stay."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                lay_out(module)
        return self

    def use(self, kernels: Kernels) -> None:
        """Compute what a stream does between the convolutions by these functions."""
        for module in self.modules():
            if isinstance(module, _Computing):
                module.kernels = kernels

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent channels, shaped to broadcast over BCTHW."""
        mean, std = (
            like.new_tensor(list(values)).view(1, -1, 1, 1, 1)
            for values in (self.sizes.latent_mean, self.sizes.latent_std)
        )
        return mean, std

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent before normalisation, each ``[B, z, t, h, w]``."""
        mean, logvar = self.conv1(self.encoder(patchify(video))).chunk(2, dim=1)
        return mean, logvar

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Decodes a latent that is not normalised; the video is not clamped."""
        return unpatchify(self.decoder(self.conv2(latent)))

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, 4n+1, H, W] in [-1, 1] -> normalised latent mean; one frame at a time."""
        return self.encode_stream(iter(video.split(1, dim=2)))

    @torch.no_grad()
    def encode_stream(self, video: Iterator[Tensor]) -> Tensor:
        """4n+1 frames ``[B, 3, 1, H, W]`` in order of time -> normalised latent mean.

        Memory does not grow with the number of frames but for the latent.
        """
        dtype = self.conv1.weight.dtype
        frames = (channels_last(patchify(frame.to(dtype)).squeeze(2)) for frame in video)
        moments = self.conv1.kernels.frames(self.conv1.stream(self.encoder.stream(frames)))
        mean_BCTHW = torch.stack([moment.chunk(2, dim=1)[0] for moment in moments], dim=2)
        mean, std = self._statistics(mean_BCTHW)
        return (mean_BCTHW - mean) / std

    @torch.no_grad()
    def decode_stream(self, latent: Tensor, rows: RowShard | None = None) -> Iterator[Tensor]:
        """Normalised latent -> frames ``[B, 3, 1, H, W]`` in order of time.

        Memory does not grow with the number of frames. The video is not clamped. With ``rows`` the
        latent and the video are this process's rows.
        """
        latent = latent.to(self.conv2.weight.dtype)
        mean, std = self._statistics(latent)
        frames = (channels_last((x * std + mean).squeeze(2)) for x in latent.split(1, dim=2))
        widened = self.conv2.kernels.frames(self.conv2.stream(frames))
        for frame in self.decoder.stream(widened, rows):
            yield unpatchify(frame.unsqueeze(2))

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised latent -> the whole video, not clamped."""
        return torch.cat(list(self.decode_stream(latent)), dim=2)


def to_pixels(video_3THW: Tensor) -> Tensor:
    """[-1, 1], clamped, -> uint8 ``[T, H, W, 3]``."""
    pixels = video_3THW.float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous()
