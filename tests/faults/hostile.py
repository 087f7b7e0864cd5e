"""Hostile inputs: values for every key, words of a command line, damage to every kind of file."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path

from faults.commands import start
from faults.kills import CLIPS, SIZE, prepare

from pixelwizard.config import tasks
from pixelwizard.config.schema import types_of, visible

RUNS = "{_target_: os.system, command: touch pwned}"
VALUES = (
    *("", "null", "[]", "{}", "[[1],2]", "{a: {b: c}}", "-1", "0", "3.5", "nan", "inf", "1e309"),
    *("99999999999999999999", "400001", "true", "yes please", "x" * 5000, "a,b", "glob(*)"),
    *("range(1,3)", "${oc.env:HOME}", "${run_dir}", "${", "???", "~", ".", "/", "/dev/null"),
    *("../..", "no/such/file", "'a\nb'", "'\x1b[31mred'", "'\u2028'", "é", RUNS, "/dev/zero"),
    *("{_target_: pwned.Class}", "{_target_: 7}", "!!python/object:os.system", "'", '"', "\\"),
    *("prompts.fifo", "choice(a,b)", "interval(0,1)", "[" * 500, "{a: " * 500, "1" * 5000, "\0"),
)
WORDS = (
    *("-m", "--help", "--cfg", "--cfg job", "--info", "-p seed", "--prompt", "--prompt  ", "-cd /"),
    *("--config-dir no/such", "-sc", "--version", "--hydra-help", "--no-such", "-x", "--", "="),
    *("a=b=c", "key=glob(*)", "+seed=1", "~seed", "~seed=1", "++seed=2", "seed", "@", "+a.b=1"),
    *(
        "--prompt \x1b[2J",
        "--prompt 'a\nb'",
        "--prompt \ud800",
        "hydra.run.dir=x",
        "plan",
        "-c all",
    ),
    *("hydra/launcher=joblib", "hydra.sweeper.params=1", "experiments=no", "schedule=[a,b]"),
)
TEXT = (b"", b"\0" * 64, b"\xff\xfe\x00\xd8", b"[" * 100_000, b"{" * 100_000, b"\n" * 1000)
TEXT += (b"null", b"[1, 2", b'{"a": NaN}', b"!!python/object/apply:os.system ['touch pwned']")
TEXT += (b"a: &a [x]\n" + b"".join(b"a%d: &b%d [*a,*a,*a,*a]\n" % (n, n) for n in range(9)),)
TEXT += (b"{}", b"[]", b"[{}]", b'"text"', b"7", b"a" * 300_000, b"&a [*a]", b"{a: *b}", b"\r\r")
TEXT += (b"text\n" + b'"' + b"x" * 200_000, b"sep=;\n", b"? [a]\n: b", b"<<: 7", b"\x80\x04K\x07.")
TEXT += (b'{"complete": true}', b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 8 + b"{}", b"PK\x03\x04")
DAMAGES = ("cut", "flip", "other", "twice", "fifo", "folder", "loop", "zero", "gone", "foreign")
LARGE = 1 << 19
LITTLE = [*SIZE, "anchor.steps=1", "schedule.steps=1", "metrics=none", "tracker=none"]
ONE = ["--prompt", "a red circle moves left", *LITTLE, "store.dir=kept", "run_dir=one"]
TRAIN = ["train", "experiment=train_tiny_anchor", *SIZE, "tracker=none", "trainer.max_time=null"]
TRAINED = [*TRAIN, "data.dir=data", "data.count=4", "data.held_out=1", "data.shard=2"]
TRAINED += ["data.ready=2", "data.workers=0", "objective.batch=2", "trainer.max_steps=2"]
TRAINED += ["checkpoint.every=1", "run_dir=trained"]
ENCODED = ["encode", *CLIPS, *SIZE, "stage=anchor", "data.held_out=1", "data.workers=0"]
ENCODED += ["run_dir=latents"]
FROM_LATENTS = [*TRAIN, "data=latents", "data.dir=latents", "data.held_out=1", "data.workers=0"]
FROM_LATENTS += ["objective.batch=2", "trainer.max_steps=1", "run_dir=again"]
EVALUATE = [
    "evaluate",
    "videos=clips",
    "captions=clips/table.csv",
    "metrics=tiny",
    "run_dir=scored",
]
START = "objective.init_from=weights/diffusion_pytorch_model.safetensors"
NEW = {
    "prompts.txt": (["prompts=prompts.txt"], b"a red circle\n# a comment\n"),
    "prompts.csv": (["prompts=prompts.csv"], b"id,text,seed\nx,a red circle,1\n"),
    "prompts.tsv": (["prompts=prompts.tsv"], b"id\ttext\nx\ta red circle\n"),
    "prompts.jsonl": (["prompts=prompts.jsonl"], b'{"id": "x", "text": "a red circle"}\n'),
    "prompts.json": (["prompts=prompts.json"], b'[{"id": "x", "text": "a red circle"}]\n'),
    "conf/schedule/mine.yaml": (["schedule=mine"], b"solver: euler\nsteps: 2\n"),
    "conf/metrics/mine.yaml": (["metrics=mine"], b"parts: [flicker]\n"),
    "experiments/mine.yaml": (["experiments=mine"], b"# @package _global_\nseed: 1\n"),
}
"""A file in the working directory, the words that read it, and what a good one holds."""


@dataclass(frozen=True)
class Made:
    """Files that the program made, and a command that reads them.

    ``same``: if it ends with 0, the files that match are those of an undamaged folder.
    """

    files: str
    words: Sequence[str]
    same: str = ""


MADE = (
    Made("clips/table.csv", ENCODED[:-1] + ["run_dir=new"]),
    Made("clips/*.mp4", ENCODED[:-1] + ["run_dir=new"]),
    Made("clips/*", EVALUATE[:-1] + ["run_dir=new"]),
    Made("scored/*", EVALUATE),
    Made("clips/2.mp4", ["replay", "clips/2.mp4", "run_dir=again"]),
    Made("made/**/*", ["compare", "made", "out=new", "tracker=none"]),
    Made("made/**/*.json", ["compare", "made", "out=new", "tracker=none"]),
    Made("one/**/*", ONE, "one/videos/*.mp4"),
    Made("one/**/*", ["evaluate", "videos=one", "metrics=tiny", "run_dir=new"]),
    Made("kept/**/*.safetensors", [*ONE[:-1], "run_dir=new"], "*/videos/001*.mp4"),
    Made("kept/**/*.safetensors", ["compare", "made", "out=new", "tracker=none"]),
    Made("trained/**/*", TRAINED, "trained/export/diffusion*"),
    Made("trained/checkpoints/*", TRAINED, "trained/export/diffusion*"),
    Made("data/**/*", [*TRAINED[:-1], "run_dir=new"], "*/export/diffusion*"),
    Made("latents/*", ENCODED, "latents/*.safetensors"),
    Made("latents/*", FROM_LATENTS),
    Made("weights/**/*", [*ONE[:-1], "run_dir=new", "backbone.folder=weights"]),
    Made("weights/**/*", ["convert", "backbone.folder=weights", "out=new"]),
    Made("weights/**/*", [*TRAINED[:-1], START, "run_dir=new"]),
    Made("weights/*.safetensors", ["plan", "backbone.folder=weights"]),
)


def prepare_all(folder: Path) -> None:
    """Everything that ``MADE`` needs, undamaged."""
    prepare(folder)
    for words in (ONE, TRAINED, ENCODED, EVALUATE):
        code = start(folder, list(words), folder / "log").wait()
        assert code in (0, 3), (folder / "log").read_text()  # 3: a score is not to be had
    shutil.copytree(folder / "trained" / "export", folder / "weights")
    (folder / "trained" / "checkpoints" / "step-00000002.ckpt").unlink()


def lay_out(inputs: Path, folder: Path) -> None:
    """A copy of what was prepared; large files, which are only replaced, are linked."""

    def copied(source: str, place: str) -> None:
        (os.link if os.path.getsize(source) > LARGE else shutil.copy2)(source, place)

    shutil.copytree(inputs, folder, copy_function=copied, ignore_dangling_symlinks=True)


def keys(root: type, prefix: str = "") -> Iterator[str]:
    """Every key of a task."""
    hints = types_of(root)
    for field in visible(root):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        yield key
        if is_dataclass(hint):
            yield from keys(hint, f"{key}.")  # type: ignore[arg-type]


def key_words(draw: random.Random) -> list[str]:
    """A command with one hostile value, perhaps a second, perhaps in a sweep."""
    task = draw.choice([name for name in tasks.ROOTS if name not in ("fetch", "bench")])
    known = list(keys(tasks.ROOTS[task]))
    given = [f"{draw.choice(known)}={draw.choice(VALUES)}" for _ in range(draw.choice((1, 1, 2)))]
    sweep = ["-m"] if draw.random() < 0.1 else []
    return [task, *sweep, *given]


def odd_words(draw: random.Random) -> list[str]:
    """A command line of odd words."""
    words = [word.split(" ", 1) for word in draw.sample(WORDS, draw.choice((1, 2)))]
    return [draw.choice(list(tasks.ROOTS)[:4]), *sum(words, []), "run_dir=run", *LITTLE]


def damage(place: Path, draw: random.Random) -> str:
    """Spoil a file: its bytes, or what it is; how."""
    kind = draw.choice(DAMAGES[:4] * 3 + DAMAGES[4:])
    data = place.read_bytes()
    place.unlink()
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind in ("loop", "zero"):
        place.symlink_to(place.name if kind == "loop" else "/dev/zero")
    elif kind == "foreign":
        place.write_bytes(draw.choice([*others(place), place.parent / "none"]).read_bytes())
    elif kind != "gone":
        place.write_bytes(_spoilt(data, kind, draw))
    return kind


def others(place: Path) -> list[Path]:
    """Files of the same kind with something else in them, here an empty one if there is none.

    No long lists of lines: as prompts they are sound, and as many videos take their time.
    """
    found = [p for p in place.parent.parent.rglob(f"*{place.suffix}") if p.is_file()]
    if place.suffix == ".txt":
        found = [p for p in found if p.stat().st_size < 1000]
    (place.parent / "none").touch()
    return sorted(found)


def _spoilt(data: bytes, kind: str, draw: random.Random) -> bytes:
    """Bytes that are cut, doubled, with wrong bits, or others."""
    if kind == "other" or not data:
        return draw.choice(TEXT)
    place = draw.randrange(len(data))
    if kind == "cut":
        return data[:place]
    if kind == "twice":
        return data[:place] + data
    flipped = bytearray(data)
    for _ in range(draw.choice((1, 8, 64))):
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(flipped)
