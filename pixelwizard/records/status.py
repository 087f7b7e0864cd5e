"""``status.json`` of a run folder: what became of every prompt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pixelwizard.io.files import write_json


class Status:
    """Prompt id -> pending, done or failed (and why), on disk after every change."""

    def __init__(self, path: Path | None, ids: Iterable[str]) -> None:
        self.path = path
        self.states: dict[str, dict[str, str]] = {id: {"state": "pending"} for id in ids}

    def done(self, *ids: str) -> None:
        """These prompts have their video."""
        for id in ids:
            self.states[id] = {"state": "done"}
        self.save()

    def fail(self, id: str, why: str) -> None:
        """This prompt cannot go on; ``why`` is one sentence."""
        self.states[id] = {"state": "failed", "why": why}
        self.save()

    @property
    def failed(self) -> dict[str, str]:
        """Id -> why."""
        return {id: s["why"] for id, s in self.states.items() if s["state"] == "failed"}

    def save(self) -> None:
        """Write the file, atomically, if there is one."""
        if self.path is not None:
            write_json(self.path, self.states)
