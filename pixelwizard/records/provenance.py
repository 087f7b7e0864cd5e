"""What is written beside a video, and into it, so that it can be made again and be believed.

Nothing here imports torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelwizard import __version__
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.diffusion.schedule_table import stage_schedules
from pixelwizard.records.jobs import CODE_FORMAT, Job
from pixelwizard.records.run_folder import config_hash, determining

PACKAGES = ("torch", "lightning", "transformers", "safetensors", "imageio-ffmpeg")


def record(
    config: GenerateConfig, job: Job, digests: Mapping[str, str], device: str
) -> dict[str, Any]:
    """All that determines a video, as plain values; equal for equal runs.

    ``seed`` as the prompt's own makes the same noise again without the other prompts.
    """
    stages = stage_schedules(config.anchor, config.schedule, config.resolution)
    settings = determining(config)
    for name in ("prompt", "prompts"):
        del settings[name]
    return {
        "id": job.id,
        "prompt": job.prompt.text,
        "negative_prompt": job.prompt.negative_prompt,
        "seed": job.prompt.anchor_seed - 100,
        "seeds": {"anchor": job.prompt.anchor_seed, "detail": job.prompt.detail_seed},
        **{stage.stage: stage.to_json() for stage in stages},
        "key": job.video_key,
        "keys": {"text": job.text_key, "anchor": job.anchor_key, "detail": job.detail_key},
        "config_hash": config_hash(config),
        "config": settings,
        "weights": dict(digests),
        "code_format": CODE_FORMAT,
        "versions": versions(),
        "device": device,
    }


def finished(config: GenerateConfig, job: Job) -> bool:
    """Whether the run folder holds this very video, whole, and its anchor's if wanted."""
    videos = Path(config.run_dir) / "videos"
    try:
        written = json.loads((videos / f"{job.id}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    ends = [config.video.suffix]
    ends += [f".anchor{config.video.suffix}"] if config.save_anchor else []
    ends += [""] if config.video.png else []  # the folder of pictures
    return written.get("key") == job.video_key and all(
        (videos / f"{job.id}{end}").exists() for end in ends
    )


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute."""
    found = {"python": platform.python_version(), "pixelwizard": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The commit of the checkout that this package runs from, ``+`` if changed; None without."""
    git = ("git", "-C", str(Path(__file__).parents[1]))
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True)
    except OSError:
        return None
    return commit.stdout.strip() + "+" * (changed.returncode == 1) if commit.stdout else None
