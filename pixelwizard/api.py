"""The Python interface: the command line's tasks in this process, returning objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelwizard.cli.arguments import quoted
from pixelwizard.cli.compose import compose
from pixelwizard.cli.sweeps import sweeping
from pixelwizard.cli.tasks import command
from pixelwizard.config.parallel import mesh_of
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.tasks import load
from pixelwizard.io.files import read_json
from pixelwizard.io.process import SOME_FAILED, Interrupted
from pixelwizard.launch.launch import launch
from pixelwizard.records.run_folder import CONFIG, SCORES, STATUS, Failure, claim
from pixelwizard.worker import session, work_of

if TYPE_CHECKING:
    from pixelwizard.comparison.differences import Comparison


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and per prompt id the video, its provenance, or why it failed."""

    folder: Path
    videos: dict[str, Path]
    provenance: dict[str, Any]
    failed: dict[str, str]

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``; empty before the run has been evaluated."""
        path = self.folder / SCORES
        return read_json(path) if path.is_file() else {}


def generate(overrides: Sequence[str] = (), prompts: Sequence[str] = ()) -> Run:
    """Make videos in this process: ``overrides`` and ``prompts`` as on the command line.

    Several ranks (``parallel=...``) are separate processes. Raises ValueError with one sentence
    for a mistake in the request and for a job that lost a rank. A prompt that fails is named in
    ``Run.failed``; the others are finished.
    """
    jobs = compose("generate", overrides, prompts)
    if len(jobs) > 1:
        raise ConfigError("this experiment is a sweep; run it with pixelwizard.sweep")
    config = jobs[0].config
    if not config.parallel.launch:
        raise ConfigError("parallel.launch=false is for the command line; leave it out")
    command("generate").check(config)
    texts = [part for text in prompts for part in ("--prompt", text)]
    folder = claim(config, ["pixelwizard", *texts, *overrides])
    try:
        if (world := mesh_of(config).world) > 1:
            _launched(folder, world)
        else:
            with session(folder) as (config, rank):
                work_of(config)(config, rank)
    except Interrupted:  # not KeyboardInterrupt on its way here: Lightning would exit on that
        raise KeyboardInterrupt from None
    return read_run(folder)


def _launched(folder: Path, world: int) -> None:
    """Run a job of several ranks; failed prompts are in its status, anything else is raised."""
    code = launch(folder, world)
    if code > 128:
        raise KeyboardInterrupt
    some_failed = code == SOME_FAILED and (folder / STATUS).is_file()
    if code and not (some_failed and read_run(folder).failed):
        failure = Failure.left_in(folder)
        reason = failure.reason if failure else f"the run in {folder} ended with code {code}"
        raise RuntimeError(reason) if code == 1 else ValueError(reason)


def sweep(
    overrides: Sequence[str], prompts: Sequence[str] = (), sweep_dir: str | None = None
) -> Path:
    """Run every combination of the values with commas; the sweep's folder, for ``compare``.

    A job that fails is named in the folder's ``sweep.json``. Raises ValueError with one sentence
    for a mistake in the request.
    """
    texts = [part for text in prompts for part in ("--prompt", text)]
    command_line = ("pixelwizard", "-m", *texts, *overrides)
    request = sweeping.SweepRequest("generate", overrides, prompts, command_line, sweep_dir)
    if sweeping.sweep(request, compose("generate", overrides, prompts, sweep=True)) > 128:
        raise KeyboardInterrupt
    return request.folder


@dataclass(frozen=True)
class Report:
    """A comparison and its files: the page, the plot, the tables."""

    comparison: Comparison
    folder: Path

    @property
    def page(self) -> Path:
        """The page, to open in a browser."""
        return self.folder / "report" / "index.html"

    @property
    def pareto(self) -> Path:
        """Quality against seconds and against network passes."""
        return self.folder / "pareto.png"

    @property
    def table(self) -> str:
        """The scores as Markdown, with a legend."""
        return (self.folder / "comparison.md").read_text("utf-8")


def compare(runs: Sequence[Path | str], overrides: Sequence[str] = ()) -> Report:
    """Compare sweeps and runs, as ``pixelwizard compare`` does. Raises ValueError likewise."""
    from pixelwizard.comparison.run import comparison_of, out_folder, write_comparison

    named = f"runs=[{','.join(quoted(str(run)) for run in runs)}]"
    config = compose("compare", [named, *overrides])[0].config
    command("compare").check(config)
    comparison, folder = comparison_of(config), out_folder(config)
    write_comparison(comparison, folder)
    return Report(comparison, folder)


def read_run(folder: Path | str) -> Run:
    """The run in a folder, with its finished videos."""
    folder = Path(folder)
    status = read_json(folder / STATUS)
    done = [name for name, state in status.items() if state["state"] == "done"]
    failed = {name: state["why"] for name, state in status.items() if state["state"] == "failed"}
    suffix = load(folder / CONFIG).video.suffix
    videos = {name: folder / "videos" / f"{name}{suffix}" for name in done}
    provenance = {name: read_json(path.with_suffix(".json")) for name, path in videos.items()}
    return Run(folder, videos, provenance, failed)
