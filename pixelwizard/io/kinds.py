"""What a file is by its first bytes, for messages about a file given in place of another."""

from __future__ import annotations

from pathlib import Path

_LOOK = 512
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
}
_CONTAINERS = {b"WEBP": "a WebP picture", b"AVI ": "an AVI video", b"WAVE": "a WAV sound"}
"""Of a RIFF file: what its bytes 8 to 12 say."""


def kind_of(path: Path) -> str | None:
    """What a file is, with its article, such as "a PNG picture"; None if it is none of these."""
    with open(path, "rb") as file:
        beginning = file.read(_LOOK)
    if not beginning:
        return "an empty file"
    for signature, name in _SIGNATURES.items():
        if beginning.startswith(signature):
            return name
    if beginning[:4] == b"RIFF":
        return _CONTAINERS.get(beginning[8:12])
    if beginning[4:8] == b"ftyp":
        return "an MP4 or MOV video"
    return "a text file" if _is_text(beginning) else None


def _is_text(beginning: bytes) -> bool:
    """Whether they are UTF-8, but for a character cut at the end, without control characters."""
    try:
        text = beginning.decode()
    except UnicodeDecodeError as error:
        if error.start < _LOOK - 3:
            return False
        text = beginning[: error.start].decode()
    return all(letter.isprintable() or letter.isspace() for letter in text)
