"""pixelwizard: two-stage text-to-video at 2K and 4K, as a Hydra and Lightning experiment framework.

``import pixelwizard as pw; pw.generate(["schedule=shortcut4"], prompts=["..."])`` makes videos in
this process. Importing the package imports nothing else, not even of the standard library: with
``python -m`` the working directory is still first on the path here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pixelwizard.api import Report, Run, compare, generate, sweep

__all__ = ["Report", "Run", "__version__", "compare", "generate", "sweep"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The Python interface, imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'pixelwizard' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("pixelwizard.api"), name)
