"""``pixelwizard bench``: seconds and memory of every stage, against plan and published code."""

from __future__ import annotations

from pixelwizard.cli.tasks import Command

EXAMPLES = """\
  pixelwizard bench                                   the miniature's sizes, about a minute
  pixelwizard bench bench=full                        full size, 2K and 4K; needs a GPU
  pixelwizard bench bench=full resolution=720p second=null memory.budget_gb=24
  pixelwizard bench resolution.frames=33 format=json  one JSON object on stdout

Weights are random, so no files are needed. run_dir=FOLDER gets bench.md and bench.json; plan uses
the measured rates of the machine."""


COMMAND = Command(EXAMPLES)
