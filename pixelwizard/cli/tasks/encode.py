"""``pixelwizard encode``: clips and captions become latents and embeddings, once."""

from __future__ import annotations

from pixelwizard.cli.tasks import Command
from pixelwizard.cli.tasks.train import check_clips
from pixelwizard.config.train import EncodeConfig
from pixelwizard.models.checkpoints import require_weights

EXAMPLES = """\
  pixelwizard encode data=clips data.dir=FOLDER data.captions=TABLE.csv run_dir=LATENTS
                               details and anchors, for tiny's detail network
  pixelwizard encode data=clips data.dir=FOLDER data.captions=TABLE.csv stage=anchor
  pixelwizard encode backbone=wan2_2_ti2v_5b resolution=2k data=clips data.dir=F data.captions=T.csv

Then: pixelwizard train data=latents data.dir=LATENTS. Repeat a command to continue."""


def check(config: EncodeConfig) -> None:
    """Refuse what cannot run before anything is written. Raises ValueError."""
    require_weights(config.backbone, ["text_encoder", "vae"])
    check_clips(config.data)


COMMAND = Command(EXAMPLES, check)
