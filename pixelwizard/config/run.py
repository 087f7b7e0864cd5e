"""What every task with a run folder has. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List


@dataclass(frozen=True)
class RunSettings:
    """The base of the root settings of tasks with a run folder.

    ``search`` are the folders where the modules of the user's classes were found, ``replaced``
    says which shipped options a file of the user's took the place of; composing fills both in.
    """

    run_dir: str
    search: List[str] = field(default_factory=list)
    replaced: List[str] = field(default_factory=list)
