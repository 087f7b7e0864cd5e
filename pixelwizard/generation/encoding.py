"""Given clips and pictures become latents, as a predict loop."""

from __future__ import annotations

import torch

from pixelwizard.data.source_files import frames_of
from pixelwizard.generation.loops import Result, StageLoop
from pixelwizard.models.weights import load_vae
from pixelwizard.records.provenance import Job
from pixelwizard.stages.decode import decode_dtype
from pixelwizard.stages.latents import EncodeVideo

FAITHFUL = 28.0
"""Decibels below which a clip is far from what its autoencoder knows."""


class EncodeLoop(StageLoop):
    """The latents of every job's source, and how well the autoencoder gives it back."""

    name = "encode"

    def load(self, device: torch.device, dtype: torch.dtype) -> EncodeVideo:
        dtype = decode_dtype(self.config)
        vae = self.networks.load(self.name, load_vae, device, dtype)
        return EncodeVideo(vae, self.config.resolution.geometry.latent_grid[0])

    def predict_step(self, job: Job, batch_idx: int = 0) -> Result:
        source, shape = job.prompt.source, job.size.geometry
        assert source is not None
        with self.attempt(job) as result:
            sizes = job.encoded.items()
            latents = {n: self.stage(frames_of(source, size, shape)) for n, size in sizes}
            name, size = next(iter(sizes))
            psnr = self.stage.fidelity(latents[name], frames_of(source, size, shape))
            result.facts["reconstruction_psnr"] = round(psnr, 2)
            if psnr < FAITHFUL:
                self.display.say(
                    f"prompt {job.id}: the autoencoder of {self.config.backbone.name} was not"
                    f" trained on such frames: it reconstructs {source.path.name} at only"
                    f" {psnr:.1f} dB"
                )
            result.tensors["encode", job.encode_key] = latents
        return result
