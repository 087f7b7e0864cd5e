"""``pixelwizard [generate]``: videos from text."""

from __future__ import annotations

from pixelwizard.cli.tasks import Command
from pixelwizard.generation.run import check, finished

EXAMPLES = """\
  pixelwizard                                        four demo videos with the built-in miniature
  pixelwizard --prompt "a red circle moves left over a gray background"
  pixelwizard prompts=prompts.csv seed=7             .txt, .csv, .jsonl ...: one video per row
  pixelwizard --video clip.mp4 --prompt "a dog"      this clip at a higher resolution
  pixelwizard --image dog.png --prompt "a dog runs"  a video that begins with this picture
  pixelwizard schedule=euler4 schedule.steps=6       another schedule, another number of steps
  pixelwizard metrics=tiny reference=DIR             FVD and others against real videos
  pixelwizard -m schedule=shortcut4,euler4 seed=0,1  every combination, in sweep_dir=FOLDER
  pixelwizard prompts=prompts.txt parallel=prompts parallel.prompts=2      two at a time
  pixelwizard backbone=wan2_2_ti2v_5b resolution=2k backbone.folder=DIR backbone.detail=FILE"""

COMMAND = Command(EXAMPLES, check, finished=finished)
