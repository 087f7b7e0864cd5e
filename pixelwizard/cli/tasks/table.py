"""``pixelwizard table``: the table of a paper, filled from runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.tasks import Command
from pixelwizard.config.evaluate import TableConfig
from pixelwizard.config.schema import ConfigError
from pixelwizard.data.table import find_videos
from pixelwizard.evaluation.names import check_names, resolve_auto

EXAMPLES = """\
  pixelwizard table outputs/schedules                      a row per schedule of a sweep
  pixelwizard table outputs/a DIR layout=uhr reference=DIR a run, a folder of videos, real videos
  pixelwizard table outputs/a layout=all cited=[FILE.yaml] every score, and published rows
  pixelwizard table outputs/schedules format=json          one JSON object on stdout

The output folder gets table.md, .tex, .csv and .html; a cell without a value gives the reason."""


def check(config: TableConfig) -> None:
    """Refuse missing folders and files. Raises ConfigError."""
    if not config.runs:
        raise ConfigError("runs is missing; name sweeps, runs, evaluations or folders of videos")
    for run in config.runs:
        if not Path(run).is_dir():
            raise ConfigError(f"{run} is not a folder; name a sweep, a run or a folder of videos")
    for file in config.cited:
        if not Path(file).is_file():
            raise ConfigError(f"cited={file} is not a file; name a YAML file with source and rows")
    if config.reference is not None:
        find_videos(Path(config.reference), "reference")
    check_names(resolve_auto(config.metrics, ""))


def run(config: TableConfig, command_line: Sequence[str]) -> int:
    """Score what is not scored yet, write and print the table; returns the exit code."""
    from pixelwizard.comparison import table_files as files
    from pixelwizard.comparison.run import table_folder, table_of, write_table

    folder = table_folder(config)
    table = table_of(config, folder)
    write_table(table, folder)
    if config.tracker.kind != "none":
        from pixelwizard.tracking.wandb_run import log_table

        log_table(config, list(files.flat(table)), folder)
    if config.format == "json":
        found = {**files.to_json(table), "folder": str(folder)}
        print(json.dumps(found, ensure_ascii=False))
        return 0
    print(files.to_text(table))
    print(folder / "table.md")
    return 0


COMMAND = Command(EXAMPLES, check, run, word="runs", words=True)
