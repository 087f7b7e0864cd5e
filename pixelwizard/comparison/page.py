"""``report/``: one page with its videos, which opens from disk and needs no network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelwizard.comparison.differences import Comparison
from pixelwizard.comparison.plot import colours_of
from pixelwizard.comparison.tables import SETS, legend, to_json
from pixelwizard.comparison.variants import Sample, Video
from pixelwizard.config.schema import ConfigError, listed, show
from pixelwizard.io.files import atomic
from pixelwizard.io.image import write_thumbnail
from pixelwizard.io.reading import VideoInfo, probe
from pixelwizard.io.video import ImageError, VideoError, write_preview

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "report"
SCRIPTS = ("plot.js", "player.js", "page.js")
PAGE, MOST_LINES = "index.html", 2160
FILE = r"videos/(\d+-[\w-]*-\d{3,}\.mp4|picture-\d{3,}\.jpg)"
"""The names of the page's videos, and of the pictures that they begin with."""
PICTURE_WIDTH = 480


def write_page(comparison: Comparison, folder: Path) -> list[str]:
    """Write the folder anew, whole or not at all; a sentence for every video that is missing."""
    missing: list[str] = []
    with atomic(folder) as part:
        (part / "videos").mkdir(parents=True)
        files = _copy_videos(comparison, part, missing)
        pictures = _copy_pictures(comparison, part, missing)
        film = _film(part, files)
        data = {
            **to_json(comparison),
            "legend": legend(comparison),
            "sets_legend": SETS,
            "files": files,
            "pictures": pictures,
            "titles": [_title(comparison, sample) for sample in comparison.samples],
            "fps": film.fps,
            "frames": film.frames,
            "size": [film.width, film.height],
            "settings": differing_settings(comparison),
            "colours": colours_of(comparison),
            "notes": [*comparison.notes, *missing],
        }
        (part / PAGE).write_text(_html(data), encoding="utf-8")
    return missing


def check_own(folder: Path) -> None:
    """Raise ConfigError where ``folder`` holds anything but a page and its videos."""
    if not folder.exists():
        return
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())
    foreign = [name for name in found if name != PAGE and not re.fullmatch(FILE, name)]
    if foreign or PAGE not in found:
        what = f"holds {listed(foreign)}" if foreign else "is not a report"
        raise ConfigError(
            f"{folder} exists and {what}; compare replaces only its own page, so choose another"
            " folder with out=DIR"
        )


def _copy_videos(comparison: Comparison, folder: Path, missing: list[str]) -> list[list[str]]:
    """The videos by sample and variant, as paths in the folder; empty where there is none."""
    slugs = (re.sub(r"[^A-Za-z0-9_-]+", "-", row.variant.name)[:60] for row in comparison.rows)
    names = [f"{number}-{slug}" for number, slug in enumerate(slugs)]
    found = []
    for number, sample in enumerate(comparison.samples):
        line = []
        for name, row in zip(names, comparison.rows, strict=True):
            place = f"videos/{name}-{number:03}.mp4"
            try:
                _copy(row.variant.videos[sample], folder / place)
            except (OSError, VideoError) as error:
                reason = getattr(error, "strerror", None) or error
                missing.append(f"{row.variant.videos[sample].path} cannot be shown: {reason}")
                place = ""
            line.append(place)
        found.append(line)
    return found


def _copy_pictures(comparison: Comparison, folder: Path, missing: list[str]) -> list[str]:
    """The picture that each sample begins with, as a path in the folder; empty without one."""
    found = []
    for number, sample in enumerate(comparison.samples):
        source = comparison.rows[0].variant.videos[sample].record.get("source", {})
        place = ""
        if source.get("kind") == "image":
            place = f"videos/picture-{number:03}.jpg"
            try:
                write_thumbnail(Path(source["path"]), folder / place, PICTURE_WIDTH)
            except ImageError as error:
                missing.append(f"a picture cannot be shown: {error}")
                place = ""
        found.append(place)
    return found


def _copy(video: Video, place: Path) -> None:
    """A copy if every browser can play it, else 8-bit h264."""
    settings = video.record["config"]["video"]
    if settings["codec"] == "h264" and settings["bits"] in (None, 8):
        shutil.copyfile(video.path, place)
    else:
        write_preview(video.path, place, MOST_LINES)


def _film(folder: Path, files: list[list[str]]) -> VideoInfo:
    """What the player shows: the longest sample, by its first video."""
    first = [next(filter(None, line), "") for line in files]
    found = [probe(folder / place, count=True) for place in first if place]
    return max(found, key=lambda film: film.frames, default=VideoInfo(16, 9, 1.0, 1.0, 1))


def _title(comparison: Comparison, sample: Sample) -> str:
    """The text of a sample, or the file that it is made of."""
    source = comparison.rows[0].variant.videos[sample].record.get("source", {})
    return sample.prompt or Path(source.get("path", "")).name


def _html(data: Mapping[str, Any]) -> str:
    text = (ASSETS / "page.html").read_text(encoding="utf-8")
    parts = {
        "STYLE": (ASSETS / "style.css").read_text(encoding="utf-8"),
        "DATA": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        "SCRIPT": "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)


def differing_settings(comparison: Comparison) -> list[dict[str, Any]]:
    """Every key that differs between variants, with its values in their order."""
    flat = [_flat(row.variant.settings) for row in comparison.rows]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = [{"key": key, "values": [values.get(key, "") for values in flat]} for key in keys]
    return [row for row in rows if len(set(row["values"])) > 1]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = show(value)
    return found
