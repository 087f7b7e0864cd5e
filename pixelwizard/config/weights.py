"""The settings of fetch and convert: where weights come from and where they go. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting


@dataclass(frozen=True)
class SourceSettings:
    """Files of one repository of the Hugging Face hub, and the folder that they belong into.

    ``revision`` is a commit (a name like ``main`` is resolved at the first fetch and kept);
    ``use`` says how to use the files, ``note`` what to know if one of them is not there.
    """

    name: str = ""
    repo: str = ""
    revision: str = "main"
    folder: str = setting("", path=True)
    files: List[str] = setting([])
    use: str = ""
    note: str = ""

    def check(self, key: str) -> None:
        """Refuse a source without files and files that would leave the folder."""
        for name in ("repo", "revision", "folder"):
            if not getattr(self, name):
                raise ConfigError(f"{key}.{name} is empty; name what to fetch, like source=NAME")
        if not self.files:
            raise ConfigError(f"{key}.files is empty; name at least one file")
        for file in self.files:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise ConfigError(
                    f"{key}.files has {file!r}, which is not a path inside the folder"
                )


@dataclass(frozen=True)
class FetchConfig:
    """Everything that determines one ``fetch``."""

    task: Literal["fetch"] = "fetch"
    source: SourceSettings = setting(SourceSettings)


@dataclass(frozen=True)
class ConvertConfig:
    """Everything that determines one ``convert``: whose weights, into which folder, how precise."""

    task: Literal["convert"] = "convert"
    backbone: BackboneSettings = setting(BackboneSettings)
    out: Optional[str] = setting(None, path=True)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
