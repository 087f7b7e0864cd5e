"""pixelwizard: two-stage text-to-video at 2K and 4K, as a Hydra and Lightning experiment framework.

``import pixelwizard as pw; pw.generate(["schedule=shortcut4"], prompts=["..."])`` makes videos in
this process. Importing the package imports neither torch nor Hydra.
"""

from __future__ import annotations

from pixelwizard.api import Run, generate

__all__ = ["Run", "__version__", "generate"]
__version__ = "0.1.0"
