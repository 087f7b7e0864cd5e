"""Prompts: texts of the command line, prompt files in three formats, or the built-in demo.

Seeds follow the reference: with the run's seed s and the 0-based index i of a prompt, the anchor's
noise is drawn from s + (i+1)*100 and the detail's from s + i*100 + 10000. A prompt's own seed
replaces s and counts as i = 0, so that its video does not depend on its place in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.schema import ConfigError, show
from pixelwizard.io.rows import csv_rows, jsonl_rows, read_text

FORMATS = (".txt", ".jsonl", ".csv")
TEXT_KEYS = ("text", "prompt", "caption")
ID_KEYS = ("id", "prompt_id")
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.anchor)")
MAX_SEED = 2**62
DEMO_PROMPTS = (
    "a cyan cross moves left over a black background",
    "a yellow triangle moves left over a navy background",
    "a green circle shrinks over a purple background",
    "a red square moves right over a brown background",
)


@dataclass(frozen=True)
class Prompt:
    """One video to make: ``id`` is its file name, both seeds are final."""

    id: str
    text: str
    negative_prompt: str
    anchor_seed: int
    detail_seed: int


@dataclass(frozen=True)
class Entry:
    """One prompt as written in a file; what is ``None`` comes from the run's settings."""

    text: str
    id: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None


def prompts_of(config: GenerateConfig) -> list[Prompt]:
    """All prompts of a run in order. Raises ConfigError for anything that cannot be used."""
    where = config.prompts
    if where is not None:
        entries = read_entries(Path(where))
    elif config.prompt:
        entries = [_typed(text, number) for number, text in enumerate(config.prompt, start=1)]
    else:
        entries = demo_entries()
    negative = config.negative_prompt
    negative = config.backbone.negative_prompt if negative is None else negative
    entries = _named(entries, f"prompts={where}")
    return [_seeded(entry, index, config.seed, negative) for index, entry in enumerate(entries)]


def demo_entries() -> list[Entry]:
    """The prompts of a run that names none: captions that ``tiny`` has never seen."""
    return [Entry(text) for text in DEMO_PROMPTS]


def texts_by_id(path: Path, name: str) -> dict[str, str]:
    """The texts of a prompt file by id, in order; ``name`` is the setting that errors speak of."""
    return {
        entry.id or "": entry.text for entry in _named(read_entries(path, name), f"{name}={path}")
    }


def read_entries(path: Path, name: str = "prompts") -> list[Entry]:
    """The prompts of a .txt, .jsonl or .csv file. Raises ConfigError naming file, line and rule."""
    key = f"{name}={path}"
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{key} must end in one of {', '.join(FORMATS)}")
    text = read_text(path, key)
    read = {".txt": _from_txt, ".jsonl": _from_jsonl, ".csv": _from_csv}[path.suffix.lower()]
    entries = list(read(text, key))
    if not entries:
        raise ConfigError(f"{key} holds no prompt; write at least one")
    return entries


def _from_txt(text: str, key: str) -> Iterator[Entry]:
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield Entry(line.strip())


def _from_jsonl(text: str, key: str) -> Iterator[Entry]:
    for place, row in jsonl_rows(text, key, '{"text": "..."}'):
        yield _entry(row, place)


def _from_csv(text: str, key: str) -> Iterator[Entry]:
    def check_header(header: Sequence[str]) -> None:
        if not set(header) & set(TEXT_KEYS):
            raise ConfigError(
                f"{key}, line 1: the header must name a column {', '.join(TEXT_KEYS[:-1])}"
                f" or {TEXT_KEYS[-1]}; it has {show(', '.join(header))}"
            )

    for place, row in csv_rows(text, key, check_header):
        yield _entry(row, place)


def _entry(row: Mapping[str, Any], place: str) -> Entry:
    """One row of a .jsonl or .csv file; keys that are not ours are ignored."""
    text = _first(row, TEXT_KEYS)
    if text is None:
        raise ConfigError(f"{place}: no {', '.join(TEXT_KEYS[:-1])} or {TEXT_KEYS[-1]}")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{place}: the prompt must be text that is not empty")
    negative = row.get("negative_prompt")
    if negative is not None and not isinstance(negative, str):
        raise ConfigError(f"{place}: negative_prompt={show(negative)} must be text")
    name = _first(row, ID_KEYS)
    named = None if name is None else _safe_id(name, place)
    return Entry(text.strip(), named, negative, _seed(row.get("seed"), place))


def _safe_id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigError(f"{place}: id={show(value)} must be text")
    if not SAFE_ID.fullmatch(str(value)):
        near = re.sub(r"[^A-Za-z0-9_-]+", "-", str(value)).strip("_-")[:100] or "clip1"
        raise ConfigError(
            f"{place}: id={show(value)} is no safe file name (letters, digits and ._- only, a"
            f" letter or digit first, at most 100, not ending in .anchor); nearest: {near}"
        )
    return str(value)


def _seed(value: Any, place: str) -> int | None:
    if value is None:
        return None
    whole = re.fullmatch(r"\s*\d{1,19}\s*", str(value)) and not isinstance(value, bool)
    if not whole or int(value) > MAX_SEED:
        raise ConfigError(f"{place}: seed={show(value)} must be an integer from 0 to 2^62")
    return int(value)


def _typed(text: str, number: int) -> Entry:
    """One ``--prompt``; bytes that are no UTF-8 arrive as lone surrogates."""
    if not text.strip():
        raise ConfigError(f"--prompt number {number} is empty; describe a video")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"--prompt number {number} is not UTF-8 text") from None
    return Entry(text.strip())


def _named(entries: Sequence[Entry], key: str) -> list[Entry]:
    """Give every entry an id: its own, or number and first words. Refuse ids that occur twice."""
    named: list[Entry] = []
    taken: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        slug = re.sub(r"[^a-z0-9]+", "-", entry.text.lower())[:48].strip("-")
        name = entry.id or f"{number:03d}-{slug}".rstrip("-")
        first = taken.setdefault(name.lower(), number)
        if first != number:
            raise ConfigError(
                f"{key}: id={name} is used by prompts {first} and {number}"
                " (upper and lower case count as equal); give each its own id"
            )
        named.append(replace(entry, id=name))
    return named


def _seeded(entry: Entry, index: int, seed: int, negative: str) -> Prompt:
    if entry.seed is not None:
        seed, index = entry.seed, 0
    return Prompt(
        id=entry.id or "",
        text=entry.text,
        negative_prompt=negative if entry.negative_prompt is None else entry.negative_prompt,
        anchor_seed=seed + (index + 1) * 100,
        detail_seed=seed + index * 100 + 10000,
    )


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
