"""``pixelwizard bench``: seconds and memory of every stage, against plan and published code."""

from __future__ import annotations

from importlib.util import find_spec

from pixelwizard.cli.tasks import Command
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.tasks import BenchConfig

EXAMPLES = """\
  pixelwizard bench                                   the miniature's sizes, about a minute
  pixelwizard bench bench=full                        full size, 2K and 4K; needs a GPU
  pixelwizard bench bench=full resolution=720p second=null memory.budget_gb=24
  pixelwizard bench against=diffusers                 against diffusers, a few minutes
  pixelwizard bench resolution.frames=33 format=json  one JSON object on stdout

Weights are random, so no files are needed. run_dir=FOLDER gets bench.md and bench.json; plan then
uses the measured rates of this machine."""


def check(config: BenchConfig) -> None:
    """Refuse a peer that is not installed; the device is checked where torch runs."""
    if config.against == "diffusers" and find_spec("diffusers") is None:
        raise ConfigError("against=diffusers needs the package diffusers: pip install diffusers")


COMMAND = Command(EXAMPLES, check)
