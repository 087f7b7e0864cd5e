"""Run folders as ``generate`` leaves them, with latents and videos of known differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import GenerateConfig, SamplerSettings, StoreSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.output import TrackerSettings
from pixelwizard.data.prompts import prompts_of
from pixelwizard.io.files import write_json
from pixelwizard.io.store import Store
from pixelwizard.io.video import VideoWriter
from pixelwizard.records.provenance import Provenance, make_jobs
from pixelwizard.records.run_folder import claim

PROMPTS = ("a red circle moves left over a gray background", "a blue square <b>grows</b>")
DIGESTS = {part: "0" * 64 for part in ("text_encoder", "anchor", "detail", "vae")}
SIZE = ResolutionSettings(width=192, height=128, frames=33, anchor_width=96, anchor_height=64)
DEVICE = "a processor"


def make_run(
    folder: Path,
    sampler: SamplerSettings,
    error: float,
    *,
    seed: int = 0,
    prompts: Sequence[str] = PROMPTS,
    metrics: Mapping[str, float] | None = None,
    recipe: str = "score/of=this",
    size: ResolutionSettings = SIZE,
    seconds: float | None = None,
) -> GenerateConfig:
    """A run whose latents are ``error`` away from those of the same prompts and seed."""
    config = GenerateConfig(
        run_dir=str(folder),
        backbone=BackboneSettings(name="tiny"),
        resolution=size,
        schedule=replace(sampler, guidance=1.0),
        tracker=TrackerSettings(kind="none"),
        store=StoreSettings(dir=str(folder.parent / "store")),
        prompt=list(prompts),
        seed=seed,
    )
    claim(config, ["pixelwizard"])
    jobs = make_jobs(config, prompts_of(config), DIGESTS)
    store = Store(config.store.dir)
    for number, job in enumerate(jobs):
        written = Provenance(config, DIGESTS, DEVICE).of(job)
        own = error * (1 + 0.1 * number + 0.05 * seed)
        latent = torch.full((4, 2, 2, 2), own**0.5)
        store.save("detail", job.detail_key, {"latent": latent}, {})
        cost = seconds if seconds is not None else 0.1 * written["detail"]["nfe"]
        written["stages"] = {"detail": {"seconds": cost + 0.01 * number}}
        values = {name: {"value": v + own, "recipe": recipe} for name, v in (metrics or {}).items()}
        if metrics:
            written["metrics"] = values
        path = folder / "videos" / f"{job.id}.mp4"
        path.parent.mkdir(exist_ok=True)
        _write_video(path, config, own)
        write_json(path.with_suffix(".json"), written)
    write_json(folder / "status.json", {job.id: {"state": "done"} for job in jobs})
    if metrics:
        scores = [{"name": name, "higher_is_better": True} for name in metrics]
        write_json(folder / "metrics.json", {"set": scores})
    return config


def make_sweep(folder: Path, seeds: Sequence[int] = (0, 1)) -> Path:
    """A sweep of four schedules, the last of them with many steps and taken for the truth."""
    jobs = {}
    for name, sampler, error in (
        ("shortcut4", SamplerSettings(steps=4, step_sizes="raw"), 0.02),
        ("euler4", SamplerSettings(solver="euler", steps=4), 0.05),
        ("euler8", SamplerSettings(solver="euler", steps=8), 0.03),
        ("unipc50", SamplerSettings(steps=50), 0.0),
    ):
        for seed in seeds:
            job = f"schedule={name},seed={seed}"
            make_run(folder / job, sampler, error, seed=seed, metrics={"clip-score": 20.0})
            jobs[job] = {"status": "done", "overrides": [f"schedule={name}", f"seed={seed}"]}
    (folder / "sweep.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    return folder


def _write_video(path: Path, config: GenerateConfig, error: float) -> None:
    """A bar that is as far to the right as the frame is late, over a grey that tells the error."""
    size = config.resolution
    with VideoWriter(path, size.width, size.height, config.video) as writer:
        for frame in range(size.frames):
            picture = np.full((1, size.height, size.width, 3), 60 + int(2000 * error), np.uint8)
            place = frame * (size.width - 12) // (size.frames - 1)
            picture[:, :, place : place + 12] = (220, 60, 40)
            writer.write(picture)
