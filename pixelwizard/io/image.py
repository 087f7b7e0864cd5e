"""Picture files -> pixels, uint8 [H, W, 3]: upright, RGB, on white where they are transparent."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixelwizard.io.files import kind_of
from pixelwizard.io.video import ImageError

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Gray of 0..65535, which Pillow would cut off at 255."""
ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats whose frames follow one another; in those of cameras the first picture is the whole."""


def image_size(path: Path) -> tuple[int, int]:
    """Width and height as shown. Raises ImageError if the file is no whole picture."""
    height, width, _ = read_image(path).shape
    return width, height


def read_image(path: Path) -> np.ndarray:
    """The picture. Raises ImageError, also for an animation."""
    with _explained(path), Image.open(path) as file:
        if file.format in ANIMATED and (frames := getattr(file, "n_frames", 1)) > 1:
            raise ValueError(f"it has {frames} frames; give one picture, or refine it as --video")
        file.load()
        upright: Image.Image = ImageOps.exif_transpose(file)
        return np.asarray(_rgb(upright)).copy()


def cover(pixels: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """A picture cut evenly to the ratio of ``shape`` and scaled to ``size``, each (width, height).

    Wan2.2's rule (``WanTI2V.i2v``), where both are the same: scaled by Lanczos to cover the size,
    sides rounded, and the middle taken.
    """
    height, width, _ = pixels.shape
    factor = max(shape[0] / width, shape[1] / height)
    wide = max(size[0], round(width * factor * (size[0] / shape[0])))
    high = max(size[1], round(height * factor * (size[1] / shape[1])))
    scaled = Image.fromarray(pixels).resize((wide, high), Image.Resampling.LANCZOS)
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    return np.asarray(scaled.crop((left, top, left + size[0], top + size[1]))).copy()


def write_thumbnail(picture: Path, place: Path, width: int) -> None:
    """The picture as a JPEG of at most that width. Raises ImageError."""
    image = Image.fromarray(read_image(picture))
    image.thumbnail((width, 4 * width))
    image.save(place, quality=90)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        gray = np.asarray(image, np.float64) / 257
        image = Image.fromarray(np.rint(gray).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise ImageError for whatever Pillow says of a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except UnidentifiedImageError:
        other = kind_of(path)
        if other is None or other.endswith("picture"):
            what = "not a picture that can be read; convert it to PNG or JPEG"
        else:
            what = f"{other}, not a picture; name a PNG or a JPEG"
        raise ImageError(f"{path} is {what}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ImageError(f"{path} has more than {most} million pixels; make it smaller") from None
    except (OSError, SyntaxError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{path} cannot be read ({why})") from None
