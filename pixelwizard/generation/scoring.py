"""The scores of a run, by the code of evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.evaluation.files import (
    find_captions,
    inspect,
    keep_scores,
    kept_scores,
    reference_of,
    settings_of,
)
from pixelwizard.io.process import importing
from pixelwizard.io.terminal import Display
from pixelwizard.io.video import VideoError
from pixelwizard.records.run_folder import SCORES
from pixelwizard.tracking import Tracker


def check_reference(config: GenerateConfig) -> None:
    """Raises ValueError if the reference of a run has no video that can be used."""
    why = ""
    for path in reference_of(config):
        try:
            inspect(path, 1)
            return
        except VideoError as error:
            why = why or f"{path.name}: {error}"
    if why:
        raise ValueError(f"reference={config.reference}: no video there can be used; {why}")


def score_run(
    config: GenerateConfig, videos: Mapping[str, Path], tracker: Tracker | None, display: Display
) -> None:
    """Score the videos, by prompt id, unless that was done; tell a tracker in any case.

    One process does this when all videos are finished, if ``config.scored``. The values go into
    ``metrics.json`` and each ``videos/ID.json``. Raises ValueError where nothing can be scored.
    """
    scores = kept_scores(config, videos)
    if scores is None:
        with importing():  # its networks' libraries
            from pixelwizard.evaluation.evaluate import Evaluation

        display.enter("metrics", len(videos))
        paths = list(videos.values())
        captions, _ = find_captions(paths, None)
        given = (settings_of(config), reference_of(config), display)
        scores = Evaluation(paths, captions, *given).run().to_json()
        keep_scores(config, videos, scores)
    for name, why in scores.get("failed", {}).items():
        display.say(f"no score {name}: {why}")
    if tracker:
        tracker.scores(scores)
    values = ", ".join(f"{score['name']} {score['value']:.4g}" for score in scores["set"])
    display.say(f"scores {Path(config.run_dir) / SCORES}: {values}")
