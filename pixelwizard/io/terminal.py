"""What a user reads on the terminal: sentences, tables, progress."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TextIO, TypeVar

MOST = 600
"""Characters of a message; what is longer loses its middle."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def reason(error: BaseException, most: int = 160) -> str:
    """What an error says, in one line of at most ``most`` characters; its class if it says nothing.

    An OSError says the system's words, without number and path.
    """
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, KeyError):
        said = f"KeyError: {said}"  # which says no more than the key
    return (said or type(error).__name__)[:most]


def say(sentence: str) -> None:
    """Print a message on stderr: one line, without control characters, not too long."""
    print(f"pixelwizard: {printable(sentence)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """``text`` with newlines and control characters escaped, and shortened in its middle."""
    shown = UNPRINTABLE.sub(lambda found: repr(found.group())[1:-1], text)
    if len(shown) <= MOST:
        return shown
    half = (MOST - 5) // 2
    return f"{shown[:half]} ... {shown[-half:]}"


Rows = Sequence[Sequence[str]]


def aligned(rows: Rows, left: Collection[int] = (0,)) -> list[str]:
    """A line per row, every column as wide as its widest cell; those in ``left`` to the left."""
    return ["  ".join(cells).rstrip() for cells in _padded(rows, left)]


def markdown(rows: Rows, left: Collection[int] = (0,)) -> list[str]:
    """The same as a Markdown table; the first row is the header."""
    head, *others = _padded(rows, left)
    rule = ["-" * (len(c) + 1) + ("-" if i in left else ":") for i, c in enumerate(head)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *others)]
    return [lines[0], "|" + "|".join(rule) + "|", *lines[1:]]


def _padded(rows: Rows, left: Collection[int]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]


Item = TypeVar("Item")
Result = TypeVar("Result")
STAGES = ("text", "anchor", "detail", "decode")


class Line:
    """The last line of a terminal, written over again and again; elsewhere only lines that stay."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty()

    def show(self, text: str, where: str = "") -> None:
        """Replace the line by ``where`` and ``text``, ``where`` cut to fit."""
        if not self.live:
            return
        width = shutil.get_terminal_size().columns - 1
        room = max(0, width - len(text) - 2)
        where = where if len(where) <= room else where[: max(0, room - 3)] + "..."
        line = f"{where}  {text}" if where else text
        self.out.write(f"\r\x1b[K{line[:width]}")
        self.out.flush()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.close()
        print(text, file=self.out, flush=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        self.show("")


class Display(Line):
    """Shows prompt, stage, step and the time left; ``begin``, ``step`` and ``end`` report progress.

    The time left is the run's once every stage has begun, before that the prompt's in its stage.
    """

    def __init__(self, ids: Sequence[str], out: TextIO | None = None) -> None:
        super().__init__(out)
        self.numbers = {id: number for number, id in enumerate(ids, start=1)}
        self.seen: dict[str, list[float]] = {}
        self.left: dict[str, int] = {}
        self.where, self.stage, self.started = "", "", time.monotonic()

    def plan(self, left: dict[str, int]) -> None:
        """The number of prompts that each stage still has to process."""
        self.left = dict(left)

    def enter(self, stage: str, prompts: int) -> None:
        """A stage starts on a group of prompts."""
        self.stage = stage
        if not self.live:
            self.say(f"{stage}: {prompts} prompt{'s' if prompts != 1 else ''}")

    def begin(self, id: str, text: str) -> None:
        """Work on a prompt starts in the current stage."""
        self.where = f"[{self.numbers[id]}/{len(self.numbers)}] {text}"
        self.started = time.monotonic()
        self.show(f"{self.stage} ...", self.where)

    def step(self, done: int, steps: int, first: int = 0) -> None:
        """``done`` of ``steps`` are finished; those before ``first`` are from an earlier run."""
        pace = (time.monotonic() - self.started) / max(1, done - first)
        left = self._eta(pace * (steps - done))
        self.show(f"{self.stage} {done}/{steps}  ETA {left}", self.where)

    def end(self) -> None:
        """The current prompt has finished the current stage."""
        self.seen.setdefault(self.stage, []).append(time.monotonic() - self.started)
        self.left[self.stage] = max(0, self.left.get(self.stage, 0) - 1)

    def _eta(self, here: float) -> str:
        others = {**self.left, self.stage: self.left.get(self.stage, 0) - 1}
        ahead = {stage: left for stage, left in others.items() if left > 0}
        if ahead.keys() - self.seen.keys():
            return f"{clock(here)} for this stage"
        means = {stage: sum(self.seen[stage]) / len(self.seen[stage]) for stage in ahead}
        return clock(here + sum(left * means[stage] for stage, left in ahead.items()))


class Remaining(Line):
    """The part that is under way, and the time left by what every part was expected to take.

    The expectations need only be right in proportion: they are scaled by the parts that are done.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        super().__init__(out)
        self.expected: dict[str, float] = {}
        self.behind = self.elapsed = 0.0
        self.part, self.started = "", time.monotonic()

    def expect(self, parts: Mapping[str, float]) -> None:
        """These parts are to come, with their seconds."""
        self.expected.update(parts)

    def enter(self, part: str) -> None:
        """A part starts, and with it the one before is done."""
        if self.part in self.expected:
            self.behind += self.expected.pop(self.part)
            self.elapsed += time.monotonic() - self.started
        self.part, self.started = part, time.monotonic()
        if self.live:
            self.share(0.0)
        else:
            self.say(part)

    def share(self, done: float) -> None:
        """This share of the current part is done."""
        here, ahead = self.expected.get(self.part, 0.0), sum(self.expected.values())
        behind = self.behind + done * here
        elapsed = self.elapsed + (time.monotonic() - self.started if here else 0.0)
        pace = elapsed / behind if behind else 1.0
        eta = f"  ETA {clock(pace * (ahead - done * here))}" if ahead else ""
        self.show(f"{100 * done:.0f} %{eta}", self.part)


def in_threads(
    items: Sequence[Item], work: Callable[[Item], Result], threads: int, line: Line, what: str
) -> Iterator[tuple[Item, Result]]:
    """Every item with what ``work`` makes of it, in order; ``line`` shows the time left.

    The first exception of ``work`` is raised, and what has not begun by then is not done.
    """
    from concurrent.futures import ThreadPoolExecutor  # only where there are threads

    started, pool = time.monotonic(), ThreadPoolExecutor(threads)
    try:
        for done, pair in enumerate(zip(items, pool.map(work, items), strict=True), start=1):
            left = (time.monotonic() - started) / done * (len(items) - done)
            line.show(f"{what} {done}/{len(items)}  ETA {clock(left)}")
            yield pair
    finally:
        pool.shutdown(cancel_futures=True)
        line.close()


def silence_lightning() -> None:
    """Lightning's own lines go where the root logger's go: into run.log, not onto the screen."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.captureWarnings(True)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
