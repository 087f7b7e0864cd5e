"""A comparison in W&B: its table, its picture, its page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixelwizard.config.compare import CompareConfig
from pixelwizard.config.schema import to_plain
from pixelwizard.records.provenance import git_revision

log = logging.getLogger(__name__)


def log_comparison(
    config: CompareConfig,
    arms: list[dict[str, Any]],
    folder: Path,
    warn: Callable[[str], None],
) -> None:
    """Record what lies in ``folder``; ``arms`` are flat rows. Nothing that goes wrong gets out.

    The page goes along without its videos; with ``tracker.artifact`` the whole report does.
    """
    if config.tracker.kind == "none":
        return
    try:
        _log(config, arms, folder, warn)
    except Exception as error:
        log.exception("the tracker failed")
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        warn(f"tracker=wandb failed ({reason}); everything is in {folder} all the same")


def _log(
    config: CompareConfig,
    arms: list[dict[str, Any]],
    folder: Path,
    warn: Callable[[str], None],
) -> None:
    import wandb

    from pixelwizard.tracking.wandb_session import Session

    values = {**to_plain(config), "git_revision": git_revision()}
    session = Session(folder, config.tracker, warn, config.task, values)
    columns: list[str | int] = [*arms[0]]
    table = wandb.Table(columns=columns, data=[list(arm.values()) for arm in arms])
    report = folder / "report"
    with session.environment():
        page = wandb.Html((report / "index.html").read_text(encoding="utf-8"), inject=False)
        picture = wandb.Image(str(folder / "pareto.png"))
        session.run.log({"comparison": table, "pareto": picture, "report": page})
        if config.tracker.artifact:
            artifact = wandb.Artifact(f"report-{session.run.id}", "report")
            artifact.add_dir(str(report))
            session.run.log_artifact(artifact)
    session.end(exit_code=0)
