"""What a sweep costs beside its stages, and whether SIGKILL changes what comes out of it.

``python measure/sweep_cost.py FOLDER [--kills 3] [--prompts 1]``: 24 jobs, eight schedules of three
seeds, whole processes from the command line. The high-resolution stage is detail and decode.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

SCHEDULES = "shortcut4,shortcut_snapped4,shortcut2,shortcut8,euler4,unipc4,dpmpp4,unipc8"
PROMPTS = (
    "a yellow cross moves up over a black background",
    "a red triangle moves left over a brown background",
)


def command(folder: Path, prompts: int) -> list[str]:
    """The sweep, with a store of its own."""
    texts = [word for text in PROMPTS[:prompts] for word in ("--prompt", text)]
    words = ["-m", f"schedule={SCHEDULES}", "seed=0,1,2", "tracker=none", "metrics=none"]
    words += [f"sweep_dir={folder / 'sweep'}", f"store.dir={folder / 'store'}"]
    return [sys.executable, "-m", "pixelwizard", *texts, *words]


def cost(folder: Path, prompts: int) -> None:
    """Run the sweep undisturbed and print its seconds against those of its stages."""
    started = time.monotonic()
    subprocess.run(command(folder, prompts), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    records = list((folder / "sweep").glob("*/videos/*.json"))
    spent = {"detail": 0.0, "decode": 0.0, "anchor": 0.0}
    loads: set[tuple[Path, str, float]] = set()
    for path in records:
        for name, stage in json.loads(path.read_text())["stages"].items():
            if name in spent and not stage.get("reused"):
                spent[name] += stage["seconds"]
                loads.add((path.parent, name, stage["loading_seconds"]))
    loading, whole = sum(load for *_, load in loads), sum(spent.values())
    parts = ", ".join(f"{name} {took:.1f}" for name, took in spent.items())
    print(f"{len(records)} videos, {seconds:.1f} s; {parts}, loading {loading:.1f}")
    print(
        f"{seconds / (whole + loading):.3f} times the stages, {seconds / whole:.3f} without loading"
    )


def killed(folder: Path, prompts: int, kills: int, seconds: float) -> None:
    """Run the sweep, end it with SIGKILL at random moments, and let it finish."""
    moments = random.Random(11)
    for _ in range(kills):
        process = subprocess.Popen(command(folder, prompts), stdout=subprocess.DEVNULL)
        moment = moments.uniform(0.1, 0.9 / kills) * seconds
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        print(f"killed after {moment:.1f} s: {process.wait()}", flush=True)
        time.sleep(2)  # its worker takes the signal that its parent is gone
    subprocess.run(command(folder, prompts), check=True, stdout=subprocess.DEVNULL)


def contents(folder: Path) -> dict[str, bytes]:
    """Every video and every tensor of a sweep; what timing notes beside them is left out."""
    found = {}
    for path in (path for path in folder.rglob("*") if "report" not in path.parts):
        data = path.read_bytes() if path.suffix in (".mp4", ".safetensors") else None
        if data is not None and path.suffix == ".safetensors":
            data = data[8 + int.from_bytes(data[:8], "little") :]
        if data is not None:
            found[str(path.relative_to(folder))] = data
    return found


def main() -> None:
    """Cost first, then the kills."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=1)
    chosen = parser.parse_args()
    calm, disturbed = chosen.folder / "calm", chosen.folder / "killed"
    started = time.monotonic()
    cost(calm, chosen.prompts)
    seconds = time.monotonic() - started
    started = time.monotonic()
    report = [sys.executable, "-m", "pixelwizard", "compare", str(calm / "sweep"), "tracker=none"]
    subprocess.run(report, check=True, stdout=subprocess.DEVNULL)
    print(f"report: {time.monotonic() - started:.1f} s", flush=True)
    if chosen.kills:
        killed(disturbed, chosen.prompts, chosen.kills, seconds)
        same = contents(calm / "sweep") == contents(disturbed / "sweep")
        same &= contents(calm / "store") == contents(disturbed / "store")
        print(f"after {chosen.kills} kills the files are {'the same' if same else 'OTHERS'}")
        sys.exit(not same)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
