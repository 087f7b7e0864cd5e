"""A comparison in W&B: its table, its plot, its page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixelwizard.config.evaluate import CompareConfig
from pixelwizard.config.schema import to_plain
from pixelwizard.io.terminal import reason
from pixelwizard.records.provenance import git_revision

log = logging.getLogger(__name__)


def log_comparison(
    config: CompareConfig,
    rows: list[dict[str, Any]],
    folder: Path,
    warn: Callable[[str], None],
) -> None:
    """Record the files of ``folder``; ``rows`` are flat rows. Errors never end the comparison.

    The page goes along without its videos; with ``tracker.artifact`` the whole report does.
    """
    if config.tracker.kind == "none":
        return
    try:
        _log(config, rows, folder, warn)
    except Exception as error:
        log.exception("the tracker failed")
        warn(f"tracker=wandb failed ({reason(error)}); everything is in {folder} all the same")


def _log(
    config: CompareConfig,
    rows: list[dict[str, Any]],
    folder: Path,
    warn: Callable[[str], None],
) -> None:
    import wandb

    from pixelwizard.tracking.wandb_session import Session

    values = {**to_plain(config), "git_revision": git_revision()}
    session = Session(folder, config.tracker, warn, config.task, values)
    report = folder / "report"
    with session.environment():
        session.log_table("comparison", [*rows[0]], [list(row.values()) for row in rows])
        page = wandb.Html((report / "index.html").read_text(encoding="utf-8"), inject=False)
        picture = wandb.Image(str(folder / "pareto.png"))
        session.run.log({"pareto": picture, "report": page})
        if config.tracker.artifact:
            artifact = wandb.Artifact(f"report-{session.run.id}", "report")
            artifact.add_dir(str(report))
            session.run.log_artifact(artifact)
    session.end(exit_code=0)
