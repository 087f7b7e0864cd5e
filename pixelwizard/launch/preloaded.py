"""What the server that forks workers imports, so that each of them starts at once.

Only that server imports this module: it also leaves the terminal, so that Ctrl-C and the end of a
process group reach the workers once, through the process that started them. Nothing here touches a
device before the fork, so CUDA starts in the worker.
"""

import importlib
import os

os.setsid()
for name in (
    *("pixelwizard.generation.predict", "pixelwizard.evaluation.evaluate", "wandb"),
    "transformers.models.umt5.modeling_umt5",
):
    importlib.import_module(name)
