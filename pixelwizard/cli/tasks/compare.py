"""``pixelwizard compare``: runs side by side, in numbers and in videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.tasks import Command
from pixelwizard.config.evaluate import CompareConfig
from pixelwizard.config.schema import ConfigError

EXAMPLES = """\
  pixelwizard compare outputs/schedules                    the finished runs of a sweep
  pixelwizard compare outputs/a outputs/b baseline=a       two runs, differences from a
  pixelwizard compare outputs/schedules quality=clip-score target=unipc50
  pixelwizard compare outputs/refined baseline=bicubic     against bicubic enlargement
  pixelwizard compare outputs/schedules format=json        one JSON object on stdout

The output folder gets report/index.html, a page for any browser, and pareto.png, comparison.csv
and .md."""


def check(config: CompareConfig) -> None:
    """Refuse missing folders. Raises ConfigError."""
    if not config.runs:
        raise ConfigError("runs is missing; name a sweep's folder or those of some runs")
    for run in config.runs:
        if not Path(run).is_dir():
            raise ConfigError(f"{run} is not a folder; name a sweep's folder or those of some runs")


def run(config: CompareConfig, command_line: Sequence[str]) -> int:
    """Compare, write, print; returns the exit code."""
    from pixelwizard.comparison.run import comparison_of, out_folder, write_comparison
    from pixelwizard.comparison.tables import flat_rows, to_json, to_text

    comparison, folder = comparison_of(config), out_folder(config)
    missing = write_comparison(comparison, folder)
    if config.tracker.kind != "none":
        from pixelwizard.tracking.wandb_run import log_comparison

        log_comparison(config, flat_rows(comparison), folder)
    if config.format == "json":
        print(json.dumps({**to_json(comparison), "folder": str(folder)}, ensure_ascii=False))
        return 0
    print(to_text(comparison))
    for sentence in missing:
        print(f"- {sentence}")
    print(folder / "report" / "index.html")
    return 0


COMMAND = Command(EXAMPLES, check, run, word="runs", words=True)
