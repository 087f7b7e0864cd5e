"""A comparison, a table, or an evaluation in W&B: its rows, its plot, its page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelwizard.config.evaluate import CompareConfig, EvaluateConfig, TableConfig
from pixelwizard.config.schema import to_plain
from pixelwizard.io.terminal import reason
from pixelwizard.records.provenance import git_revision
from pixelwizard.tracking import Warn

if TYPE_CHECKING:
    from pixelwizard.tracking.wandb_run import Session

log = logging.getLogger(__name__)


def log_comparison(
    config: CompareConfig, rows: list[dict[str, Any]], folder: Path, warn: Warn
) -> None:
    """Record the files of ``folder``; ``rows`` are flat rows. Errors never end the comparison.

    The page goes along without its videos; with ``tracker.artifact`` the whole report does.
    """

    def record(session: Session) -> None:
        import wandb

        report = folder / "report"
        session.log_table("comparison", [*rows[0]], [list(row.values()) for row in rows])
        page = wandb.Html((report / "index.html").read_text(encoding="utf-8"), inject=False)
        picture = wandb.Image(str(folder / "pareto.png"))
        session.run.log({"pareto": picture, "report": page})
        if config.tracker.artifact:
            artifact = wandb.Artifact(f"report-{session.run.id}", "report")
            artifact.add_dir(str(report))
            session.run.log_artifact(artifact)

    _record(config, folder, warn, record)


def log_table(config: TableConfig, rows: list[dict[str, Any]], folder: Path, warn: Warn) -> None:
    """Record the cells of a table, its page too. Errors never end the table."""

    def record(session: Session) -> None:
        import wandb

        session.log_table("table", [*rows[0]], [list(row.values()) for row in rows])
        page = (folder / "table.html").read_text(encoding="utf-8")
        session.run.log({"page": wandb.Html(page, inject=False)})

    _record(config, folder, warn, record)


def log_scores(config: EvaluateConfig, scores: dict[str, Any], warn: Warn) -> None:
    """Record the scores of an evaluation as a run's are. Errors never end the evaluation."""
    _record(config, Path(config.run_dir), warn, lambda session: session.log_scores(scores))


def _record(
    config: CompareConfig | EvaluateConfig | TableConfig,
    folder: Path,
    warn: Warn,
    record: Callable[[Session], None],
) -> None:
    if config.tracker.kind == "none":
        return
    from pixelwizard.tracking.wandb_run import Session, release

    try:
        values = {**to_plain(config), "git_revision": git_revision()}
        session = Session(folder, config.tracker, warn, config.task, values)
        with session.environment():
            record(session)
        session.end(exit_code=0)
    except Exception as error:
        log.exception("the tracker failed")
        release()
        warn(f"tracker=wandb failed ({reason(error)}); everything is in {folder} all the same")
