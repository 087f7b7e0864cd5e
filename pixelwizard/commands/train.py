"""``pixelwizard train``: the networks of the miniature, one per run."""

from __future__ import annotations

from collections.abc import Sequence

from pixelwizard.commands import Command
from pixelwizard.launch import launch
from pixelwizard.run_folder import claim
from pixelwizard.train_settings import TrainConfig

EXAMPLES = """\
  pixelwizard train experiments=train_tiny_vae        the autoencoder, from nothing
  pixelwizard train experiments=train_tiny_anchor     the anchor network, on its latents
  pixelwizard train experiments=train_tiny_detail     the detail network, with its shortcuts
  pixelwizard train experiments=train_tiny_anchor trainer.max_minutes=10
                                                      the same command continues where it stopped"""


def check(config: TrainConfig) -> None:
    """Nothing beyond ``TrainConfig.check``: what training starts from, it makes itself."""


def run(config: TrainConfig, command_line: Sequence[str]) -> int:
    """Train in the run folder of ``config``; returns the exit code."""
    return launch(claim(config, command_line))


COMMAND = Command("train one network of the miniature", EXAMPLES, check, run)
