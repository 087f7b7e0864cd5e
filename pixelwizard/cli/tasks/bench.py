"""``pixelwizard bench``: seconds and memory of every stage, against plan and published code."""

from __future__ import annotations

from collections.abc import Sequence

from pixelwizard.cli.tasks import Command
from pixelwizard.config.generate import BenchConfig
from pixelwizard.launch.launch import launch
from pixelwizard.records.run_folder import claim

EXAMPLES = """\
  pixelwizard bench                                   the miniature's sizes, about a minute
  pixelwizard bench bench=full                        full size, 2K and 4K; needs a GPU
  pixelwizard bench bench=full resolution=720p second=null memory.budget_gb=24
  pixelwizard bench resolution.frames=33 format=json  one JSON object on stdout

Weights are random, so no files are needed. run_dir=FOLDER gets bench.md and bench.json; plan uses
the measured rates of the machine."""


def check(config: BenchConfig) -> None:
    """Nothing beyond the settings: the device is checked where torch runs."""


def run(config: BenchConfig, command_line: Sequence[str]) -> int:
    """Measure in a worker; returns the exit code."""
    return launch(claim(config, command_line))


COMMAND = Command("seconds and memory, measured", EXAMPLES, check, run)
