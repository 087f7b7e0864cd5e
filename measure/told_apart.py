"""Which metrics tell the arms of sweeps apart, and which follow the distance to many steps.

    python measure/told_apart.py real outputs/real
    pixelwizard experiments=scores_schedules reference=outputs/real sweep_dir=outputs/scores/steps
    pixelwizard experiments=skip_detail reference=outputs/real sweep_dir=outputs/scores/skips
    python measure/told_apart.py report outputs/scores/* --baseline schedule=shortcut4

``real`` draws a real clip for each video of ``experiments=captions24``, for distances; with
``--frames`` only their beginnings, for videos that are as short. Needs the extra ``dev``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from scipy.stats import spearmanr

from pixelwizard.cli.compose import compose
from pixelwizard.comparison.differences import BESIDE, COSTS, Comparison, compare
from pixelwizard.comparison.distance import compared_stage, distances
from pixelwizard.comparison.variants import Variant, read_variants
from pixelwizard.config.evaluate import DISTANCE
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import VideoSettings
from pixelwizard.data import shapes
from pixelwizard.io.terminal import markdown
from pixelwizard.io.video import VideoWriter

CAPTIONS = "captions24"
WIDTH, HEIGHT, FRAMES = 512, 320, 17
FIRST_SCENE = 7_000_000
"""The seed of the first clip's scene; the trainings' held-out examples start at 0 and 1,000,000."""


def write_real(folder: Path, frames: int) -> None:
    """A real clip of each prompt at the demo size, cut to ``frames``."""
    config: GenerateConfig = compose("generate", [f"experiments={CAPTIONS}"])[0].config
    for number, text in enumerate(config.prompt):
        clip = shapes.render(shapes.scene_for(text, FIRST_SCENE + number), WIDTH, HEIGHT, FRAMES)
        path = folder / f"real_{number:02}.mp4"
        with VideoWriter(path, WIDTH, HEIGHT, VideoSettings()) as writer:
            writer.write(clip[:frames])


def compared(folders: Sequence[Path], baseline: str) -> Comparison:
    """All arms that have as many videos as the largest."""
    variants, notes = read_variants(folders)
    most = max(len(variant.videos) for variant in variants)
    whole = [variant for variant in variants if len(variant.videos) == most]
    return compare(whole, notes, quality=DISTANCE, baseline=baseline)


def told_apart(found: Comparison) -> list[tuple[str, ...]]:
    """A row for each metric: how many arms its paired interval tells from the baseline, which."""
    others = [row for row in found.rows if row.variant.name != found.baseline]
    far = _distances(found)
    rows = [("metric", f"of {len(others)} arms", "not told from the baseline", *CORRELATIONS)]
    for name in found.names:
        if name in (*COSTS, *BESIDE):
            continue
        signs = {row.variant.name: row.differences[name].sign for row in others}
        missed = [arm for arm, sign in signs.items() if sign in ("unclear", "equal")]
        count = str(len(others) - len(missed))
        rows.append((name, count, ", ".join(missed), *correlations(found, name, far)))
    return rows


CORRELATIONS = ("signed", "size", "arms")
"""With the distance, after Spearman: of a video's difference from the target's video, of its
magnitude, and of the arms' means."""


def _distances(found: Comparison) -> dict[str, list[float]]:
    """The distances of every arm's latents to the target's, sample by sample."""
    variants = [row.variant for row in found.rows]
    (target,) = (variant for variant in variants if variant.name == found.target)
    apart, _ = distances(variants, target, found.samples, compared_stage(variants))
    return {name: [*values.values()] for name, values in apart.items()}


def correlations(found: Comparison, name: str, far: dict[str, list[float]]) -> list[str]:
    """Those of one metric, over all arms but the target."""
    if name == DISTANCE:
        return ["", "", ""]
    of = {row.variant.name: values(row.variant, found, name) for row in found.rows}
    end = of.pop(str(found.target))
    differences = [
        [ours - theirs for ours, theirs in zip(row, end, strict=True)] for row in of.values()
    ]
    flat = [one for row in differences for one in row]
    every = [one for arm in of for one in far[arm]]
    pairs = [(flat, every), ([abs(one) for one in flat], every)]
    pairs.append(([fmean(row) for row in differences], [fmean(far[arm]) for arm in of]))
    return [f"{spearmanr(*pair).statistic:+.2f}" for pair in pairs]


def values(variant: Variant, found: Comparison, name: str) -> list[float]:
    """A metric of the shared samples."""
    records = [variant.videos[sample].record for sample in found.samples]
    return [float(record["metrics"][name]["value"]) for record in records]


def of_sets(found: Comparison) -> list[tuple[str, ...]]:
    """A row for each arm: its distance, and the scores that only a set has."""
    rows: list[tuple[str, ...]] = [("arm", "distance / 1000", *found.sets)]
    for row in sorted(found.rows, key=lambda row: row.scores[DISTANCE].value):
        scores = [of[row.variant.name] for of in found.sets.values()]
        shown = [f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]" for one in scores]
        rows.append((row.variant.name, f"{1000 * row.scores[DISTANCE].value:.2f}", *shown))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("real", "report"))
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--baseline", default="shortcut4")
    given = parser.parse_args()
    if given.what == "real":
        write_real(given.folders[0], given.frames)
        return
    found = compared(given.folders, given.baseline)
    print(f"{len(found.samples)} pairs")
    print("\n".join([*markdown(told_apart(found)), "", *markdown(of_sets(found))]))


if __name__ == "__main__":
    main()
