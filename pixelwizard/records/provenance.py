"""A prompt as a job: the keys of its results, and the record from which its video can be remade.

A key is the sha256 of everything that determines a result; it includes the keys of its inputs.
Nothing here imports torch, so a finished run is recognised at once.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from pixelwizard import __version__
from pixelwizard.config.generate import GenerateConfig, SamplerSettings
from pixelwizard.config.geometry import Geometry, ResolutionSettings
from pixelwizard.config.own_source import source_digest
from pixelwizard.config.schema import ConfigError, identity
from pixelwizard.config.targets import targets
from pixelwizard.data.prompts import Prompt
from pixelwizard.diffusion.schedules import grid_version, stage_schedules
from pixelwizard.io.files import content_digest, file_digest, read_json, text_digest
from pixelwizard.models.checkpoints import lora_files
from pixelwizard.records.run_folder import config_hash, determining

CODE_FORMAT = 1
"""Raise it when a stage's computation changes: older results are then not reused."""
Recipes = Mapping[str, Mapping[str, Any]]
"""What determines the results of every stage, apart from the prompt."""


@dataclass(frozen=True)
class Job:
    """One prompt, the sizes of its video and the keys of its results.

    With a source, the latents ``encoded`` of it, by name and size, are one result under
    ``encode_key``. Of a clip to be refined one of them is the ``anchor``, and ``anchor_key`` is "".
    """

    prompt: Prompt
    size: ResolutionSettings
    text_key: str
    negative_key: str
    anchor_key: str
    detail_key: str
    video_key: str
    encode_key: str = ""
    encoded: Mapping[str, Geometry] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The prompt's id, the name of its files."""
        return self.prompt.id

    @property
    def frames(self) -> int:
        """Frames of the finished video: those of its clip, or all that are made."""
        clip = self.prompt.clip
        return clip.frames if clip else self.size.frames

    @property
    def results(self) -> tuple[tuple[str, str], ...]:
        """The kinds and keys of its results in the store."""
        found = ("text", self.text_key), ("encode", self.encode_key), ("anchor", self.anchor_key)
        return tuple((kind, key) for kind, key in (*found, ("detail", self.detail_key)) if key)

    @property
    def anchor(self) -> tuple[str, str, str]:
        """Where the store has the anchor's latent: the kind, the key and the name of the tensor."""
        if self.anchor_key:
            return "anchor", self.anchor_key, "latent"
        return "encode", self.encode_key, "anchor"


def make_jobs(
    config: GenerateConfig, prompts: Sequence[Prompt], digests: Mapping[str, str]
) -> list[Job]:
    """The jobs of a run; ``digests`` are those of the weights, by part of the backbone."""
    recipes = _recipes(config, digests)
    make = {"text": _job, "video": _refining, "image": _beginning}
    return [make[p.source.kind if p.source else "text"](config, p, recipes) for p in prompts]


def _recipes(config: GenerateConfig, digests: Mapping[str, str]) -> Recipes:
    size, low, backbone = config.resolution, config.resolution.anchor_geometry, config.backbone
    passes: dict[str, Any] = {"residual": config.memory.residual}
    if config.attention != "exact":  # older keys know of no other
        passes["attention"] = identity(config.attention)
    if backbone.quantize is not None:
        passes["quantize"] = backbone.quantize
    recipes: dict[str, dict[str, Any]] = {
        "text": {
            "sizes": [identity(backbone.text), backbone.dit.text_len],
            "weights": digests["text_encoder"],
        },
        "anchor": {
            "sampler": _sampler(config.anchor, size.anchor_shift),
            "video": [low.width, low.height, size.frames, size.anchor_shift],
            "sizes": identity(backbone.dit),
            "weights": digests["anchor"],
            **passes,
        },
        "detail": {
            "sampler": _sampler(config.schedule, size.shift),
            "video": [size.width, size.height, size.frames, size.shift],
            "sizes": identity(backbone.detail_dit),
            "weights": digests["detail"],
            **passes,
        },
        "encode": {
            "dtype": config.decode.dtype or backbone.dtype,
            "sizes": identity(backbone.vae),
            "weights": digests["vae"],
        },
        "decode": {
            "video": identity(config.video),
            "decode": identity(config.decode),
            "sizes": identity(backbone.vae),
            "weights": digests["vae"],
        },
    }
    if backbone.quantize_text is not None:
        recipes["text"]["quantize"] = backbone.quantize_text
    if backbone.detail_network is not None:
        recipes["detail"]["network"] = identity(backbone.detail_network)
    return {
        stage: {"stage": stage, "dtype": backbone.dtype, **recipe}
        for stage, recipe in recipes.items()
    }


def _job(config: GenerateConfig, prompt: Prompt, recipes: Recipes) -> Job:
    text, negative = texts = _text_keys(prompt, recipes)
    anchor = key(texts=texts, seed=prompt.anchor_seed, **recipes["anchor"])
    detail = key(texts=texts, anchor=anchor, seed=prompt.detail_seed, **recipes["detail"])
    video = key(detail=detail, **recipes["decode"])
    return Job(prompt, config.resolution, text, negative, anchor, detail, video)


def _beginning(config: GenerateConfig, prompt: Prompt, recipes: Recipes) -> Job:
    """The job of a picture: what its file holds is in the keys, not where it lies."""
    source = prompt.source
    assert source is not None
    text, negative = texts = _text_keys(prompt, recipes)
    size = source.sizes(config.resolution)
    low, shape = size.anchor_geometry, [size.width, size.height]
    encoded = {"anchor": replace(low, frames=1)}
    if config.image.detail:
        encoded["detail"] = replace(size.geometry, frames=1)

    def picture(*names: str) -> str:
        sizes = {name: astuple(encoded[name]) for name in names}
        return key(source=source.sha256, latents=sizes, shape=shape, **recipes["encode"])

    video = [low.width, low.height, size.frames, size.anchor_shift]
    recipe = {**recipes["anchor"], "video": video, "first_frame": picture("anchor")}
    anchor = key(texts=texts, seed=prompt.anchor_seed, **recipe)
    recipe = {**recipes["detail"], "video": [*shape, size.frames, size.shift]}
    if config.image.detail:
        recipe["first_frame"] = picture("detail")
    detail = key(texts=texts, anchor=anchor, seed=prompt.detail_seed, **recipe)
    made = key(detail=detail, **recipes["decode"])
    return Job(prompt, size, text, negative, anchor, detail, made, picture(*encoded), encoded)


def _refining(config: GenerateConfig, prompt: Prompt, recipes: Recipes) -> Job:
    """The job of a clip: what its file holds is in the keys, not where it lies."""
    from pixelwizard.io.reading import PIXELS  # PyAV and numpy: only where a clip is read

    source, rule = prompt.source, config.refine
    assert source is not None
    text, negative = texts = _text_keys(prompt, recipes)
    size = source.sizes(config.resolution)
    encoded = {"anchor": size.anchor_geometry}
    if rule.sigma is not None:
        encoded["start"] = size.geometry
    video = [size.width, size.height, size.frames, size.shift]
    sizes = {name: astuple(geometry) for name, geometry in encoded.items()}
    read = {"source": source.sha256, "pixels": PIXELS, "shape": video[:2]}
    window = min(config.resolution.frames, size.frames)
    if size.frames > window:
        read["parts"] = window  # older keys know only clips that were encoded whole
    clip = key(latents=sizes, **read, **recipes["encode"])
    how: dict[str, Any] = {"window": window}
    if rule.sigma is not None:
        how["start"] = rule.sigma
    if rule.anchor_noise:
        how["anchor_noise"] = [rule.anchor_noise, prompt.anchor_seed]
    recipe = {**recipes["detail"], "video": video, "refine": how}
    detail = key(texts=texts, anchor=clip, seed=prompt.detail_seed, **recipe)
    agree = {"agree": rule.agree} if rule.agree != "none" else {}
    made = key(detail=detail, source=source.sha256, **agree, **recipes["decode"])
    return Job(prompt, size, text, negative, "", detail, made, clip, encoded)


def _text_keys(prompt: Prompt, recipes: Recipes) -> list[str]:
    texts = (prompt.text, prompt.negative_prompt)
    return [key(text=text, **recipes["text"]) for text in texts]


def _sampler(settings: SamplerSettings, shift: float) -> dict[str, Any]:
    """What determines a schedule; grids that were once computed differently carry a version."""
    version = grid_version(settings, shift)
    return {**identity(settings), **({"grid": version} if version > 1 else {})}


def key(**recipe: Any) -> str:
    """The sha256 of plain values; the order of their names does not matter."""
    return text_digest(json.dumps({"format": CODE_FORMAT, **recipe}, sort_keys=True))


PACKAGES = ("torch", "lightning", "transformers", "safetensors", "imageio-ffmpeg")


class Provenance:
    """All that determines the videos of a run, as plain values; equal for equal runs."""

    def __init__(self, config: GenerateConfig, digests: Mapping[str, str], device: str) -> None:
        stages = stage_schedules(config.anchor, config.schedule, config.resolution)
        refining = stage_schedules(None, config.schedule, config.resolution, config.refine.sigma)
        settings = determining(config)
        for name in ("prompt", "prompts", "from_video", "from_image", "videos"):
            del settings[name]
        own = {
            k: {"class": t.path, "sha256": source_digest(t.path)}
            for k, t in targets(config).items()
        }
        self._stages = {stage.stage: stage.to_json() for stage in stages}
        self._refining = {stage.stage: stage.to_json() for stage in refining}
        self._run = {
            "config_hash": config_hash(config),
            "config": settings,
            "weights": dict(digests),
            "code_format": CODE_FORMAT,
            "versions": versions(),
            "device": device,
            **({"targets": own} if own else {}),
            **({"lora": loras(config)} if config.backbone.lora else {}),
        }

    def of(self, job: Job) -> dict[str, Any]:
        """The record of one video; its ``seed``, given as a prompt's own, makes the same noise."""
        prompt, keys = job.prompt, dict(job.results)
        source = {"source": prompt.source.to_json()} if prompt.source else {}
        return {
            "id": job.id,
            "prompt": prompt.text,
            "negative_prompt": prompt.negative_prompt,
            **source,
            "seed": prompt.anchor_seed - 100,
            "seeds": {"anchor": prompt.anchor_seed, "detail": prompt.detail_seed},
            **(self._stages if job.anchor_key else self._refining),
            "key": job.video_key,
            "keys": keys,
            **self._run,
        }


def loras(config: GenerateConfig) -> list[dict[str, Any]]:
    """The LoRAs that are added to the networks: file, sha256, scale and stage of each."""
    found = ((lora, lora_files(lora)[0]) for lora in config.backbone.lora)
    return [
        {"file": file.name, "sha256": file_digest(file), "scale": lora.scale, "stage": lora.stage}
        for lora, file in found
    ]


def output_names(config: GenerateConfig, id: str) -> list[str]:
    """The files, and with ``video.png`` the folder of frames, that a prompt writes in ``videos``.

    The record ``ID.json`` is not among them.
    """
    names = [f"{id}{config.video.suffix}"]
    names += [f"{id}.anchor{config.video.suffix}"] if config.save_anchor else []
    return names + [id] * config.video.png


def check_names(config: GenerateConfig, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts whose files would have the same name, ignoring case."""
    taken: dict[str, str] = {}
    for prompt in prompts:
        for name in (*output_names(config, prompt.id), f"{prompt.id}.json"):
            other = taken.setdefault(name.lower(), prompt.id)
            if other != prompt.id:
                raise ConfigError(
                    f"the prompts with id={other} and id={prompt.id} would both write"
                    f" videos/{name}; give one of them another id"
                )


def written_files(config: GenerateConfig, id: str) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of every file of a prompt in ``videos``."""
    videos = Path(config.run_dir) / "videos"
    return {name: content_digest(videos / name) for name in output_names(config, id)}


def finished(config: GenerateConfig, job: Job) -> dict[str, Any] | None:
    """The record of a job whose video is in the run folder, unchanged since it was written.

    Records from before hashes existed are trusted if the files exist.
    """
    videos = Path(config.run_dir) / "videos"
    try:
        record = read_json(videos / f"{job.id}.json")
        noted = record.get("files", {})
        if record.get("key") != job.video_key:
            return None
        for name in output_names(config, job.id):
            if not (videos / name).exists():
                return None
            if noted and noted.get(name) != content_digest(videos / name):
                return None
    except (OSError, ConfigError, AttributeError):
        return None
    return record


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute."""
    from importlib import metadata  # slow to import

    found = {"python": platform.python_version(), "pixelwizard": __version__}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
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
