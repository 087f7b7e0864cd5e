"""The scores in a run folder. No torch here: a scored run is recognised at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pixelwizard.config import targets
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import SCORED_FRAMES, MetricsSettings
from pixelwizard.data.table import find_videos
from pixelwizard.evaluation.files import result_files
from pixelwizard.evaluation.names import (
    FeatureNetwork,
    missing_files,
    network_folder,
    network_label,
    resolve_auto,
    wanted,
)
from pixelwizard.io.files import file_digest, read_json, write_json
from pixelwizard.records.run_folder import short_hash

SCORE_FORMAT = 3
"""To be raised when a score computes something else: older values are then computed again."""
JSON = "metrics.json"


def wants_scores(config: GenerateConfig) -> bool:
    """Whether the videos of a run are scored at all."""
    return config.metrics.enabled and config.resolution.frames >= SCORED_FRAMES


def settings_of(config: GenerateConfig) -> MetricsSettings:
    """The metrics of a run, ``auto`` decided."""
    return resolve_auto(config.metrics, config.backbone.name)


def reference_of(config: GenerateConfig) -> list[Path]:
    """The real videos that a run's are compared with."""
    return [] if config.reference is None else find_videos(Path(config.reference), "reference")


def identity(config: GenerateConfig, videos: Mapping[str, Path]) -> str:
    """Eight digits of all that determines the scores of a run."""
    return identity_of(settings_of(config), videos, reference_of(config))


def identity_of(
    settings: MetricsSettings, videos: Mapping[str, Path], reference: Sequence[Path]
) -> str:
    """Eight digits of all that determines scores: files, networks, the reference.

    ``auto`` is decided in ``settings``.
    """
    labels = [_label(network, settings) for network in wanted(settings, bool(reference))]
    determining = [
        SCORE_FORMAT,
        {id: file_digest(path) for id, path in videos.items()},
        labels,
        settings.lpips,
        find_spec("cv2") is not None,
        {path.name: file_digest(path) for path in reference},
        sorted(file_digest(path) for path in result_files([*videos.values()])),
    ]
    return short_hash(determining + [targets.identity(settings.extra)] * bool(settings.extra))


def _label(network: FeatureNetwork, settings: MetricsSettings) -> str:
    """How recipes call a network; empty where it is missing, which has no scores."""
    if missing_files(network, settings):
        return ""
    return network_label(network, network_folder(network, settings))


def kept_scores(config: GenerateConfig, videos: Mapping[str, Path]) -> dict[str, Any] | None:
    """The content of ``metrics.json`` if it is of these very videos and in each record too."""
    try:
        kept: dict[str, Any] = read_json(Path(config.run_dir) / JSON)
        beside = all("metrics" in read_json(path.with_suffix(".json")) for path in videos.values())
        return kept if beside and kept["of"] == identity(config, videos) else None
    except (OSError, ValueError, KeyError):
        return None


def keep_scores(config: GenerateConfig, videos: Mapping[str, Path], scores: dict[str, Any]) -> None:
    """Write every video's values into its ``ID.json``, then all of them into ``metrics.json``."""
    for id, path in videos.items():
        values, recipes = scores["per_video"].get(id, {}), scores["recipes"]
        record = read_json(path.with_suffix(".json"))
        record["metrics"] = {
            name: {"value": value, "recipe": recipes[name]} for name, value in values.items()
        }
        write_json(path.with_suffix(".json"), record)
    write_json(Path(config.run_dir) / JSON, {**scores, "of": identity(config, videos)})
