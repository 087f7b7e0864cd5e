"""Weights & Biases, offline in the run folder, or online if a key is configured.

A run, and in runs of their own a comparison, a table or an evaluation.
"""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger

from pixelwizard.config.evaluate import CompareConfig, EvaluateConfig, TableConfig
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import TrackerSettings
from pixelwizard.config.schema import to_plain
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import write_text
from pixelwizard.io.reading import probe
from pixelwizard.io.terminal import reason
from pixelwizard.io.video import write_preview
from pixelwizard.records.provenance import git_revision
from pixelwizard.records.run_folder import LEDGER, OVERRIDES, short_hash
from pixelwizard.tracking import Tracker, Warn, figures, score_figures, score_recipes

log = logging.getLogger(__name__)

SERVER = "https://api.wandb.ai"
PROJECT = "pixelwizard"
START_SECONDS, FINISH_SECONDS = 30.0, 300.0
"""How long a server may take to answer at the start, and to receive the rest at the end."""
SCORE_COLUMNS = ["name", "value", "low", "high", "recipe", "videos", "higher_is_better"]
STEP = "trainer/global_step"
"""What Lightning calls the number of a step in W&B."""
Mode = Literal["online", "offline"]
PREVIEW_HEIGHT = 720
"""Videos are shown at most this high, in h264; the files themselves go along as an option."""
COLUMNS = ("id", "prompt", "negative_prompt", "seed")


def release() -> None:
    """End W&B's service; one that has ended already would be a trace at the end of the program."""
    with contextlib.suppress(ConnectionError):
        wandb.teardown()


class Session(WandbLogger):
    """One W&B run per folder, as Lightning's logger; a continued one has the same id, a sweep is a
    group.

    Everything goes through a file in the folder first, so a lost connection loses nothing.
    """

    def __init__(
        self,
        folder: Path,
        tracker: TrackerSettings,
        warn: Warn,
        job_type: str,
        config: Mapping[str, Any],
    ) -> None:
        self.folder, self.tracker, self.warn = folder.resolve(), tracker, warn
        (self.folder / "wandb").mkdir(parents=True, exist_ok=True)
        self.arguments = self._arguments(job_type, dict(config))
        super().__init__(save_dir=str(self.folder), project=self.arguments["project"])
        with self.environment():
            self.run = self._start()

    @property
    def experiment(self) -> Any:
        """The run, a different one after ``go_offline``."""
        return self.run

    def _arguments(self, job_type: str, config: dict[str, Any]) -> dict[str, Any]:
        """How W&B names the run: by settings, else W&B's variables, else our defaults."""
        tracker, environment = self.tracker, os.environ
        places = (self.folder, self.folder.parent)
        sweeps = [place.name for place in places if (place / LEDGER).is_file()]
        group = tracker.group or environment.get("WANDB_RUN_GROUP")
        return {
            "dir": str(self.folder),
            "id": environment.get("WANDB_RUN_ID") or self._id(),  # an agent of a sweep sets it
            "project": tracker.project or environment.get("WANDB_PROJECT", PROJECT),
            "name": tracker.name or environment.get("WANDB_NAME", self.folder.name),
            "group": group or next(iter(sweeps), None),
            "tags": tracker.tags or None,  # None: W&B reads WANDB_TAGS itself
            "notes": tracker.notes,
            "job_type": job_type,
            "config": config,
            "allow_val_change": True,  # a continued run may be scored or tracked otherwise
            "settings": wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                init_timeout=START_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        }

    def _start(self) -> Any:
        """The run, offline if a server does not answer."""
        if wanted_mode(self.tracker.mode) == "online":
            try:
                return self._init("online")
            except wandb.errors.Error as error:
                log.warning("W&B online failed", exc_info=error)
                release()
                self.warn(
                    "W&B cannot be reached or refuses the key; the run is recorded offline, later:"
                    f" wandb sync --append {self.folder / 'wandb'}/offline-run-*"
                )
        return self._init("offline")

    def _init(self, mode: Mode) -> Any:
        run = wandb.init(**self.arguments, mode=mode, resume="allow" if mode == "online" else None)
        run.define_metric(STEP)
        return run

    def _id(self) -> str:
        """The id that this folder had before, else a new one."""
        path = self.folder / "wandb" / "id"
        if not path.is_file():
            write_text(path, short_hash([str(self.folder), os.urandom(8).hex()]))
        return path.read_text(encoding="utf-8")

    def log_scores(self, scores: dict[str, Any]) -> None:
        """The content of ``metrics.json``: figures under their recipes, and a table of them."""
        table = [[score[name] for name in SCORE_COLUMNS] for score in scores["set"]]
        self.run.config.update({"recipes": score_recipes(scores)})
        self.log_table("metrics", SCORE_COLUMNS, table)
        self.log_metrics(score_figures(scores))

    def go_offline(self) -> bool:
        """Leave a server that no longer answers; everything recorded stays in the folder.

        False where the run was offline already.
        """
        if self.run.offline:
            return False
        self.warn(
            "W&B no longer answers; the run is recorded offline from here on, later:"
            f" wandb sync --append {self.folder / 'wandb'}/*run-*"
        )
        self.warn = log.warning
        self.end(exit_code=1)
        with self.environment():
            self.run = self._init("offline")
        return True

    def end(self, exit_code: int) -> None:
        """Send the rest, and release W&B's service."""
        with self.environment():
            try:
                self.run.finish(exit_code=exit_code)
            except TimeoutError:
                self.warn(
                    "W&B did not take everything in time; nothing is lost, later:"
                    f" wandb sync {self.run.settings.sync_dir}"
                )
            release()  # the service may still be writing the run's file until then

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """W&B's own folders inside this one: it reads their places from the environment."""
        own = self.folder / "wandb"
        values = {
            "WANDB_SILENT": "true",
            "WANDB_DATA_DIR": str(own / "data"),
            "WANDB_CACHE_DIR": str(own / "cache"),
            "WANDB_CONFIG_DIR": str(own / "config"),
        }
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


class WandbRun(Tracker):
    """Sends a run to W&B: videos, figures, tables, and at the end the sheet."""

    def __init__(self, config: GenerateConfig | TrainConfig, warn: Warn) -> None:
        self.config = config
        self.folder = Path(config.run_dir).resolve()
        self.rows: list[dict[str, Any]] = []
        self.files: list[Path] = []
        overrides = self.folder / OVERRIDES
        command = overrides.read_text(encoding="utf-8").strip() if overrides.is_file() else ""
        facts = {"command": command, "git_revision": git_revision()}
        job = config.task if isinstance(config, GenerateConfig) else f"{config.task}-{config.part}"
        self.session = Session(self.folder, config.tracker, warn, job, to_plain(config) | facts)
        self.loggers = [self.session]
        if isinstance(config, TrainConfig):
            self.session.run.define_metric("*", step_metric=STEP, step_sync=True)

    def stage(self, id: str, name: str, cost: dict[str, float]) -> None:
        self.session.run.log({f"progress/{name}/{key}": value for key, value in cost.items()})

    def video(self, path: Path, record: dict[str, Any]) -> None:
        clip = self._clip(path, record["prompt"])
        run = self.session.run
        run.log({f"videos/{path.stem}": clip, **figures(record)})
        run.config.update({"weights": record["weights"], "versions": record["versions"]})
        self.earlier(path, record)

    def _clip(self, path: Path, caption: str) -> Any:
        """A video as W&B shows it: in h264 and not too high."""
        shown, config = path, self.config
        codec = config.video.codec if isinstance(config, GenerateConfig) else "h264"
        if codec != "h264" or probe(path).height > PREVIEW_HEIGHT:
            shown = self.folder / "wandb" / "previews" / f"{path.stem}.mp4"
            shown.parent.mkdir(exist_ok=True)
            write_preview(path, shown, PREVIEW_HEIGHT)
        return wandb.Video(str(shown), caption=caption, format="mp4")

    def earlier(self, path: Path, record: dict[str, Any]) -> None:
        self.rows.append({name: record[name] for name in COLUMNS} | figures(record))
        self.files.append(path)

    def scores(self, scores: dict[str, Any]) -> None:
        for row in self.rows:
            values = scores["per_video"].get(row["id"], {})
            row |= {f"metrics/{name}": value for name, value in values.items()}
        self.session.log_scores(scores)

    def sample(self, path: Path, caption: str, step: int) -> None:
        self.session.log_metrics({f"samples/{path.stem}": self._clip(path, caption)}, step)

    def recover(self) -> bool:
        """The same run offline, if it is online."""
        return self.session.go_offline()

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        run = self.session.run
        with self.session.environment():
            if self.rows:
                columns = [*dict.fromkeys(key for row in self.rows for key in row)]
                table = [[row.get(name) for name in columns] for row in self.rows]
                self.session.log_table("table", columns, table)
            if sheet is not None:
                run.summary["contact_sheet"] = wandb.Image(str(sheet))
            if self.config.tracker.artifact and self.files:
                artifact = wandb.Artifact(f"videos-{run.id}", "videos")
                for path in self.files:
                    artifact.add_file(str(path))
                run.log_artifact(artifact)
        self.session.end(exit_code=0 if done or sheet is not None else 1)


def wanted_mode(setting: str, environment: Mapping[str, str] = os.environ) -> Mode:
    """``online`` or ``offline``; ``auto``: what WANDB_MODE says, else online if there is a key."""
    if setting == "auto":
        online = has_key(environment)
        setting = environment.get("WANDB_MODE", "online" if online else "offline")
    return "online" if setting == "online" else "offline"


def has_key(environment: Mapping[str, str]) -> bool:
    """Whether WANDB_API_KEY is set or ``wandb login`` has left a key for the server."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", SERVER)).hostname or ""
    try:
        return netrc.netrc(environment.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_comparison(config: CompareConfig, rows: list[dict[str, Any]], folder: Path) -> None:
    """Record the files of ``folder``; ``rows`` are flat rows. Errors never end the comparison.

    The page goes along without its videos; with ``tracker.artifact`` the whole report does.
    """

    def record(session: Session) -> None:
        report = folder / "report"
        session.log_table("comparison", [*rows[0]], [list(row.values()) for row in rows])
        page = wandb.Html((report / "index.html").read_text(encoding="utf-8"), inject=False)
        picture = wandb.Image(str(folder / "pareto.png"))
        session.run.log({"pareto": picture, "report": page})
        if config.tracker.artifact:
            artifact = wandb.Artifact(f"report-{session.run.id}", "report")
            artifact.add_dir(str(report))
            session.run.log_artifact(artifact)

    _record(config, folder, record)


def log_table(config: TableConfig, rows: list[dict[str, Any]], folder: Path) -> None:
    """Record the cells of a table, its page too. Errors never end the table."""

    def record(session: Session) -> None:
        session.log_table("table", [*rows[0]], [list(row.values()) for row in rows])
        page = (folder / "table.html").read_text(encoding="utf-8")
        session.run.log({"page": wandb.Html(page, inject=False)})

    _record(config, folder, record)


def log_scores(config: EvaluateConfig, scores: dict[str, Any]) -> None:
    """Record the scores of an evaluation as a run's are. Errors never end the evaluation."""
    _record(config, Path(config.run_dir), lambda session: session.log_scores(scores))


def _record(
    config: CompareConfig | EvaluateConfig | TableConfig,
    folder: Path,
    record: Callable[[Session], None],
) -> None:
    warn = partial(print, file=sys.stderr)
    try:
        values = {**to_plain(config), "git_revision": git_revision()}
        session = Session(folder, config.tracker, warn, config.task, values)
        with session.environment():
            record(session)
        session.end(exit_code=0)
    except Exception as error:
        log.exception("the tracker failed")
        release()
        warn(f"tracker=wandb failed ({reason(error)}); everything is in {folder}")
