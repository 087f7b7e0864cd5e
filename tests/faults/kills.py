"""Kills at random moments change nothing: the same command ends in the same files.

    python tests/faults/kills.py --kills 100 --folder outputs/kills
    python tests/faults/kills.py --twice 20 --folder outputs/twice

A command runs undisturbed, then in another folder with its parent, its worker, its ffmpeg or all of
it killed (SIGKILL) or the parent interrupted (SIGINT), until it ends. Then the files of both are
compared, and no process and no temporary file may be left. ``--twice`` starts a command twice at
once: one works, the other says who holds the folder. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.commands import gone, kill, left_over, results, start  # noqa: E402

SIZE = ["resolution.frames=17", "resolution.width=128", "resolution.height=64", "tracker=none"]
TEXTS = ["--prompt", "a red circle moves left", "--prompt", "a blue square grows"]
VIDEOS = [*TEXTS, *SIZE, "metrics=none", "anchor.steps=12", "store.dir=store"]
CLIPS = ["data=clips", "data.dir=clips", "data.captions=clips/table.csv"]
TASKS = {
    "generate": [*VIDEOS, "run_dir=run"],
    "sweep": ["-m", *VIDEOS, "seed=0,1", "schedule=shortcut4,euler4", "sweep_dir=run"],
    "joblib": ["-m", *VIDEOS, "seed=0,1", "hydra/launcher=joblib", "sweep_dir=run"],
    "train": [
        *("train", "experiment=train_tiny_anchor", *SIZE, "run_dir=run", "data.dir=data"),
        *("data.count=8", "data.held_out=2", "data.shard=4", "data.ready=4", "objective.batch=2"),
        *("trainer.max_steps=12", "checkpoint.every=3"),
    ],
    "encode": ["encode", *CLIPS, *SIZE[:3], "data.held_out=1", "run_dir=run"],
    "evaluate": ["evaluate", "videos=clips", "metrics=tiny", "run_dir=run"],
    "compare": ["compare", "made", "out=run"],
}
"""Task -> its command line, over the inputs that ``prepare`` makes."""
NEEDY = {"encode", "evaluate", "compare"}
"""Tasks that need the inputs."""
WHOM = ("parent", "worker", "ffmpeg", "all", "interrupt")


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, where: Path, what: str) -> None:
        self.faults.append(f"{where}: {what}")
        print(f"FAULT {self.faults[-1]}", flush=True)


def prepare(folder: Path) -> None:
    """A sweep to compare, and its videos with their captions to encode and score."""
    folder.mkdir(parents=True)
    words = ["-m", *VIDEOS[:-1], "store.dir=kept", "schedule=shortcut4,unipc50", "sweep_dir=made"]
    assert start(folder, words, folder / "log").wait() == 0, (folder / "log").read_text()
    clips = folder / "clips"
    clips.mkdir()
    rows = ["file,text"]
    for place in sorted((folder / "made").glob("*/videos/*.mp4")):
        name = f"{len(rows)}.mp4"
        shutil.copy(place, clips / name)
        rows.append(f"{name},a red circle")
    (clips / "table.csv").write_text("\n".join(rows) + "\n")


def undisturbed(inputs: Path, folder: Path, words: Sequence[str]) -> float:
    """Run a command once; its seconds."""
    shutil.copytree(inputs, folder)
    started = time.monotonic()
    process = start(folder, list(words), folder / "log")
    assert process.wait() == 0, (folder / "log").read_text()
    return time.monotonic() - started


def disturbed(
    inputs: Path, folder: Path, task: str, seconds: float, moments: random.Random, tally: Tally
) -> None:
    """Kill a command once or more often, let it end, and compare with ``inputs`` + ``task``."""
    shutil.copytree(inputs, folder)
    for _ in range(moments.choice((1, 1, 2, 3))):
        process = start(folder, TASKS[task], folder / "log")
        whom, moment = moments.choice(WHOM), moments.uniform(0.05, 0.9) * seconds
        deadline = time.monotonic() + moment
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        hit = False
        while process.poll() is None and not hit:  # until there is one to strike
            hit = _strike(folder, whom, process.pid)
        tally.kills += hit
        code = process.wait(300)
        print(f"{task}: {whom} after {moment:.1f} s{'' if hit else ' (missed)'}: {code}")
        if left := gone(folder):
            tally.fault(folder, f"left running: {left}")
    code = start(folder, TASKS[task], folder / "log").wait(600)
    if code:
        tally.fault(folder, f"the last run ended with code {code}")
    _compare(inputs.parent / f"{task}-calm", folder, tally)


def _strike(folder: Path, whom: str, parent: int) -> bool:
    if whom != "interrupt":
        return kill(folder, whom, parent)
    os.kill(parent, signal.SIGINT)
    return True


def _compare(calm: Path, folder: Path, tally: Tally) -> None:
    if left := gone(folder):
        tally.fault(folder, f"left running: {left}")
    if files := left_over(folder):
        tally.fault(folder, f"left over: {files}")
    if "Traceback" in (folder / "log").read_text("utf-8", "replace"):
        tally.fault(folder, "a trace in its log")
    one, other = results(calm), results(folder)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    if differ:
        tally.fault(folder, f"differs in {differ}")


def twice(inputs: Path, folder: Path, task: str, tally: Tally) -> None:
    """Start a command twice at once: one works, the other names the folder; nothing is spoilt."""
    shutil.copytree(inputs, folder)
    started = [start(folder, TASKS[task], folder / f"log{n}") for n in (1, 2)]
    codes = [process.wait(600) for process in started]
    said = [(folder / f"log{n}").read_text("utf-8", "replace") for n in (1, 2)]
    refused = [text for code, text in zip(codes, said, strict=True) if code == 2]
    if sorted(codes) not in ([0, 2], [0, 0]) or any("in use" not in text for text in refused):
        tally.fault(folder, f"codes {codes}: {said}")
    (folder / "log").write_text("".join(said))
    for n in (1, 2):
        (folder / f"log{n}").unlink()
    _compare(inputs.parent / f"{task}-calm", folder, tally)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 if there was no fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, required=True, help="new; it stays")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--twice", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    tally, moments, inputs = Tally(), random.Random(given.seed), given.folder.resolve() / "inputs"
    if NEEDY & set(given.tasks):
        prepare(inputs)
    inputs.mkdir(parents=True, exist_ok=True)
    seconds = {
        task: undisturbed(inputs, inputs.parent / f"{task}-calm", TASKS[task])
        for task in given.tasks
    }
    number = 0
    while tally.kills < given.kills:
        task = given.tasks[number % len(given.tasks)]
        folder = inputs.parent / f"{task}-{number}"
        disturbed(inputs, folder, task, seconds[task], moments, tally)
        number += 1
    for number in range(given.twice):
        task = given.tasks[number % len(given.tasks)]
        twice(inputs, inputs.parent / f"{task}-twice-{number}", task, tally)
    print(f"{tally.kills} kills, {given.twice} times twice at once, {len(tally.faults)} faults")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
