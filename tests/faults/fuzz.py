"""Hostile values for every key and hostile bytes in every kind of file end in one sentence.

    python tests/faults/fuzz.py --inputs 1000 --folder outputs/fuzz

Each input is a whole command line in a forked process. For keys and words its job does nothing; for
files the job runs inside that process. It must end with exit code 0, 2 or 3 and no trace, within
``--seconds`` of its own time: what it waits for a busy core does not count. A refusal must be one
line, nothing of the input may run, no other file may change, and what a command makes of a damaged
folder is what it makes of a whole one. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import hostile  # noqa: E402
from faults.commands import content, results  # noqa: E402

from pixelwizard import worker  # noqa: E402
from pixelwizard.cli.main import main as pixelwizard  # noqa: E402

PRELOADED = (
    *("pixelwizard.generation.predict", "pixelwizard.evaluation.evaluate", "matplotlib.pyplot"),
    *("pixelwizard.training.train", "pixelwizard.training.encode", "pixelwizard.comparison.page"),
    "transformers.models.umt5.modeling_umt5",
)
MEMORY = 16 << 30
"""No input may take more address space than this."""


@dataclass(frozen=True)
class Case:
    """A command line in a folder; ``same`` as in ``hostile.Made``."""

    folder: Path
    words: Sequence[str]
    runs: bool = False
    same: str = ""
    what: str = ""


def case(inputs: Path | None, folder: Path, draw: random.Random) -> Case:
    """Lay out a folder with something hostile, and the command that meets it.

    Without ``inputs`` it is a value of a key, a word, or a file that a user writes.
    """
    folder.mkdir()
    os.mkfifo(folder / "prompts.fifo")
    kind = draw.choice(("key", "key", "word", "new", "new") + ("made",) * (2 if inputs else 0))
    if kind == "key":
        return Case(folder, hostile.key_words(draw))
    if kind == "word":
        return Case(folder, hostile.odd_words(draw))
    if inputs is None or kind == "new":
        name, (words, data) = draw.choice(list(hostile.NEW.items()))
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        how = hostile.damage(place, draw)
        words = [*words, *hostile.LITTLE, "run_dir=run"]
        return Case(folder, words, inputs is not None, what=f"{name} {how}")
    made = draw.choice(hostile.MADE)
    shutil.rmtree(folder)
    hostile.lay_out(inputs, folder)
    there = sorted(path for path in folder.glob(made.files) if path.is_file())
    place = draw.choice([path for path in there if path.suffix not in (".log", ".txt", ".png")])
    how = hostile.damage(place, draw)
    return Case(folder, made.words, True, made.same, f"{place.relative_to(folder)} {how}")


def answer(case: Case) -> int:
    """In the forked process: the command line and its job."""
    os.chdir(case.folder)
    sys.stdout = sys.stderr = open("said", "w", encoding="utf-8", errors="surrogateescape")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    os.environ.update(HOME=str(case.folder), XDG_CACHE_HOME=str(case.folder / "cache"))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    run = worker.run if case.runs else no_job
    import_module("pixelwizard.launch.launch").launch = lambda place, ranks=1: run(place)
    try:
        return pixelwizard(list(case.words))
    except BaseException:
        traceback.print_exc()
        return 1


def no_job(folder: Path) -> int:
    """A job that does nothing: only what comes before it is tried."""
    return 0


def judged(case: Case, seconds: float, calm: Path | None = None) -> str:
    """Run one input; what is wrong with its answer, or nothing."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            code = answer(case)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    started, ended, status = time.monotonic(), 0, 0
    while not ended:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended and time.monotonic() - started - waited(pid) > seconds:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"no end within {seconds} s"
        time.sleep(0.005)
    said = (case.folder / "said").read_text("utf-8", "replace")
    return _wrong(case, os.waitstatus_to_exitcode(status), said, calm)


def waited(pid: int) -> float:
    """The seconds for which a process could have run, but no core was free."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _wrong(case: Case, code: int, said: str, calm: Path | None) -> str:
    if "Traceback" in said or code not in (0, 2, 3):
        return f"code {code}: {said[-700:]}"
    refusals = [line for line in said.splitlines() if line.startswith("pixelwizard: ")]
    if code == 2 and (not refusals or len(refusals[-1]) > 700 or "\x1b" in said):
        return f"code 2 without one sentence: {said[-700:]!r}"
    if any(case.folder.rglob("pwned")):
        return "something of the input ran"
    if code == 0 and case.same and calm is not None:
        whole = {p.name: content(p) for p in calm.glob(case.same)}
        found = {p.name: content(p) for p in case.folder.glob(case.same) if p.is_file()}
        differ = sorted(name for name in whole if found.get(name, whole[name]) != whole[name])
        if differ:
            return f"silently other results: {differ}; {said[-300:]}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try as many inputs; 0 if every answer was right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, required=True, help="new; what failed stays in it")
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    inputs, here = given.folder.resolve() / "inputs", given.folder.resolve() / "here"
    hostile.prepare_all(here)  # settings name their folders: every input has this one
    here.rename(inputs)
    for name in PRELOADED:
        import_module(name)
    before, draw, wrong, kinds = results(inputs), random.Random(given.seed), 0, Counter[str]()
    for number in range(given.inputs):
        one = case(inputs, here, draw)
        kinds[one.what.rpartition(" ")[2] or "words"] += 1
        if number % 100 == 99:
            print(f"{number + 1} inputs, {wrong} faults so far", flush=True)
        if found := judged(one, given.seconds, inputs):
            wrong += 1
            print(f"FAULT {number}: {one.what} {list(one.words)!r}\n  {found}", flush=True)
            here.rename(inputs.parent / f"{number:04}")
        else:
            shutil.rmtree(here)
    if results(inputs) != before:
        wrong += 1
        print("FAULT the shared inputs have changed")
    print(dict(kinds))
    print(f"{given.inputs} inputs, {wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
