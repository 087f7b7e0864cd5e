"""Hostile values for every key and hostile bytes in every kind of file end in one sentence.

    python tests/faults/fuzz.py --inputs 1000 --folder outputs/fuzz

Each input is a whole command line in a forked process whose jobs run inside it. It must end within
``--seconds`` with exit code 0, 2 or 3 and no trace; a refusal must be one line, nothing of the
input may run, and no file that others share may change. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.commands import results  # noqa: E402
from faults.kills import SIZE, TASKS, prepare  # noqa: E402

from pixelwizard import worker  # noqa: E402
from pixelwizard.cli.main import main as pixelwizard  # noqa: E402
from pixelwizard.config import tasks  # noqa: E402
from pixelwizard.config.schema import types_of, visible  # noqa: E402
from pixelwizard.generation import predict  # noqa: E402, F401  # once, before the forks

RUNS = "{_target_: os.system, command: touch pwned}"
VALUES = (
    *("", "null", "[]", "{}", "[[1],2]", "{a: {b: c}}", "-1", "0", "3.5", "nan", "inf", "1e309"),
    *("99999999999999999999", "400001", "true", "yes please", "x" * 5000, "a,b", "glob(*)"),
    *("range(1,3)", "${oc.env:HOME}", "${run_dir}", "${", "???", "~", ".", "/", "/dev/null"),
    *("../..", "no/such/file", "'a\nb'", "'\x1b[31mred'", "'\u2028'", "é", RUNS),
    *("{_target_: pwned.Class}", "{_target_: 7}", "!!python/object:os.system", "'", '"', "\\"),
)
TEXT = (b"", b"\0" * 64, b"\xff\xfe\x00\xd8", b"[" * 100_000, b"{" * 100_000, b"\n" * 1000)
TEXT += (b"null", b"[1, 2", b'{"a": NaN}', b"!!python/object/apply:os.system ['touch pwned']")
TEXT += (b"a: &a [x]\n" + b"".join(b"a%d: &b%d [*a,*a,*a,*a]\n" % (n, n) for n in range(9)),)
FILES = {
    "prompts.txt": (["prompts=prompts.txt"], b"a red circle\n# a comment\n"),
    "prompts.csv": (["prompts=prompts.csv"], b"id,text,seed\nx,a red circle,1\n"),
    "prompts.jsonl": (["prompts=prompts.jsonl"], b'{"id": "x", "text": "a red circle"}\n'),
    "conf/schedule/mine.yaml": (["schedule=mine"], b"solver: euler\nsteps: 2\n"),
    "experiments/mine.yaml": (["experiments=mine"], b"# @package _global_\nseed: 1\n"),
}
"""A file in the working directory, the words that read it, and what a good one holds."""
MADE = {
    "clips/table.csv": TASKS["encode"],
    "clips/1.mp4": TASKS["evaluate"],
    "clips/2.mp4": ["replay", "clips/2.mp4", "run_dir=again"],
    "made/sweep.json": TASKS["compare"],
    "made/schedule=shortcut4/status.json": TASKS["compare"],
    "made/schedule=shortcut4/config.yaml": TASKS["compare"],
    "made/schedule=shortcut4/videos/001-a-red-circle-moves-left.json": TASKS["compare"],
}
"""A file that the program made, and the command that reads it."""


def keys(root: type, prefix: str = "") -> Iterator[str]:
    """Every key of a task."""
    hints = types_of(root)
    for field in visible(root):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        yield key
        if is_dataclass(hint):
            yield from keys(hint, f"{key}.")  # type: ignore[arg-type]


def words_of(draw: random.Random) -> list[str]:
    """A command with one hostile value, perhaps a second."""
    task = draw.choice([name for name in tasks.roots() if name not in ("fetch", "bench")])
    known = list(keys(tasks.roots()[task]))
    given = [f"{draw.choice(known)}={draw.choice(VALUES)}" for _ in range(draw.choice((1, 1, 2)))]
    return [task, *given]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A file's bytes: cut, with wrong bits, or others."""
    kind = draw.choice(("cut", "flip", "other", "twice"))
    if kind == "other" or not data:
        return draw.choice(TEXT)
    place = draw.randrange(len(data))
    if kind == "cut":
        return data[:place]
    if kind == "twice":
        return data[:place] + data
    flipped = bytearray(data)
    for _ in range(draw.choice((1, 8, 64))):
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def case(inputs: Path | None, folder: Path, draw: random.Random) -> list[str]:
    """Lay out a folder with something hostile; the command that meets it.

    Without ``inputs`` it is a value of a key, or a file that a user writes.
    """
    kind = draw.choice(("key", "key", "file", "made") if inputs else ("key", "file"))
    folder.mkdir()
    if kind == "key":
        return words_of(draw)
    if kind == "file":
        name, (words, data) = draw.choice(list(FILES.items()))
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(damaged(data, draw))
        return [*words, *SIZE, "anchor.steps=1", "schedule.steps=1", "metrics=none", "run_dir=run"]
    assert inputs is not None
    name, words = draw.choice(list(MADE.items()))
    shutil.copytree(inputs, folder, dirs_exist_ok=True)
    (folder / name).write_bytes(damaged((folder / name).read_bytes(), draw))
    return [*words]


def answer(folder: Path, words: Sequence[str], run: Callable[[Path], int]) -> int:
    """In the forked process: the command line, its jobs run by ``run``."""
    os.chdir(folder)
    sys.stdout = sys.stderr = open("said", "w", encoding="utf-8", errors="surrogateescape")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    os.environ["HOME"] = str(folder)
    for task in tasks.roots():
        module = import_module(f"pixelwizard.cli.tasks.{task}")
        if hasattr(module, "launch"):
            module.launch = lambda place, ranks=1: run(place)
    try:
        return pixelwizard(list(words))
    except BaseException:
        traceback.print_exc()
        return 1


def judged(folder: Path, words: Sequence[str], run: Callable[[Path], int], seconds: float) -> str:
    """Run one input; what is wrong with its answer, or nothing."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            code = answer(folder, words, run)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    deadline, ended, status = time.monotonic() + seconds, 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return f"no end within {seconds} s"
    code, said = os.waitstatus_to_exitcode(status), (folder / "said").read_text("utf-8", "replace")
    if "Traceback" in said or code not in (0, 2, 3):
        return f"code {code}: {said[-300:]}"
    refusals = [line for line in said.splitlines() if line.startswith("pixelwizard: ")]
    if code == 2 and (len(refusals) != 1 or len(refusals[0]) > 700 or "\x1b" in said):
        return f"code 2 without one sentence: {said[-700:]!r}"
    return "something of the input ran" if any(folder.rglob("pwned")) else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try as many inputs; 0 if every answer was right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, required=True, help="new; what failed stays in it")
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    inputs = given.folder.resolve() / "inputs"
    prepare(inputs)
    before, draw, wrong = results(inputs), random.Random(given.seed), 0
    for number in range(given.inputs):
        folder = inputs.parent / f"{number:04}"
        words = case(inputs, folder, draw)
        whole = words[0] not in tasks.roots() or words in MADE.values()
        run = worker.run if whole else no_job
        if found := judged(folder, words, run, given.seconds):
            wrong += 1
            print(f"FAULT {number}: {words!r}\n  {found}", flush=True)
        else:
            shutil.rmtree(folder)
    if results(inputs) != before:
        wrong += 1
        print("FAULT the shared inputs have changed")
    print(f"{given.inputs} inputs, {wrong} faults")
    return 1 if wrong else 0


def no_job(folder: Path) -> int:
    """A job that does nothing: only what comes before it is tried."""
    return 0


if __name__ == "__main__":
    sys.exit(main())
