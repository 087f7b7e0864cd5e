"""The settings of ``replay``: which video, and where its repetition goes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from pixelwizard.schema import ConfigError


@dataclass(frozen=True)
class ReplayConfig:
    """The root of ``replay``: a ``file`` that ``generate`` wrote; ``out`` is the new run folder."""

    task: Literal["replay"] = "replay"
    file: Optional[str] = None
    out: Optional[str] = None

    def check(self) -> None:
        """A file must be named; raises ConfigError."""
        if self.file is None:
            raise ConfigError("no video is named; write it behind the task: replay VIDEO.mp4")
