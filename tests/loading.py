"""What loading a transformer costs in host memory, measured in a process of its own.

``python tests/loading.py FOLDER`` writes a random checkpoint of the full size (10 GB in bfloat16)
into FOLDER, loads it and removes it; ``tests/test_loading.py`` does the same with a small one.
Anonymous memory is what a process holds besides mapped files, which the system can drop.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import torch

from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.files import save
from pixelwizard.models.weights import load_anchor, shapes_of, write_config

SECONDS_BETWEEN = 0.002


def anonymous_bytes() -> int:
    """The anonymous resident memory of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def write_random(folder: Path, sizes: DiTSizes) -> int:
    """Write random bfloat16 weights of a transformer, a tensor at a time; their bytes."""
    with torch.device("meta"):
        shapes = shapes_of(WanDiT(sizes))
    tensors = {
        name: (0.02 * torch.randn(1, *shape[1:])).expand(shape) for name, shape in shapes.items()
    }
    write_config(sizes, folder)
    path = folder / NAMES["anchor"][0]
    save(tensors, path, torch.bfloat16)
    return path.stat().st_size


def measure(folder: Path, sizes: DiTSizes) -> dict[str, float]:
    """Load the transformer of ``folder`` in this process: seconds, and anonymous bytes above.

    What the first network on the meta device makes torch import, whatever its size, is ``fixed``.
    """
    backbone = BackboneSettings(name="random", folder=str(folder), dit=sizes)
    start = anonymous_bytes()
    with torch.device("meta"):
        WanDiT(DiTSizes(dim=8, ffn_dim=8, num_heads=2, num_layers=1))
    before = peak = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SECONDS_BETWEEN):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    network = load_anchor(backbone, "cpu", torch.bfloat16)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    after = anonymous_bytes()
    weights = sum(weight.nbytes for weight in network.parameters())
    return {
        "weights": weights,
        "fixed": before - start,
        "peak_above": max(peak, after) - before,
        "after_above": after - before,
        "seconds": seconds,
    }


def measured_apart(folder: Path, sizes: DiTSizes) -> dict[str, float]:
    """``measure`` in a fresh process."""
    command = [sys.executable, __file__, "--measure", str(folder), json.dumps(asdict(sizes))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(Path(sys.argv[2]), DiTSizes(**json.loads(sys.argv[3])))))
        return
    folder = Path(sys.argv[1])
    try:
        print(f"{write_random(folder, DiTSizes()) / 1e9:.2f} GB written")
        print(json.dumps(measured_apart(folder, DiTSizes())))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
