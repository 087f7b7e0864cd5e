"""``python -m pixelwizard`` is the command ``pixelwizard``.

Python puts the working directory first on ``sys.path``; its files must not replace modules.
"""

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]

from pixelwizard.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
