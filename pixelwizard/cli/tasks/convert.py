"""``pixelwizard convert``: a backbone's weights as bfloat16 safetensors, written once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.tasks import Command
from pixelwizard.config.backbone import ConvertConfig
from pixelwizard.config.schema import ConfigError
from pixelwizard.models.checkpoints import (
    MissingWeights,
    available_parts,
    chosen_files,
    require_weights,
    weights_folder,
)
from pixelwizard.records.run_folder import CONFIG, locked

EXAMPLES = """\
  pixelwizard convert backbone=wan2_2_ti2v_5b out=checkpoints/bf16
  pixelwizard convert backbone=wan2_2_ti2v_5b out=checkpoints/4k backbone.detail=4k/model.pt
  pixelwizard convert backbone=wan2_2_ti2v_5b out=checkpoints/last backbone.ema=false
  pixelwizard convert out=outputs/tiny dtype=float32
  pixelwizard convert backbone=wan2_2_ti2v_5b backbone.anchor=5B-Q8_0.gguf out=checkpoints/gguf
  pixelwizard convert backbone=wan2_2_ti2v_5b backbone.quantize=fp8 out=checkpoints/fp8

Every part of the backbone is converted; the result is a complete backbone folder:
backbone.folder=checkpoints/bf16."""


def check(config: ConvertConfig) -> None:
    """Refuse missing weights, and a conversion onto itself. Raises ValueError."""
    if config.out is None:
        raise ConfigError("out is missing; name the folder to write into, like out=DIR")
    if Path(config.out).resolve() == weights_folder(config.backbone).resolve():
        raise ConfigError(f"out={config.out} is the folder that is read; name another one")
    if (Path(config.out) / CONFIG).is_file():
        raise ConfigError(
            f"out={config.out} is a run folder; name a folder of its own, like"
            f" out={config.out}/backbone"
        )
    parts = available_parts(config.backbone)
    require_weights(config.backbone, parts or ("anchor",))
    for part, chosen in chosen_files(config.backbone).items():
        if chosen and part not in parts:
            raise MissingWeights(f"backbone.{part}={chosen} does not exist; name a file")


def run(config: ConvertConfig, command_line: Sequence[str]) -> int:
    """Write the parts that the backbone has into ``out``; returns the exit code."""
    from pixelwizard.models.weights import convert

    assert config.out is not None
    with locked(Path(config.out), key="out"):
        for path in convert(config.backbone, config.out, config.dtype):
            print(path)
    return 0


COMMAND = Command(EXAMPLES, check, run)
