"""VBench's dimensions for any videos: run by its own program, or read from its result files.

Huang et al., arXiv 2311.17982; the package ``vbench`` (Apache-2.0, its networks under their own
licences). ``vbench evaluate --mode custom_input`` writes NAME_eval_results.json: by dimension the
mean and a value for each video. The whole score is the mean of the six dimensions.

The package cannot share an environment with this one, so its program is called. Each dimension is
one call, over the videos that have no value yet.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from pixelwizard.config.output import VBENCH
from pixelwizard.evaluation.files import Clip, result_folder
from pixelwizard.evaluation.imported import Imported
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.io.files import file_digest, read_file, text_digest, write_text

log = logging.getLogger(__name__)
RESULTS = "_eval_results.json"
STOP_SECONDS = 30.0
"""How long an interrupted program may take to end; then it is killed."""


class VBench(Imported):
    """One dimension, or the mean of all six; 0..1, more is better."""

    pattern = f"*{RESULTS}"

    def __init__(self, dimension: str = "") -> None:
        super().__init__()
        self.dimension = dimension
        if not dimension:
            self.lacking = "has all six dimensions of none of the videos"

    def prepare(self, given: Given) -> None:
        """Compute what is missing if there is a program, then read the files."""
        self.convention = f"vbench-custom_input/{self.dimension or 'mean6'}/imported/n={{n}}"
        if given.settings.vbench and self.dimension:
            known = self.values_of(given.clips)
            self.compute_missing(given, [clip for clip in given.clips if clip.id not in known])
        super().prepare(given)

    def compute_missing(self, given: Given, clips: Sequence[Clip]) -> None:
        """Run the program over the clips of each folder, and keep what it writes.

        Raises ValueError where it has no result.
        """
        started = time.monotonic()
        for folder in sorted({result_folder(clip.path) for clip in clips}):
            own = {_own_name(c): c.path for c in clips if result_folder(c.path) == folder}
            given.show(f"VBench {self.dimension} of {len(own)} videos", "")
            text = _run(str(given.settings.vbench), self.dimension, own)
            name = f"{self.dimension}-{text_digest(''.join(own))[:8]}{RESULTS}"
            write_text(folder / name, text)
        if clips:
            self.warnings.append(f"VBench took {time.monotonic() - started:.0f} s")

    def names(self, clip: Clip) -> list[str]:
        """A value for this very file comes before one for its name."""
        return [_own_name(clip), *super().names(clip)]

    def read(self, files: Sequence[Path]) -> dict[str, float]:
        """The values of the dimension; a mean needs all six of a video."""
        found = [_values(files, name) for name in ([self.dimension] if self.dimension else VBENCH)]
        shared = set(found[0]).intersection(*found)
        return {id: fmean(values[id] for values in found) for id in shared}


def _own_name(clip: Clip) -> str:
    """What a video is called in the program's results: a changed file has another name."""
    return f"{clip.path.stem}.{file_digest(clip.path)[:16]}"


def _values(files: Sequence[Path], dimension: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for file in files:
        try:
            results: Any = json.loads(read_file(file))
            for one in results.get(dimension, [0, []])[1]:
                value = float(one["video_results"])
                if not math.isfinite(value):
                    raise ValueError(value)
                # of imaging quality only the mean is divided by 100
                scale = 100 if dimension == "imaging_quality" else 1
                found[Path(one["video_path"]).stem] = value / scale
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"{file.name} is not a result file of VBench") from error
    return found


def _run(program: str, dimension: str, videos: dict[str, Path]) -> str:
    """The result file of one dimension, by the name that each video gets.

    The program gives its arguments to a shell, so it gets links in a folder of a plain name; it
    takes only .mp4. It ends with code 0 even if it failed. Raises ValueError if it has no result.
    """
    with TemporaryDirectory() as place:
        folder, out, said = (Path(place) / name for name in ("videos", "out", "said"))
        folder.mkdir()
        for name, path in videos.items():
            (folder / f"{name}.mp4").symlink_to(path.resolve())
        command = [program, "evaluate", "--mode", "custom_input", "--dimension", dimension]
        command += ["--videos_path", str(folder), "--output_path", str(out)]
        code = _call(command, said)
        results = sorted(out.glob(f"*{RESULTS}"))
        if code == 0 and results:
            return read_file(results[-1])
        text = said.read_text(encoding="utf-8", errors="replace")
    log.error("%s said:\n%s", program, text)
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
    raise ValueError(f"VBench wrote no result; it ended with code {code} and said: {last[:160]}")


def _call(command: Sequence[str], said: Path) -> int:
    """Run a program of another environment to its end; its exit code, its output in a file.

    It finds its own Python first. Its processes end with an interrupted call.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    own = Path(command[0]).resolve().parent
    environment["PATH"] = f"{own}{os.pathsep}{environment.get('PATH', os.defpath)}"
    with open(said, "wb") as out:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
