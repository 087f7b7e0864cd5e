"""From a text to the latent of a video: the text's embedding, the anchor, the details."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pixelwizard.config.geometry import PATCH, TEMPORAL_STRIDE, overlap_of, windows_of
from pixelwizard.diffusion.sampling import (
    Join,
    SolverState,
    Velocity,
    blended,
    guided,
    sample,
    side_by_side,
)
from pixelwizard.diffusion.schedules import Schedule, Step
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import TextKeyValues, WanDiT
from pixelwizard.models.wan.umt5 import TextEncoder, clean, unknown_words
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.stages.decode import stream_pixels

if TYPE_CHECKING:
    from pixelwizard.parallel.exchange import CFGParallel

BEST = 100.0
"""Decibels of equal frames, whose PSNR has no bound."""


class EncodeVideo:
    """The mean of the autoencoder's latent; a frame at a time, so clips of any length fit.

    A clip of more than ``window`` latent frames is encoded in parts of that length, because the
    networks were trained only on such latents, and the encoder may drift in longer clips. The
    overlap, a third of a part, warms the encoder up and is dropped.
    """

    def __init__(self, vae: WanVAE, window: int) -> None:
        self.vae, self.window = vae, max(window, 2)
        self.overlap = overlap_of(self.window)

    @torch.no_grad()
    def __call__(self, frames: Iterable[np.ndarray]) -> Tensor:
        """4n+1 frames ``[H, W, 3]``, uint8 RGB -> the normalised latent, float32 CTHW."""
        frames = iter(frames)
        latest: deque[np.ndarray] = deque(maxlen=TEMPORAL_STRIDE * (self.overlap - 1) + 1)

        def noted(part: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for frame in part:
                latest.append(frame)
                yield frame

        latents: list[Tensor] = []
        fresh = TEMPORAL_STRIDE * (self.window - 1) + 1
        for frame in frames:  # the first that is in no part yet
            part = chain(tuple(latest), noted(chain([frame], islice(frames, fresh - 1))))
            latent = self.vae.encode_stream(self._as_video(part))[0].float()
            latents.append(latent[:, self.overlap if latents else 0 :])
            fresh = TEMPORAL_STRIDE * (self.window - self.overlap)
        return torch.cat(latents, dim=1)

    @torch.no_grad()
    def fidelity(self, latent_CTHW: Tensor, frames: Iterable[np.ndarray]) -> float:
        """PSNR in dB of what the latent decodes to against the ``frames`` that it was made of."""
        weight = next(self.vae.parameters())
        latent = latent_CTHW.unsqueeze(0).to(weight.device, weight.dtype)
        errors = [
            float((decoded.float() - torch.from_numpy(frame).to(decoded.device)).square().mean())
            for decoded, frame in zip(stream_pixels(self.vae, latent), frames, strict=True)
        ]
        error = sum(errors) / len(errors)
        return min(BEST, 20 * math.log10(255) - 10 * math.log10(error)) if error else BEST

    def _as_video(self, frames: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Each frame as ``[1, 3, 1, H, W]`` in [-1, 1] where the autoencoder is."""
        device = next(self.vae.parameters()).device
        for frame in frames:
            pixels = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None, :, None]
            yield pixels.float() / 127.5 - 1


class EncodeText:
    """Encodes one text at a time, so an embedding does not depend on its neighbours."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """-> ``[L, text_dim]``, L the tokens of the text, at most text_len."""
        return self.encoder([text])[0]

    def remarks(self, text: str) -> list[str]:
        """What the encoder ignores in a text: unknown words, tokens beyond its length."""
        found = []
        unknown = unknown_words(self.encoder.tokenizer, text)
        if unknown:
            found.append(f"unknown words: {', '.join(unknown)}")
        tokens = len(self.encoder.tokenizer(clean(text))["input_ids"])
        if tokens > self.encoder.text_len:
            found.append(f"only the first {self.encoder.text_len} of {tokens} tokens are read")
        return found


OnStep = Callable[[SolverState], None]


class _Sampler:
    """Integrates a transformer's velocity, guided by the text, along a schedule.

    ``window``: latent frames that the network gets at once, of a longer latent (None: all of it).
    Both passes of a guided step are one batch where the network's ``paired`` and ``chunk`` allow.
    """

    def __init__(
        self,
        network: WanDiT,
        schedule: Schedule,
        guidance: float,
        cfg: CFGParallel | None = None,
        window: int | None = None,
    ) -> None:
        self.network, self.schedule = network, schedule
        self.guidance, self.cfg, self.window = guidance, cfg, window

    @torch.no_grad()
    def integrate(
        self,
        noise_CTHW: Tensor,
        text: Tensor,
        negative_text: Tensor,
        state: SolverState | None = None,
        on_step: OnStep | None = None,
        first_frame: Tensor | None = None,
        features: Callable[[slice], Tensor] | None = None,
    ) -> Tensor:
        """Float32 noise and the ``[L, text_dim]`` embeddings -> the latent, float32 CTHW.

        ``state``: where an earlier call stopped; ``on_step`` receives the state after every step.
        ``first_frame``, float32 [C, 1, H, W], stays as it is, and the video begins with it: its
        timestep and step size are 0. ``features``: a detail network's, of the anchor in a window.
        """

        def asking(
            network: Callable[..., Tensor], text: TextKeyValues, join: Join = blended
        ) -> Velocity:
            def ask(latent: Tensor, step: Step) -> Tensor:
                self.network.sigma = step.sigma
                batch, frames = len(text.blocks[0][0]), latent.shape[2]
                latent = latent.expand(batch, *latent.shape[1:])
                values = [step.timestep] if step.dt is None else [step.timestep, float(step.dt)]

                def in_window(span: slice) -> Tensor:
                    given = first_frame is not None and span.start == 0
                    rows = ([[0.0, value] if given else value] * batch for value in values)
                    times, *sizes = map(latent.new_tensor, rows)
                    if features is None:
                        return network(latent[:, :, span], times, text, *sizes)
                    seen = features(span).expand(batch, -1, -1)
                    return network(latent[:, :, span], times, text, *(sizes or (None,)), seen)

                return join(in_window, frames, self.window or frames)

            return ask

        both, texts = None, (text, negative_text)
        if self._pairs(noise_CTHW):
            both = self.network.encode_text(texts)
            with_text, without = both.sample(0), both.sample(1)
        else:
            with_text, without = (self.network.encode_text([text]) for text in texts)
        conditional, unconditional = (asking(self.network, text) for text in (with_text, without))
        together = asking(self.network, both) if both else None
        try:
            return sample(
                guided(conditional, unconditional, self.guidance, self.cfg, together),
                noise_CTHW.unsqueeze(0),
                self.schedule,
                first=None if first_frame is None else first_frame.unsqueeze(0),
                probe=asking(self.network.first_change, with_text, side_by_side),
                state=state,
                on_step=on_step,
            )[0]
        finally:
            self.network.sigma = None

    def _pairs(self, noise_CTHW: Tensor) -> bool:
        """Whether both passes of a guided step are one batch.

        Short ones leave a part of a device idle, and streamed weights then pass once for both.
        """
        frames, height, width = noise_CTHW.shape[1:]
        tokens = min(frames, self.window or frames) * (height // PATCH) * (width // PATCH)
        most = min(self.network.paired, self.network.chunk)
        guided = any(step.guided for step in self.schedule.steps)
        return guided and self.cfg is None and 2 * tokens <= most


class Anchor(_Sampler):
    """Noise becomes the anchor, a low-resolution latent of the whole clip.

    A schedule with step sizes needs a network that takes them.
    """

    __call__ = _Sampler.integrate


class Detail(_Sampler):
    """Noise becomes the high-resolution latent in a few steps, given the anchor and their sizes."""

    network: ShortcutDiT

    @torch.no_grad()
    def __call__(
        self,
        noise_CTHW: Tensor,
        anchor_CTHW: Tensor,
        text: Tensor,
        negative_text: Tensor,
        state: SolverState | None = None,
        on_step: OnStep | None = None,
        first_frame: Tensor | None = None,
    ) -> Tensor:
        """Float32 noise, the anchor and the ``[L, text_dim]`` embeddings -> the latent, float32.

        Both passes of the guidance see the anchor. The others as for ``integrate``.
        """
        features = self._features(anchor_CTHW.unsqueeze(0), noise_CTHW.shape[1:])
        texts = (text, negative_text)
        return self.integrate(noise_CTHW, *texts, state, on_step, first_frame, features)

    def _features(self, anchor_BCTHW: Tensor, grid: Sequence[int]) -> Callable[[slice], Tensor]:
        """The anchor's features on the tokens of a window of the latent ``grid``.

        Those of a whole clip are computed once, those of several windows for every pass: kept, they
        would take more memory the longer the clip is.
        """
        frames, height, width = grid

        def compute(span: slice) -> Tensor:
            tokens = (span.stop - span.start, height // PATCH, width // PATCH)
            return self.network.encode_anchor(anchor_BCTHW[:, :, span], tokens)

        if len(windows_of(frames, self.window or frames)) > 1:
            return compute
        whole = compute(slice(0, frames))
        return lambda span: whole
