"""The settings of ``replay``: the video and the output folder. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from pixelwizard.config.setting import setting


@dataclass(frozen=True)
class ReplayConfig:
    """The root of ``replay``: a ``file`` that ``generate`` wrote; ``out`` is the new run folder.

    ``trust``: users' classes that the file names may run.
    """

    task: Literal["replay"] = "replay"
    file: Optional[str] = setting(None, path=True)
    out: Optional[str] = setting(None, path=True)
    trust: bool = False
