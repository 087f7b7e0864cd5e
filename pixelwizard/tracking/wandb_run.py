"""A run in Weights & Biases: offline in the run folder, online where a key is configured."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from pixelwizard.provenance import git_revision
from pixelwizard.run_folder import LEDGER, OVERRIDES, short_hash, write_text
from pixelwizard.schema import to_plain
from pixelwizard.settings import Config
from pixelwizard.tracking.base import Tracker, figures, score_figures, score_recipes
from pixelwizard.train_settings import TrainConfig
from pixelwizard.video import probe, write_preview

log = logging.getLogger(__name__)

SERVER = "https://api.wandb.ai"
PREVIEW_HEIGHT = 720
"""Videos are shown at most this high, in h264; the files themselves go along as an option."""
START_SECONDS, FINISH_SECONDS = 30.0, 300.0
"""How long a server may take to answer at the start, and to take what is left at the end."""
Mode = Literal["online", "offline"]
SCORE_COLUMNS = ("name", "value", "low", "high", "recipe", "videos", "higher_is_better")
COLUMNS = ("id", "prompt", "negative_prompt", "seed")


class WandbRun(Tracker):
    """One W&B run per run folder; a continued run has the same id, a sweep is a group.

    Everything goes through a file in the run folder first, so a lost connection loses nothing.
    """

    def __init__(self, config: Config | TrainConfig, warn: Callable[[str], None]) -> None:
        self.config, self.warn = config, warn
        self.folder = Path(config.run_dir).resolve()
        self.previews = self.folder / "wandb" / "previews"
        self.previews.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        self.files: list[Path] = []
        with self._environment():
            self.run = self._start()

    def stage(self, id: str, name: str, cost: dict[str, float]) -> None:
        self.run.log({f"progress/{name}/{key}": value for key, value in cost.items()})

    def video(self, path: Path, record: dict[str, Any]) -> None:
        clip = self._clip(path, record["prompt"])
        self.run.log({f"videos/{path.stem}": clip, **figures(record)})
        self.run.config.update({"weights": record["weights"], "versions": record["versions"]})
        self.earlier(path, record)

    def _clip(self, path: Path, caption: str) -> Any:
        """A video as W&B shows it: in h264 and not too high."""
        import wandb

        shown, codec = path, self.config.video.codec if isinstance(self.config, Config) else "h264"
        if codec != "h264" or probe(path).height > PREVIEW_HEIGHT:
            shown = self.previews / f"{path.stem}.mp4"
            write_preview(path, shown, PREVIEW_HEIGHT)
        return wandb.Video(str(shown), caption=caption, format="mp4")

    def earlier(self, path: Path, record: dict[str, Any]) -> None:
        self.rows.append({name: record[name] for name in COLUMNS} | figures(record))
        self.files.append(path)

    def scores(self, scores: dict[str, Any]) -> None:
        import wandb

        for row in self.rows:
            values = scores["per_video"].get(row["id"], {})
            row |= {f"metrics/{name}": value for name, value in values.items()}
        columns: list[str | int] = [*SCORE_COLUMNS]
        table = [[score[str(name)] for name in columns] for score in scores["set"]]
        self.run.config.update({"recipes": score_recipes(scores)}, allow_val_change=True)
        self.run.log({"metrics": wandb.Table(columns=columns, data=table), **score_figures(scores)})

    def training(self, values: dict[str, float], step: int) -> None:
        self.run.log({**values, "trained_steps": step})

    def sample(self, path: Path, caption: str, step: int) -> None:
        clip = self._clip(path, caption)
        self.run.log({f"samples/{path.stem}": clip, "trained_steps": step})

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        import wandb

        with self._environment():
            if self.rows:
                columns: list[str | int] = [*dict.fromkeys(key for row in self.rows for key in row)]
                table = [[row.get(str(name)) for name in columns] for row in self.rows]
                self.run.log({"table": wandb.Table(columns=columns, data=table)})
            if sheet is not None:
                self.run.summary["contact_sheet"] = wandb.Image(str(sheet))
            if self.config.tracker.artifact and self.files:
                artifact = wandb.Artifact(f"videos-{self.run.id}", "videos")
                for path in self.files:
                    artifact.add_file(str(path))
                self.run.log_artifact(artifact)
            self._end(exit_code=0 if done or sheet is not None else 1)

    def _start(self) -> Any:
        """The run, offline if a server does not answer."""
        import wandb

        mode = wanted_mode(self.config.tracker.mode)
        if mode == "online":
            try:
                return self._init("online")
            except wandb.errors.Error as error:
                log.warning("W&B online failed", exc_info=error)
                wandb.teardown()
                self.warn(
                    "W&B cannot be reached or refuses the key; the run is recorded offline, later:"
                    f" wandb sync --append {self.folder / 'wandb'}/offline-run-*"
                )
        return self._init("offline")

    def _init(self, mode: Mode) -> Any:
        import wandb

        overrides = self.folder / OVERRIDES
        command = overrides.read_text(encoding="utf-8").strip() if overrides.is_file() else ""
        swept = (self.folder.parent / LEDGER).is_file()
        return wandb.init(
            dir=str(self.folder),
            id=self._id(),
            resume="allow" if mode == "online" else None,
            project=self.config.tracker.project,
            name=self.folder.name,
            group=self.folder.parent.name if swept else None,
            job_type=self.config.task,
            mode=mode,
            config={
                **to_plain(self.config),
                "command": command,
                "git_revision": git_revision(),
            },
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                init_timeout=START_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )

    def _id(self) -> str:
        """The id that this run folder had before, else a new one."""
        path = self.folder / "wandb" / "id"
        if not path.is_file():
            write_text(path, short_hash([str(self.folder), os.urandom(8).hex()]))
        return path.read_text(encoding="utf-8")

    def _end(self, exit_code: int) -> None:
        import wandb

        try:
            self.run.finish(exit_code=exit_code)
        except TimeoutError:
            self.warn(
                "W&B did not take everything in time; nothing is lost, later:"
                f" wandb sync {self.run.settings.sync_dir}"
            )
        wandb.teardown()  # the service may still be writing the run's file until it has ended

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """W&B's own folders inside the run folder: it reads their places from the environment."""
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
