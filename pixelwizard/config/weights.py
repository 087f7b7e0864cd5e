"""The settings of fetch and convert: where weights come from and where they go. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings, check_backbone
from pixelwizard.config.schema import ConfigError


@dataclass(frozen=True)
class SourceSettings:
    """Files of one repository of the Hugging Face hub, and the folder that they belong into.

    ``revision`` is a commit (a name like ``main`` is resolved at the first fetch and kept);
    ``use`` says how to use the files, ``note`` what to know if one of them is not there.
    """

    name: str = ""
    repo: str = ""
    revision: str = "main"
    folder: str = ""
    files: List[str] = field(default_factory=list)
    use: str = ""
    note: str = ""


@dataclass(frozen=True)
class FetchConfig:
    """Everything that determines one ``fetch``."""

    task: Literal["fetch"] = "fetch"
    source: SourceSettings = field(default_factory=SourceSettings)

    def check(self) -> None:
        """Refuse a source without files and files that would leave the folder."""
        source = self.source
        for key in ("repo", "revision", "folder"):
            if not getattr(source, key):
                raise ConfigError(f"source.{key} is empty; name what to fetch, like source=NAME")
        if not source.files:
            raise ConfigError("source.files is empty; name at least one file")
        for name in source.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise ConfigError(f"source.files has {name!r}, which is no path inside the folder")


@dataclass(frozen=True)
class ConvertConfig:
    """Everything that determines one ``convert``: whose weights, into which folder, how precise."""

    task: Literal["convert"] = "convert"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    out: Optional[str] = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def check(self) -> None:
        """Refuse sizes that do not fit each other."""
        check_backbone(self.backbone)
