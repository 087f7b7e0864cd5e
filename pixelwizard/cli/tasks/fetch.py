"""``pixelwizard fetch NAME``: published weights into ``checkpoints/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.tasks import Command
from pixelwizard.config.backbone import FetchConfig
from pixelwizard.io.hub import fetch
from pixelwizard.records.run_folder import locked

EXAMPLES = """\
  pixelwizard fetch wan2_2_ti2v_5b                        the backbone, 34 GB
  pixelwizard fetch pixelwizard-4k                        a detail network for it
  pixelwizard fetch pixelwizard-lr                        an anchor network for it
  pixelwizard fetch wan2_2_ti2v_5b source.folder=DIR      into another folder

Complete files are not fetched again; interrupted downloads continue. HF_HOME,
HF_HUB_OFFLINE and HF_TOKEN are respected."""


def run(config: FetchConfig, command_line: Sequence[str]) -> int:
    """Fetch what is missing; returns the exit code."""
    source = config.source
    with locked(Path(source.folder).expanduser(), key="source.folder"):
        if not fetch(source):
            print(f"{source.folder} has every file already")
    if source.use:
        print(f"use it with: {source.use}")
    return 0


COMMAND = Command(EXAMPLES, run=run, word="source")
