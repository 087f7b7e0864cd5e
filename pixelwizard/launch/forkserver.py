"""Workers without their start: a process that has imported everything forks one per job.

``python -m pixelwizard.launch.forkserver FD``: for each line on stdin, a run folder as JSON, the
pid of its worker and later its exit code go to FD as lines. A worker is a process of its own all
the same: what ends it concerns its job alone. Nothing here touches a device before the fork, so
that CUDA starts in the worker.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path

from pixelwizard import worker
from pixelwizard.launch.parents import die_with_parent

PRELOAD = (
    *("pixelwizard.generation.predict", "pixelwizard.evaluation.evaluate", "wandb"),
    "transformers.models.umt5.modeling_umt5",
)
"""What a worker of ``generate`` would import first."""


def main() -> int:
    """Serve until stdin ends."""
    die_with_parent()
    replies = int(sys.argv[1])
    for name in PRELOAD:
        importlib.import_module(name)
    gc.freeze()  # the workers share these objects' pages as long as nobody counts through them
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            os.close(replies)
            _work(Path(json.loads(line)))
        os.write(replies, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(replies, b"%d\n" % os.waitstatus_to_exitcode(status))
    return 0


def _work(folder: Path) -> None:
    """Be the worker of a run folder, and end with it."""
    die_with_parent()
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = worker.run(folder)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
