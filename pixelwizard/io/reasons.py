"""One-line messages for people: the reason of a failure, and printing it."""

from __future__ import annotations

import re
import sys

MOST = 600
"""Characters of a message; what is longer loses its middle."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def reason(error: BaseException, most: int = 160) -> str:
    """What an error says, in one line of at most ``most`` characters; its class if it says nothing.

    Of an error of the system these are the system's words, without number and path.
    """
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return (said or type(error).__name__)[:most]


def say(sentence: str) -> None:
    """Print a message on stderr: one line, without control characters, not too long."""
    print(f"pixelwizard: {printable(sentence)}", file=sys.stderr, flush=True)


def printable(text: str, most: int = MOST) -> str:
    """``text`` with newlines and control characters escaped, and shortened in its middle."""
    shown = UNPRINTABLE.sub(lambda found: repr(found.group())[1:-1], text)
    if len(shown) <= most:
        return shown
    half = (most - 5) // 2
    return f"{shown[:half]} ... {shown[-half:]}"
