"""Kills at random moments change nothing: the same command ends in the same files.

    python tests/faults/kills.py --kills 100 --folder outputs/kills
    python tests/faults/kills.py --twice 20 --folder outputs/twice

A command runs undisturbed while its processes are watched. In another folder it is started again
and again, and each time one of its processes, or all of them, are killed (SIGKILL), or it is
interrupted (SIGINT, SIGTERM, Ctrl-C for the whole group), at a random moment of their lives; then
it runs to its end. The files of both folders are compared, and no process, no lock and no temporary
file may be left. Only kills that met a living process count. ``--twice`` starts a command twice at
once: one works, the other says who holds the folder. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.commands import gone, left_over, results, roles, start  # noqa: E402

SIZE = ["resolution.frames=17", "resolution.width=128", "resolution.height=64"]
SMALL = [*SIZE, "tracker=none"]
TEXTS = ["--prompt", "a red circle moves left", "--prompt", "a blue square grows"]
VIDEOS = [*TEXTS, *SMALL, "metrics=none", "anchor.steps=12", "store.dir=store"]
RANKS = [*TEXTS, *SIZE, "anchor.steps=12", "store.dir=store", "run_dir=run"]
CLIPS = ["data=clips", "data.dir=clips", "data.captions=clips/table.csv"]
TASKS = {
    "generate": [*VIDEOS, "run_dir=run"],
    "sweep": ["-m", *VIDEOS, "seed=0,1", "schedule=shortcut4,euler4", "sweep_dir=run"],
    "joblib": ["-m", *VIDEOS, "seed=0,1", "hydra/launcher=joblib", "sweep_dir=run"],
    "guidance": [*RANKS, "parallel=guidance"],
    "ulysses": [*RANKS, "parallel=ulysses", "parallel.sequence=3"],
    "train": [
        *("train", "experiment=train_tiny_anchor", *SIZE, "tracker=csv", "run_dir=run"),
        *("data.dir=data", "data.count=8", "data.held_out=2", "data.shard=4", "data.ready=4"),
        *("objective.batch=2", "trainer.max_steps=12", "trainer.log_every_n_steps=2"),
        *("trainer.max_time=null", "checkpoint.every=3"),
        *("samples.every=6", "samples.count=1", "anchor.steps=2"),
    ],
    "encode": ["encode", *CLIPS, *SIZE, "data.held_out=1", "run_dir=run"],
    "evaluate": ["evaluate", "videos=clips", "metrics=tiny", "run_dir=run"],
    "compare": ["compare", "made", "out=run", "tracker=none"],
}
"""Task -> its command line, over the inputs that ``prepare`` makes."""
NEEDY = {"encode", "evaluate", "compare"}
"""Tasks that need the inputs."""
SIGNALS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "ctrl-c": signal.SIGINT}
HOLDER = re.compile(r"=\S+ is in use by process \d+ on \S+ since \S+ \S+ \(.+\)")
"""What a second start is told."""
MOST = 4
"""So many kills before a command may run to its end."""


@dataclass
class Tally:
    """What happened: (task, whom) -> kills, starts that ended before their kill, and faults."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, where: Path, what: str) -> None:
        self.faults.append(f"{where}: {what}")
        print(f"FAULT {self.faults[-1]}", flush=True)


@dataclass
class Life:
    """When processes of a role are there: seconds after the start, and how long one lives."""

    begin: float
    end: float
    longest: float = 0.0


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


def lay_out(inputs: Path, folder: Path, task: str) -> None:
    """A new folder for a command, with the inputs if it needs them."""
    if task in NEEDY:
        shutil.copytree(inputs, folder)
    else:
        folder.mkdir(parents=True)


def undisturbed(inputs: Path, folder: Path, task: str) -> dict[str, Life]:
    """Run a command once; when its processes live, by their roles."""
    lay_out(inputs, folder, task)
    process, lives, seen = start(folder, TASKS[task], folder / "log"), {}, {}
    begin = time.monotonic()
    while process.poll() is None:
        now = time.monotonic() - begin
        for role, numbers in roles(folder, process.pid).items():
            life = lives.setdefault(role, Life(now, now))
            life.end = now
            for number in numbers:
                life.longest = max(life.longest, now - seen.setdefault(number, now))
        time.sleep(0.02)
    assert process.returncode == 0, (folder / "log").read_text()
    lives.pop("other", None)
    whole = lives["parent"]
    return {**lives, **dict.fromkeys(("all", *SIGNALS), whole)}


def strike(
    folder: Path, process: subprocess.Popen[bytes], whom: str, life: Life, moments: random.Random
) -> bool:
    """Kill or interrupt at a moment of ``life``; False if the command ended before."""
    wait_until(process, time.monotonic() + moments.uniform(life.begin, life.end))
    role = whom if whom not in ("all", *SIGNALS) else "parent"
    while process.poll() is None:
        living = roles(folder, process.pid)
        if not living.get(role):
            continue
        chosen = moments.choice(living[role])
        if role != "parent":  # now, or later in its life
            wait_until(process, time.monotonic() + moments.uniform(0.0, life.longest))
            living = roles(folder, process.pid)
            if chosen not in living.get(role, []):
                continue
        try:
            if whom == "ctrl-c":
                os.killpg(process.pid, signal.SIGINT)
            elif whom == "all":
                for number in sum(living.values(), []):
                    os.kill(number, signal.SIGKILL)
            else:
                os.kill(chosen, SIGNALS.get(whom, signal.SIGKILL))
        except ProcessLookupError:
            continue
        return True
    return False


def wait_until(process: subprocess.Popen[bytes], moment: float) -> None:
    """Wait, but not longer than the process lives."""
    while time.monotonic() < moment and process.poll() is None:
        time.sleep(0.005)


def disturbed(
    inputs: Path,
    folder: Path,
    task: str,
    lives: dict[str, Life],
    moments: random.Random,
    tally: Tally,
) -> None:
    """Kill a command several times, let it end, and compare with the undisturbed one."""
    lay_out(inputs, folder, task)
    before = len(tally.faults)
    for _ in range(moments.randint(1, MOST)):
        there = left_over(folder)  # a killed parent cannot tidy up
        process = start(folder, TASKS[task], folder / "log")
        whom = moments.choice(sorted(lives))
        hit = strike(folder, process, whom, lives[whom], moments)
        code = process.wait(300)
        print(f"{folder.name}: {whom}{'' if hit else ' (missed)'}: {code}", flush=True)
        if left := gone(folder):
            tally.fault(folder, f"left running: {left}")
        if code == 1:
            tally.fault(folder, "ended with code 1")
        if whom in SIGNALS and (files := set(left_over(folder)).difference(there)):
            tally.fault(folder, f"left over after {whom}: {files}")
        tally.kills[task, whom] += hit
        tally.missed += not hit
        if code == 0:
            break
    else:
        code = start(folder, TASKS[task], folder / "log").wait(600)
    if code:
        tally.fault(folder, f"the last run ended with code {code}")
    _compare(inputs.parent / f"{task}-calm", folder, tally)
    if len(tally.faults) == before:
        shutil.rmtree(folder)


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
    """Start a command twice at once: one works, the other names its holder; nothing is spoilt."""
    lay_out(inputs, folder, task)
    logs = [folder / "log1", folder / "log2"]
    started = [start(folder, TASKS[task], log) for log in logs]
    codes = [process.wait(600) for process in started]
    said = [log.read_text("utf-8", "replace") for log in logs]
    print(f"{folder.name}: {codes}", flush=True)
    refused = [text for code, text in zip(codes, said, strict=True) if code == 2]
    if sorted(codes) != [0, 2] or not HOLDER.search(refused[0]):
        tally.fault(folder, f"codes {codes}: {said}")
    (folder / "log").write_text("".join(said))
    for log in logs:
        log.unlink()
    before = len(tally.faults)
    _compare(inputs.parent / f"{task}-calm", folder, tally)
    if len(tally.faults) == before:
        shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 if there was no fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, required=True, help="new; what failed stays in it")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--twice", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    tally, moments, inputs = Tally(), random.Random(given.seed), given.folder.resolve() / "inputs"
    if NEEDY & set(given.tasks):
        prepare(inputs)
    lives = {}
    for task in given.tasks:
        lives[task] = undisturbed(inputs, inputs.parent / f"{task}-calm", task)
        print(task, {role: f"{x.begin:.1f}-{x.end:.1f} s" for role, x in lives[task].items()})
    number = 0
    while tally.kills.total() < given.kills:
        task = given.tasks[number % len(given.tasks)]
        folder = inputs.parent / f"{task}-{number}"
        disturbed(inputs, folder, task, lives[task], moments, tally)
        number += 1
    for number in range(given.twice):
        task = given.tasks[number % len(given.tasks)]
        twice(inputs, inputs.parent / f"{task}-twice-{number}", task, tally)
    for (task, whom), count in sorted(tally.kills.items()):
        print(f"{task:10} {whom:10} {count}")
    print(
        f"{tally.kills.total()} kills ({tally.missed} starts ended before theirs),"
        f" {given.twice} times twice at once, {len(tally.faults)} faults"
    )
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
