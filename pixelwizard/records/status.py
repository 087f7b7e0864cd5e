"""``status.json`` of a run folder: the state of every prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from pixelwizard.io.files import write_json

SHARE = 0.02
"""The largest share of the time for writing the file, so long lists stay cheap."""


class Status:
    """Prompt id -> pending, done or failed (and why).

    A change is on disk at once, or in a run of thousands of prompts within seconds, and at
    ``close``. Without a path nothing is written.
    """

    def __init__(self, path: Path | None, ids: Iterable[str]) -> None:
        self.path, self.due = path, 0.0
        self.states: dict[str, dict[str, str]] = {id: {"state": "pending"} for id in ids}

    def done(self, *ids: str) -> None:
        """These prompts have their video."""
        self.states |= {id: {"state": "done"} for id in ids}
        self._save()

    def fail(self, id: str, why: str) -> None:
        """Mark a prompt as failed; ``why`` is one sentence."""
        self.states[id] = {"state": "failed", "why": why}
        self._save()

    @property
    def failed(self) -> dict[str, str]:
        """Id -> why."""
        return {id: s["why"] for id, s in self.states.items() if s["state"] == "failed"}

    def ids(self, state: str) -> list[str]:
        """The prompts in a state, in their order."""
        return [id for id, found in self.states.items() if found["state"] == state]

    def close(self) -> None:
        """Write the file."""
        if self.path is not None:
            write_json(self.path, self.states)

    def _save(self) -> None:
        started = time.monotonic()
        if started >= self.due:
            self.close()
            ended = time.monotonic()
            self.due = ended + (ended - started) / SHARE
