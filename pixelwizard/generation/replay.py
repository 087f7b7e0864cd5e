"""From a finished video back to the run that made it. Nothing here imports torch.

A video file may come from anywhere, so its metadata is only data: it passes the checks of every
configuration, and it cannot choose where results are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, Optional

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.own_source import source_digest
from pixelwizard.config.schema import ConfigError, build
from pixelwizard.config.targets import check_doors, search_in, targets
from pixelwizard.config.tasks import from_plain, parse_json
from pixelwizard.io.files import file_digest
from pixelwizard.io.terminal import reason
from pixelwizard.io.video import VideoError
from pixelwizard.models.checkpoints import PARTS, require_weights, weights_digest
from pixelwizard.records.provenance import CODE_FORMAT, versions
from pixelwizard.records.run_folder import determining, short_hash

LONGEST = 10_000_000
"""Characters of a record; a longer text is none."""


@dataclass(frozen=True)
class Record:
    """What of a video's provenance makes it again."""

    prompt: str
    negative_prompt: str
    seed: int
    config: Dict[str, Any]
    weights: Dict[str, str]
    code_format: int
    versions: Dict[str, str]
    key: Optional[str] = None
    source: Optional[Dict[str, Any]] = None
    targets: Dict[str, Dict[str, str]] = field(default_factory=dict)


def provenance_of(video: Path) -> Record:
    """The record in a video's metadata, else its ``.json``. Raises ConfigError without one."""
    if not video.is_file():
        what = "is a folder" if video.is_dir() else "does not exist"
        raise ConfigError(f"{video} {what}; name a video that pixelwizard made")
    from pixelwizard.io.reading import comment_of  # PyAV and numpy: only where a video is opened

    try:
        text = comment_of(video)
    except VideoError as error:
        raise ConfigError(str(error)) from None
    beside = video.with_suffix(".json")
    if not text and beside.is_file():
        text = beside.read_text(encoding="utf-8", errors="replace")
    try:
        found = parse_json(text[:LONGEST], "its record")
        known = [field.name for field in fields(Record)]
        return build(Record, {name: found[name] for name in known if name in found})
    except (ConfigError, TypeError) as error:
        why = error if isinstance(error, ConfigError) else "its record is none"
        raise ConfigError(
            f"{video} does not say how it was made ({why}); only videos of pixelwizard can be"
            " replayed"
        ) from None


def repetition(
    video: Path, out: str | None, trust: bool = False, source: str | None = None
) -> GenerateConfig:
    """The configuration that regenerates the video in ``out`` (None: a new folder).

    ``source`` is where the file that it was made of is now (None: where it was). Raises ConfigError
    for other weights or another code format, for a video that names a user's class, unless
    ``trust``, and where the source is missing or another.
    """
    record = provenance_of(video)
    if record.code_format != CODE_FORMAT:
        raise ConfigError(
            f"{video} was made by a version of pixelwizard that computes differently; replay it"
            f" with that one: {record.versions.get('pixelwizard')}"
        )
    outputs = Path.cwd() / "outputs"
    folder = out or str(outputs / f"replay-{short_hash([record.prompt, record.key])}")
    own = {"task": "generate", "run_dir": folder, "store": {"dir": str(outputs / "store")}}
    own |= {"metrics": {"enabled": False}, "tracker": {}}
    settings = determining(from_plain({**record.config, **own}))
    settings |= {"prompt": [record.prompt], "prompts": None, "seed": record.seed}
    settings |= {"from_video": [], "from_image": [], "videos": None}
    settings |= _source_of(video, record, source)
    config: GenerateConfig = from_plain(
        {**settings, **own, "negative_prompt": record.negative_prompt}
    )
    foreign = targets(config)
    for key, target in foreign.items() if not trust else ():
        raise ConfigError(
            f"{video} names {key}={target.path}, and replay runs no code that a video names; if you"
            " know that class, add trust=true"
        )
    _require_same_weights(config, record.weights)
    if not foreign:
        return config
    search = [str(Path.cwd())]
    search_in(search)
    check_doors(config)
    return replace(config, search=search)


def _source_of(video: Path, record: Record, given: str | None) -> dict[str, Any]:
    """The settings that name the file that a video was made of, if it was made of one."""
    if record.source is None:
        if given is not None:
            raise ConfigError(f"{video} was made of a text alone; leave given={given} out")
        return {}
    path, digest = (str(record.source.get(name)) for name in ("path", "sha256"))
    path = given or path
    try:
        found = file_digest(Path(path))
    except OSError as error:
        found = reason(error)
    if found != digest:
        raise ConfigError(
            f"{video} was made of {Path(path).name} with the sha256 {digest[:12]}..., and {path} is"
            f" not it ({found[:40]}); name that file with given=FILE"
        )
    text = {"prompt": [record.prompt] if record.prompt else []}
    return {**text, f"from_{record.source.get('kind')}": [path]}


def changed_versions(video: Path, config: GenerateConfig) -> list[str]:
    """What has another version than when the video was made, as ``name then -> now``.

    ``config`` is its repetition; the version of a user's class is the sha256 of its source.
    """
    record, now = provenance_of(video), versions()
    then = dict(record.versions)
    for key, target in targets(config).items():
        then[target.path] = record.targets.get(key, {}).get("sha256", "unknown")[:8]
        now[target.path] = source_digest(target.path)[:8]
    return [
        f"{name} {old} -> {now.get(name)}" for name, old in then.items() if old != now.get(name)
    ]


def _require_same_weights(config: GenerateConfig, digests: dict[str, str]) -> None:
    require_weights(config.backbone)
    differ = [p for p in PARTS if weights_digest(config.backbone, p) != digests.get(p)]
    if differ:
        raise ConfigError(
            f"the weights of {', '.join(differ)} are not those that made the video; bring back the"
            f" old files of backbone={config.backbone.name}"
        )
