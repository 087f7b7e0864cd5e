"""How large and deep the package is: lines, files from the command line to the mp4, stack depth.

Runs one small video in this process, the command line's part and then the worker's, and notes every
file of the package of which a function is called: until the mp4 stands, and until the run ends.
``python measure/structure.py [--package FOLDER]``.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

WORDS = ("resolution.frames=5", "anchor.steps=2", "schedule.steps=2", "tracker=none")
PROMPT = "a red circle moves left over a gray background"


class Walk:
    """The files and functions of the package that ran, and the stack at some places."""

    def __init__(self, package: Path, places: dict[str, tuple[str, str]]) -> None:
        self.package, self.places = f"{package}{os.sep}", places
        self.functions: set[tuple[str, str]] = set()
        self.until_mp4: set[tuple[str, str]] = set()
        self.depth: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(self.package):
            return
        if event == "return" and code.co_qualname == "VideoWriter.__exit__":
            self.until_mp4 = self.until_mp4 or set(self.functions)
        if event != "call" or code.co_name.startswith("<"):
            return
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a class, which an import runs
            return
        self.functions.add((code.co_filename[len(self.package) :], code.co_qualname))
        for name, (owner, function) in self.places.items():
            if code.co_name == function and owner in code.co_qualname:
                self.depth.setdefault(name, self._depth(frame))

    def _depth(self, frame: FrameType | None) -> tuple[int, int]:
        """Frames of the package, and of all others, from the entrance of the process to here."""
        own = other = 0
        while frame is not None:
            name = frame.f_code.co_filename
            own += name.startswith(self.package)
            other += not name.startswith(self.package) and name != __file__
            frame = frame.f_back
        return own, other


def product_lines(package: Path) -> tuple[int, int]:
    """Python files of the package and their lines."""
    files = sorted(package.rglob("*.py"))
    return len(files), sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def walk(package: Path) -> Walk:
    """Make one video under watch."""
    from pixelwizard import worker

    try:
        from pixelwizard.cli.main import main
        from pixelwizard.launch import launch as starts
    except ImportError:  # before the rooms were named by purpose
        from pixelwizard.commands import generate as starts

        from pixelwizard.cli import main

    places = {
        "the start of the worker": ("", "run"),
        "the sampling loop": ("", "sample"),
        "VideoWriter.write": ("VideoWriter", "write"),
    }
    found = Walk(package, places)
    folders: list[Path] = []
    starts.launch = lambda folder, *rest: folders.append(folder) or 0  # type: ignore
    with tempfile.TemporaryDirectory() as place, found.watching():
        words = [*WORDS, f"run_dir={place}/run", f"store.dir={place}/store"]
        assert main(["--prompt", PROMPT, *words]) == 0
        assert worker.run(folders[0]) == 0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, default=Path(__file__).parents[1] / "pixelwizard")
    package = parser.parse_args().package.resolve()
    sys.path.insert(0, str(package.parent))
    count, lines = product_lines(package)
    print(f"product: {count} files, {lines} lines")
    with contextlib.redirect_stdout(io.StringIO()):
        found = walk(package)
    for end, functions in (("mp4", found.until_mp4), ("end", found.functions)):
        files = {file for file, _ in functions}
        print(f"from command line to {end}: {len(files)} files, {len(functions)} functions")
    for name, (own, other) in found.depth.items():
        print(f"stack at {name}: {own} of the package, {other} others")
    print("files:", " ".join(sorted({file for file, _ in found.until_mp4})))


if __name__ == "__main__":
    main()
