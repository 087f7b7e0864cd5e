"""Prompts: texts of the command line, given clips, a table (data.table), or the built-in demo.

Seeds are PixelWizard's: with the run's seed s and the 0-based index i of a prompt, the anchor's
noise is drawn from s + (i+1)*100 and the detail's from s + i*100 + 10000. A prompt's own seed
replaces s and counts as i = 0, so its video does not depend on its place in the file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelwizard.config.generate import GenerateConfig, SamplingSettings
from pixelwizard.config.schema import ConfigError, changed, show
from pixelwizard.data.table import STARTS, Row, Table, find_videos, read_table, text_beside, written
from pixelwizard.io.terminal import Line, in_threads

if TYPE_CHECKING:
    from pixelwizard.data.source_files import Source

TAKES = ("text", "id", "video", "negative_prompt", "seed", *STARTS)
"""Kinds of columns; without an id a prompt has the name of its video."""
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.anchor)")
DEMO_PROMPTS = (
    "a cyan cross moves left over a black background",
    "a yellow triangle moves left over a navy background",
    "a green circle shrinks over a purple background",
    "a red square moves right over a brown background",
)


@dataclass(frozen=True)
class Prompt:
    """One video to make: ``id`` is its file name, both seeds are final.

    With a ``source`` it begins with that file in place of noise alone, and ``text`` may be empty:
    a ``clip`` is refined, a picture becomes the first frame.
    """

    id: str
    text: str
    negative_prompt: str
    anchor_seed: int
    detail_seed: int
    source: Source | None = None

    @property
    def clip(self) -> Source | None:
        """The clip that is refined, if it is made of one."""
        return self.source if self.source and self.source.kind == "video" else None

    @property
    def title(self) -> str:
        """What people know it by: its text, or the name of its file."""
        return self.text or (self.source.path.name if self.source else "")


def prompts_of(config: GenerateConfig) -> list[Prompt]:
    """All prompts of a run in order. Raises ConfigError for anything that cannot be used."""
    return prompts_in(table_of(config), config)


def prompts_in(table: Table, config: GenerateConfig) -> list[Prompt]:
    """The prompts of a table that was read; the same errors."""
    names = named(table.rows, f"prompts={config.prompts}")

    def made(index: int) -> Prompt:
        return _prompt(names[index], table.rows[index], index, config)

    places = range(len(table.rows))
    if any(row.starts for row in table.rows):  # files are probed and hashed: it may take long
        threads = os.cpu_count() or 1
        prompts = [found for _, found in in_threads(places, made, threads, Line(), "file")]
    else:
        prompts = [made(index) for index in places]
    _check_sources(config, prompts)
    return prompts


def table_of(config: GenerateConfig) -> Table:
    """The prompts of a run as they were written. Raises ConfigError if they cannot be read."""
    if config.prompts is not None:
        return read_table(Path(config.prompts), "prompts", TAKES)
    if files := given_clips(config):
        return _of_files("clip", files, config.prompt)
    if files := [("--image", Path(file)) for file in config.from_image]:
        return _of_files("image", files, config.prompt)
    if config.prompt:
        return Table([_typed(text, number) for number, text in enumerate(config.prompt, start=1)])
    return Table([Row("", "", (text,)) for text in DEMO_PROMPTS])


def given_clips(config: SamplingSettings) -> list[tuple[str, Path]]:
    """The clips of ``--video`` and ``videos=DIR``, each with the words that named it."""
    clips = [("--video", Path(file)) for file in config.from_video]
    if config.videos is not None:
        key = f"videos={config.videos}"
        clips += [(key, path) for path in find_videos(Path(config.videos), "videos")]
    return clips


def _of_files(kind: str, files: Sequence[tuple[str, Path]], texts: Sequence[str]) -> Table:
    """A row for each clip or image, with the one text of all, its own, or none."""
    if texts and len(texts) not in (1, len(files)):
        raise ConfigError(
            f"there are {len(texts)} --prompt for {len(files)} {kind}s; give each {kind} its own,"
            " all of them one, or none"
        )
    rows, taken = [], Counter[str]()
    for number, (place, path) in enumerate(files):
        text = _typed(texts[number % len(texts)], number + 1).texts[0] if texts else ""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("_-")[:90] or kind
        taken[name.lower()] += 1
        if (number_of_name := taken[name.lower()]) > 1:
            name += f"-{number_of_name}"
        given = {kind: str(path)}
        rows.append(Row(place, "", (text,), id=name, **given))
    return Table(rows)


def named(rows: Sequence[Row], key: str) -> list[Any]:
    """The id of every row: its own, that of its video, or number and first words.

    Raises ConfigError for one that occurs twice.
    """
    names: list[Any] = []
    taken: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        words = row.texts[0] or Path(row.image).stem
        slug = re.sub(r"[^a-z0-9]+", "-", words.lower())[:48].strip("-")
        name = f"{number:03d}-{slug}".rstrip("-") if row.name is None else row.name
        first = taken.setdefault(str(name).lower(), number)
        if first != number:
            raise ConfigError(
                f"{key}: id={name} is used by rows {first} and {number}"
                " (upper and lower case count as equal); give each its own id"
            )
        names.append(name)
    return names


def _safe_id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigError(f"{place}: id={show(value)} must be text")
    if not SAFE_ID.fullmatch(str(value)):
        near = re.sub(r"[^A-Za-z0-9_-]+", "-", str(value)).strip("_-")[:100] or "clip1"
        raise ConfigError(
            f"{place}: id={show(value)} is not a safe file name (letters, digits and ._- only, a"
            f" letter or digit first, at most 100, not ending in .anchor); nearest: {near}"
        )
    return str(value)


def _seed(value: Any, place: str) -> int | None:
    if value is None:
        return None
    whole = re.fullmatch(r"\s*(\d{1,19})(\.0*)?\s*", str(value))
    if not whole or isinstance(value, bool) or int(whole[1]) > 2**62:
        raise ConfigError(f"{place}: seed={show(value)} must be an integer from 0 to 2^62")
    return int(whole[1])


def _typed(text: str, number: int) -> Row:
    """One ``--prompt``; bytes that are no UTF-8 arrive as lone surrogates."""
    if not text.strip():
        raise ConfigError(f"--prompt number {number} is empty; describe a video")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"--prompt number {number} is not UTF-8 text") from None
    return Row(f"--prompt number {number}", "", (text.strip(),))


def need_clips(config: SamplingSettings, clips: Sequence[Source]) -> None:
    """Raise ConfigError if ``refine`` is set and there is nothing to refine."""
    if not clips and changed(config.refine):
        raise ConfigError(
            "refine is for given clips; name one with --video FILE, videos=DIR or a column video"
        )


def _check_agreement(config: GenerateConfig, clips: Sequence[Source]) -> None:
    """A clip that a video shall agree with is smaller than it; raises ConfigError."""
    for clip in clips if config.refine.agree == "clip" else ():
        shape = clip.sizes(config.resolution).geometry
        if clip.own_size(shape) == shape:
            raise ConfigError(
                f"refine.agree=clip would only copy {clip.path.name}: the clip has"
                f" {clip.width}x{clip.height} pixels, its video {shape.width}x{shape.height};"
                " use a larger resolution or refine.agree=colour"
            )


def _check_sources(config: GenerateConfig, prompts: Sequence[Prompt]) -> None:
    """Nothing that is for given files without one, nothing that they would ignore."""
    clips = [prompt.clip for prompt in prompts if prompt.clip]
    pictures = [prompt for prompt in prompts if prompt.source and not prompt.clip]
    for source in (prompt.source for prompt in prompts if prompt.source):
        try:
            source.sizes(config.resolution)
        except ConfigError as error:
            raise ConfigError(f"{source.path}: {error}") from None
    if not pictures and changed(config.image):
        raise ConfigError(
            "image is for given pictures; name one with --image FILE or a column image"
        )
    need_clips(config, clips)
    _check_agreement(config, clips)
    if len(clips) == len(prompts) and "fps" in changed(config.video):
        raise ConfigError(
            f"video.fps={config.video.fps} is for videos of a text; a refined clip keeps its own"
            " rate: leave it out"
        )


def _prompt(name: Any, row: Row, index: int, config: GenerateConfig) -> Prompt:
    id, seed, own = _safe_id(name, row.place), config.seed, _seed(row.seed, row.place)
    if own is not None:
        seed, index = own, 0
    negatives = (row.negative_prompt, config.negative_prompt, config.backbone.negative_prompt)
    if row.negative_prompt is not None and not isinstance(row.negative_prompt, str):
        given = show(row.negative_prompt)
        raise ConfigError(f"{row.place}: negative_prompt={given} must be text")
    if row.clip and row.image:
        raise ConfigError(
            f"{row.place}: video={show(row.clip)} and image={show(row.image)} exclude each other: a"
            " video either refines a clip or begins with a picture; leave one empty"
        )
    text, source = row.texts[0], None
    if row.starts:
        from pixelwizard.data.source_files import source_of

        file = Path(config.prompts or "").parent / (row.clip or row.image)
        text = text or written(file, "prompt") or text_beside(file, row.place)
        source = source_of("video" if row.clip else "image", file, row.place)
    return Prompt(
        id=id,
        text=text,
        negative_prompt=next(text for text in negatives if text is not None),
        anchor_seed=seed + (index + 1) * 100,
        detail_seed=seed + index * 100 + 10000,
        source=source,
    )
