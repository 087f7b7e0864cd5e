"""A run in Weights & Biases: offline in the run folder, or online if a key is configured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.schema import to_plain
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.reading import probe
from pixelwizard.io.video import write_preview
from pixelwizard.records.provenance import git_revision
from pixelwizard.records.run_folder import OVERRIDES
from pixelwizard.tracking import Tracker, figures
from pixelwizard.tracking.wandb_session import STEP, Session

PREVIEW_HEIGHT = 720
"""Videos are shown at most this high, in h264; the files themselves go along as an option."""
COLUMNS = ("id", "prompt", "negative_prompt", "seed")


class WandbRun(Tracker):
    """Sends a run to W&B: videos, figures, tables, and at the end the sheet."""

    def __init__(self, config: GenerateConfig | TrainConfig, warn: Callable[[str], None]) -> None:
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
        import wandb

        shown, codec = (
            path,
            self.config.video.codec if isinstance(self.config, GenerateConfig) else "h264",
        )
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
        import wandb

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
