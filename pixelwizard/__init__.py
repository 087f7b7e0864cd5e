"""pixelwizard: two-stage text-to-video at 2K and 4K, as a Hydra and Lightning experiment framework.

``import pixelwizard as pw; pw.generate(["schedule=shortcut4"], prompts=["..."])`` makes videos in
this process. Importing the package imports neither torch nor Hydra.
"""

from __future__ import annotations

from pixelwizard.api import Report, Run, compare, generate, sweep

__all__ = ["Report", "Run", "__version__", "compare", "generate", "sweep"]
__version__ = "0.1.0"
