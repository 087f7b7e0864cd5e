"""Where Hydra looks for files: the user's folders, the shipped ones, and any ``experiments``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from pixelwizard.config import tasks


def search_first(folders: list[Path]) -> None:
    """From now on Hydra finds what is in these folders before what is shipped."""
    OwnFiles.folders = folders
    for plugin in (OwnFiles, experiment_source()):
        Plugins.instance().register(plugin)


@cache
def experiment_source() -> type[ConfigSource]:
    """Hydra's source of files, of which it sees nothing but ``experiments``.

    The folder beside them is the user's: in it ``data`` or ``prompts`` are no config groups.
    """
    found: list[Any] = Plugins.instance().discover(ConfigSource)
    (files,) = (source for source in found if source.scheme() == "file")

    class ExperimentSource(files):  # type: ignore[misc, valid-type]
        @staticmethod
        def scheme() -> str:
            return tasks.EXPERIMENTS

        def is_group(self, config_path: str) -> bool:
            return _is_experiment(config_path) and bool(super().is_group(config_path))

        def is_config(self, config_path: str) -> bool:
            return _is_experiment(config_path) and bool(super().is_config(config_path))

    return ExperimentSource


def _is_experiment(path: str) -> bool:
    return path.partition("/")[0] in ("", tasks.EXPERIMENTS)


class OwnFiles(SearchPathPlugin):
    """Lets Hydra find the user's files before the shipped ones, and ``experiments`` anywhere."""

    folders: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(self.folders):
            search_path.prepend("own", f"file://{folder}")
        for root in tasks.experiment_roots():
            search_path.append("experiments", f"{tasks.EXPERIMENTS}://{root}")
