"""``pixelwizard evaluate``: scores of a folder of videos."""

from __future__ import annotations

from pathlib import Path

from pixelwizard.cli.tasks import Command
from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.schema import ConfigError
from pixelwizard.data.table import find_videos
from pixelwizard.evaluation.files import backbone_of, find_captions, read_captions
from pixelwizard.evaluation.names import check_names, resolve_auto

EXAMPLES = """\
  pixelwizard evaluate videos=outputs/look                    a run folder, with its prompts
  pixelwizard evaluate videos=DIR captions=FILE               any videos; ids are file names
  pixelwizard evaluate videos=DIR reference=DIR               also FVD; PSNR for equal file names
  pixelwizard evaluate videos=DIR reference=DIR metrics=standard      with I3D and CLIP ViT-L/14

The run folder gets metrics.json and evaluate.md, with the recipe of every score."""


def check(config: EvaluateConfig) -> None:
    """Refuse what cannot run before anything is written. Raises ValueError."""
    if config.videos is None:
        raise ConfigError("videos is missing; name the folder of the videos with videos=DIR")
    paths = find_videos(Path(config.videos), "videos")
    find_captions(paths, None if config.captions is None else Path(config.captions))
    if config.captions is not None:
        read_captions(Path(config.captions)).tell()
    if config.reference is not None:
        find_videos(Path(config.reference), "reference")
    check_names(resolve_auto(config.metrics, backbone_of(paths)))


COMMAND = Command(EXAMPLES, check)
