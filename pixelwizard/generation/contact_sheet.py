"""Contact sheets of a run.

A sheet has a row of frames per video, below its prompt and the frames of its sources: the refined
clip or the picture that it begins with, and the anchor.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixelwizard.io.files import atomic
from pixelwizard.io.image import read_image
from pixelwizard.io.reading import read_stills

if TYPE_CHECKING:
    from pixelwizard.data.source_files import Source

COLUMNS = 5
ROWS = 50
"""Videos on a sheet; more make more sheets."""
FRAME_WIDTH = 256
MARGIN = 8
LINE = 20
LEVEL = 3
"""The level of zlib: a detailed sheet takes 0.3 of the time of level 6, and is 5 % larger."""
LETTERS = 170
"""How many letters of a label fit on a line of the sheet."""


def write_contact_sheets(
    folder: Path, rows: Sequence[tuple[str, Path, Source | None]]
) -> Path | None:
    """Write the sheets of (label, video, source) ``rows``; returns the first, None without videos.

    They are contact_sheet.png, contact_sheet-2.png, ...; an ``ID.anchor`` next to a video is shown
    too.
    """
    remove_contact_sheets(folder)
    for number, start in enumerate(range(0, len(rows), ROWS), start=1):
        blocks = [_block(*row) for row in rows[start : start + ROWS]]
        name = "contact_sheet.png" if number == 1 else f"contact_sheet-{number}.png"
        with atomic(folder / name) as part:
            sheet = Image.fromarray(np.concatenate(blocks, axis=0))
            sheet.save(part, format="png", compress_level=LEVEL)
    return folder / "contact_sheet.png" if rows else None


def remove_contact_sheets(folder: Path) -> None:
    """Remove the sheets of earlier videos."""
    for sheet in folder.glob("contact_sheet*.png"):
        sheet.unlink()


def strip(video: Path) -> np.ndarray:
    """``COLUMNS`` frames evenly over the whole video, side by side: ``[H, W, 3]`` uint8."""
    frames = read_stills(video, COLUMNS, FRAME_WIDTH)
    gap = np.full((frames[0].shape[0], MARGIN, 3), 255, np.uint8)
    pieces = [piece for frame in frames for piece in (frame, gap)]
    return np.concatenate([gap, *pieces], axis=1)


def still(picture: Path) -> np.ndarray:
    """A picture at the left of a strip."""
    pixels = Image.fromarray(read_image(picture))
    high = max(1, round(FRAME_WIDTH * pixels.height / pixels.width))
    row = np.full((high, COLUMNS * (FRAME_WIDTH + MARGIN) + MARGIN, 3), 255, np.uint8)
    row[:, MARGIN : MARGIN + FRAME_WIDTH] = np.asarray(pixels.resize((FRAME_WIDTH, high)))
    return row


def _block(label: str, video: Path, source: Source | None) -> np.ndarray:
    """One row of the sheet, uint8 [H, W, 3]."""
    anchor = video.with_name(f"{video.stem}.anchor{video.suffix}")
    strips = [strip(file) for file in (anchor, video) if file.is_file()]
    if source and source.path.is_file():
        strips.insert(0, still(source.path) if source.kind == "image" else strip(source.path))
    lines = textwrap.wrap(label, LETTERS, max_lines=2) or [""]
    width = strips[0].shape[1]
    image = Image.new("RGB", (width, MARGIN + LINE * len(lines)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN // 2 + LINE * number), line, fill="black", font=font)
    gap = np.full((MARGIN, width, 3), 255, np.uint8)
    return np.concatenate([np.asarray(image), *(p for s in strips for p in (s, gap))], axis=0)
