"""``python -m pixelwizard`` is the command ``pixelwizard``."""

import sys

from pixelwizard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
