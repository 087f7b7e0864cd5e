"""The command ``pixelwizard``, which ``python -m pixelwizard`` is too.

Python puts the working directory first on ``sys.path``; its files must not replace modules.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]


def main() -> int:
    """The exit code. Ctrl-C during the imports leaves no trace either.

    A library that it meets while it is imported may make another error of it.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, press)
    try:
        from pixelwizard.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        return 130
    except Exception:
        if pressed:
            return 130
        raise


if __name__ == "__main__":
    sys.exit(main())
