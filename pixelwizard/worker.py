"""One rank of one job: ``python -m pixelwizard.worker RUN_DIR`` reads the config, runs and exits.

Exit codes: 0 done, 2 the user's mistake, 3 some prompts failed, 1 a defect, 128 + signal number
when interrupted. Networks are imported only once there is something for them to do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelwizard.config import tasks
from pixelwizard.config.parallel import mesh_of_world
from pixelwizard.config.targets import search_in
from pixelwizard.io.files import disk_full, is_full, remove_unfinished, write_text
from pixelwizard.io.process import (
    SOME_FAILED,
    USER_ERROR,
    Interrupted,
    ProcessLost,
    importing,
    interruptible,
    settle_streams,
)
from pixelwizard.io.terminal import reason, say
from pixelwizard.io.video import VideoError
from pixelwizard.records.run_folder import (
    CONFIG,
    OVERRIDES,
    Failure,
    WorkStopped,
    is_lost_rank,
    is_out_of_memory,
    locked,
)

if TYPE_CHECKING:
    from pixelwizard.parallel.mesh import Rank

log = logging.getLogger(__name__)

LOST_RANK = "another rank of this job is gone"
LOST_READER = (
    "a process that reads examples was killed, perhaps for want of memory; fewer data.workers need"
    " less, and the same command continues"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job of a run folder; the exit code."""
    settle_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: python -m pixelwizard.worker RUN_DIR", file=sys.stderr)
        return USER_ERROR
    return run(Path(arguments[0]))


def run(folder: Path, claimed: str = "") -> int:
    """Run the job of ``folder``; what goes wrong becomes a sentence on stderr and an exit code."""
    try:
        with session(folder, claimed) as (config, rank):
            return _worked(config, rank)
    except Interrupted as interruption:
        say(f"{interruption}; everything finished is kept, the same command continues")
        return interruption.exit_code
    except Exception as error:
        return _explain(error, folder)


@contextlib.contextmanager
def session(folder: Path, claimed: str = "") -> Iterator[tuple[Any, Rank | None]]:
    """The configuration of a run folder, and this process as one of its ranks (None: it is alone).

    Inside, the folder is locked, signals raise ``Interrupted``, and log records go to a file
    in it. An error leaves its reason there. ``claimed`` is the configuration that its command has
    written.
    """
    number = _rank()
    command = folder / OVERRIDES
    text = command.read_text("utf-8", "replace").strip() if command.is_file() else ""
    lock = contextlib.nullcontext() if number else locked(folder, text)
    with interruptible() as heard, lock, logging_to(folder / _log_name(number)):
        if number == 0:
            Failure.forget(folder)
            remove_unfinished(folder, "**/*")
            if claimed:
                write_text(folder / CONFIG, claimed)
        try:
            config = tasks.load(folder / CONFIG)
            search_in(config.search)
            for name in config.verbose:
                logging.getLogger(name).setLevel(logging.DEBUG)
            for sentence in config.replaced:
                log.info("%s", sentence)
            with _as_rank(config) as rank:
                yield config, rank
        except Exception as error:
            if not heard:
                log.exception("the run stopped")
                _leave_reason(folder, error)
            raise


def _worked(config: Any, rank: Rank | None) -> int:
    """Do the task of a configuration. Raises WorkStopped if a helper process was lost."""
    try:
        with importing():
            work = work_of(config)
        return work(config, rank)
    except (VideoError, ProcessLost) as error:
        raise WorkStopped(f"{error}; the same command continues") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch says this of one that is gone
            raise
        raise WorkStopped(LOST_READER) from error


def work_of(config: Any) -> Callable[[Any, Rank | None], int]:
    """The function of a task, which returns the exit code; its libraries are imported only now."""
    if config.task == "generate":
        from pixelwizard.generation.run import generate

        return generate
    if config.task == "train" and config.comparison.budget is not None:
        from pixelwizard.comparison.few_step.run import train_compared

        return train_compared
    if config.task == "train":
        from pixelwizard.training.train import train

        return train
    if config.task == "bench":
        from pixelwizard.bench.run import bench

        return lambda config, rank: bench(config)
    if config.task == "evaluate":
        from pixelwizard.evaluation.evaluate import evaluate

        return lambda config, rank: evaluate(config)
    assert config.task == "encode"
    from pixelwizard.training.encode import encode

    return lambda config, rank: encode(config)


@contextlib.contextmanager
def _as_rank(config: Any) -> Iterator[Rank | None]:
    """This process as the rank it was started as; None if it is alone."""
    if config.task not in ("generate", "train"):
        yield None
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    mesh = mesh_of_world(config.parallel, config.backbone.dit.num_heads, world, config.guided)
    if mesh.world == 1:
        yield None
        return
    from pixelwizard.parallel.mesh import joined

    with joined(mesh) as rank:
        try:
            yield rank
        except Exception as error:
            _leave_reason(Path(config.run_dir), error)  # before the others can miss this rank
            raise


def _explain(error: Exception, folder: Path) -> int:
    """Say why a job stopped; its exit code."""
    if isinstance(error, ValueError):
        say(str(error))
        return USER_ERROR
    if isinstance(error, OSError):
        if is_full(error) and not error.filename:  # a stream's error names no file
            error = disk_full(folder)
        where = f"{error.filename}: " if error.filename else ""
        say(f"the run cannot continue: {where}{reason(error)}; everything finished is kept")
        return USER_ERROR
    if isinstance(error, WorkStopped):
        say(f"{error}; everything finished is kept")
        return SOME_FAILED
    if is_lost_rank(error):
        cause = Failure.left_in(folder)
        why = f": {cause.reason}" if cause and cause.reason != LOST_RANK else ""
        say(f"{LOST_RANK}{why}; everything finished is kept")
        return SOME_FAILED
    say(f"{_name(error)} (the trace is in {folder / _log_name(_rank())})")
    return 1


def _leave_reason(folder: Path, error: Exception) -> None:
    """Write why the run stopped, unless another rank has: later failures follow from the first."""
    left = Failure.left_in(folder)
    if left is not None and left.reason != LOST_RANK:
        return
    clear = isinstance(error, (ValueError, WorkStopped))
    why = str(error) if clear else LOST_RANK if is_lost_rank(error) else _name(error)
    with contextlib.suppress(OSError):  # ranks may write at once, a disk may be full
        Failure(why, is_out_of_memory(error)).write(folder)


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send all log records to the file and none to the terminal."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level, others, raises = root.level, root.handlers[:], logging.raiseExceptions
    logging.raiseExceptions = False  # a log that cannot be written leaves no trace either
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        root.handlers[:], root.level = others, level
        logging.raiseExceptions = raises
        logging.captureWarnings(False)
        handler.close()


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _log_name(rank: int) -> str:
    return f"rank{rank}.log" if rank else "run.log"


if __name__ == "__main__":
    sys.exit(main())
