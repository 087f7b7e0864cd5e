"""What Hydra itself prints of a composition."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout

import hydra
from hydra.errors import HydraException

from pixelwizard.cli.arguments import checked, split_folders
from pixelwizard.cli.compose import BASE, introduce
from pixelwizard.config import tasks
from pixelwizard.config.schema import ConfigError


def shown_by_hydra(task: str, options: Mapping[str, str], overrides: Sequence[str]) -> str:
    """What Hydra itself prints for its ``options`` (``--info``, ``--cfg hydra``, ...).

    Raises ConfigError where Hydra refuses them.
    """
    folders, overrides = split_folders(overrides)
    own = tasks.own_folders(folders)
    introduce(task, own)
    flags = [word for option, value in options.items() for word in (option, value) if word]
    argv, sys.argv = sys.argv, [sys.argv[0], *flags, *checked(task, overrides, False, own)]
    shown, refused = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(shown), redirect_stderr(refused):
            hydra.main(config_path=str(tasks.shipped()), config_name=task, **BASE)(print)()
    except (SystemExit, HydraException, ValueError) as ended:
        if not isinstance(ended, SystemExit) or ended.code:
            said = refused.getvalue().strip().split("\n\n")[0] or str(ended)
            raise ConfigError(f"{' '.join(flags)}: {said.splitlines()[-1]}") from None
    finally:
        sys.argv = argv
    return shown.getvalue()
