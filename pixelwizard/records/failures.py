"""Why a run failed, for its parent process: ``failure.json`` in its folder. No torch here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pixelwizard.io.files import write_text
from pixelwizard.io.reasons import MOST, reason

FAILURE = "failure.json"
OUT_OF_MEMORY = "out of memory"
_CLASSES = {"MemoryError", "OutOfMemoryError"}


class WorkStopped(Exception):
    """Some of the work is done and kept, the rest cannot be done; the text is one sentence."""


class PromptFailed(WorkStopped):
    """A prompt failed while other ranks wait for this one, so the job must end."""


@dataclass(frozen=True)
class Failure:
    """One sentence, and whether more memory would have helped."""

    reason: str
    out_of_memory: bool = False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, Python's or torch's, could not give what was asked for."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & _CLASSES) or "DefaultCPUAllocator" in str(error)


def sentence(error: BaseException) -> str:
    """What an error says, in one line; that memory was short comes first."""
    said = reason(error, MOST)
    return f"{OUT_OF_MEMORY}: {said}" if is_out_of_memory(error) else said


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error only says that another rank of the job is gone."""
    return "DistError" in {cls.__name__ for cls in type(error).__mro__} or "/gloo/" in str(error)


def write_failure(folder: Path, failure: Failure) -> None:
    """Leave the reason in the run folder."""
    write_text(folder / FAILURE, json.dumps(asdict(failure), ensure_ascii=False) + "\n")


def forget_failure(folder: Path) -> None:
    """A new attempt begins."""
    (folder / FAILURE).unlink(missing_ok=True)


def read_failure(folder: Path) -> Failure | None:
    """What the last attempt left, if it failed and could still say why."""
    try:
        return Failure(**json.loads((folder / FAILURE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def kernel_kills() -> int:
    """How often Linux has ended a process of this machine for want of memory."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
