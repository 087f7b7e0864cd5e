"""Imports of the server that forks workers, so workers start at once.

Only that server imports this module. It also leaves the terminal's session, so Ctrl-C and the end
of a process group reach the workers once, through the process that started them. Nothing here
touches a device before the fork, so CUDA starts in the worker.
"""

import importlib
import os

os.setsid()
for name in (
    *("pixelwizard.generation.predict", "pixelwizard.evaluation.evaluate", "wandb"),
    "transformers.models.umt5.modeling_umt5",
):
    importlib.import_module(name)
