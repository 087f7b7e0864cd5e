"""The record of a run beside its folder: W&B (offline unless asked otherwise) or a CSV file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelwizard.schema import to_plain
from pixelwizard.settings import Config

log = logging.getLogger(__name__)

Rows = Sequence[tuple[str, Path]]


def track(config: Config, rows: Rows, sheet: Path) -> None:
    """Record the finished videos (prompt, file), what each stage cost, and the contact sheet.

    A tracker that fails is noted in the log; the videos are there all the same.
    """
    trackers = {"wandb": _wandb, "csv": _csv, "none": _none}
    try:
        trackers[config.tracker.kind](config, rows, sheet)
    except Exception:
        log.exception("the tracker %s failed", config.tracker.kind)


def costs(video: Path) -> dict[str, float]:
    """Seconds and peak GB of every stage, flat (``detail/seconds``), from a video's provenance."""
    written = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
    return {
        f"{stage}/{name}": value
        for stage, cost in written["stages"].items()
        for name, value in cost.items()
    }


def _none(config: Config, rows: Rows, sheet: Path) -> None:
    return


def _csv(config: Config, rows: Rows, sheet: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(config.run_dir, name="csv", version="")
    logger.log_hyperparams(to_plain(config))
    for index, (_, video) in enumerate(rows):
        logger.log_metrics({**costs(video)}, step=index)
    logger.save()


def _wandb(config: Config, rows: Rows, sheet: Path) -> None:
    folder = Path(config.run_dir).resolve()
    inside = {
        "WANDB_SILENT": "true",
        "WANDB_DATA_DIR": str(folder / "wandb" / "data"),
        "WANDB_CACHE_DIR": str(folder / "wandb" / "cache"),
        "WANDB_CONFIG_DIR": str(folder / "wandb" / "config"),
    }
    (folder / "wandb").mkdir(exist_ok=True)
    with _environment(inside):
        import wandb

        run = wandb.init(
            dir=str(folder),
            project=config.tracker.project,
            name=folder.name,
            mode=config.tracker.mode,
            config=to_plain(config),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        for index, (prompt, video) in enumerate(rows):
            clip = wandb.Video(str(video), caption=prompt, format="mp4")
            run.log({f"videos/{video.stem}": clip, **costs(video)}, step=index)
        run.summary["contact_sheet"] = wandb.Image(str(sheet))
        run.summary["videos"] = len(rows)
        run.finish()
        wandb.teardown()  # the service may still be writing the run's file until it has ended


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before: dict[str, Any] = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
