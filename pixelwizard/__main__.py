"""The command ``pixelwizard``, which ``python -m pixelwizard`` is too.

Python puts the working directory first on ``sys.path``; its files must not replace modules.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]


def main() -> int:
    """The exit code. Ctrl-C during the imports leaves no trace either."""
    try:
        from pixelwizard.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
