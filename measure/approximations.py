"""Latents of approximate arms against a run of many steps or an exact one, from the same noise.

``python measure/approximations.py detail|anchor|window|quantize`` is behind the tables of
docs/approximations.md. It writes no video; the experiments ``skip_*`` and ``window_detail``
make the videos of such arms.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.config.generate import ATTENTION, GenerateConfig
from pixelwizard.diffusion.sampling import SolverState, initial_noise
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.io.terminal import markdown
from pixelwizard.models.weights import load_anchor, load_detail, load_text_encoder, load_vae
from pixelwizard.stages.decode import Decode
from pixelwizard.stages.latents import Anchor, Detail, EncodeText

PROMPTS = (
    "a yellow cross moves up over a black background",
    "a red triangle moves left over a brown background",
    "a red cross moves right over a white background",
    "a cyan triangle moves down over a brown background",
    "a pink square shrinks over a gray background",
    "a yellow circle grows over a gray background",
    "a blue square grows over a navy background",
    "a red circle shrinks over a gray background",
)
"""Held-out captions."""
DETAIL = ("10010111", "11101010")
ANCHOR = ("11110101001001001010", "11101010101010101010")
"""From ``plan skip=search``, and by hand."""


def skip_arms(stage: str) -> dict[str, list[str]]:
    """Overrides by arm; the first is what the others are compared with."""
    searched, plain = DETAIL if stage == "detail" else ANCHOR
    group = "schedule" if stage == "detail" else "anchor"
    base, few = ("unipc8", "5") if stage == "detail" else ("unipc20", "10")

    def arm(skip: str) -> list[str]:
        return [f"{group}={base}", f"{group}.skip={skip}"]

    arms = {
        f"{group}=unipc50": [f"{group}=unipc50"],
        f"{group}={base}": [f"{group}={base}"],
        "mask, searched": arm(f"{{name: mask, pattern: '{searched}'}}"),
        "mean, searched": arm(f"{{name: mean, pattern: '{searched}'}}"),
        "mask, every other": arm(f"{{name: mask, pattern: '{plain}'}}"),
        "taylor": arm("{name: taylor, every: 2, first: 3}"),
        "first_block 0.1": arm("{name: first_block, threshold: 0.1}"),
        f"unipc, {few} steps": [f"{group}={base}", f"{group}.steps={few}"],
    }
    if stage == "detail":
        arms["schedule=shortcut5"] = ["schedule=shortcut5"]
    return arms


def window_arms() -> dict[str, list[str]]:
    """Windows of the token grid 5 x 10 x 16 of the demo size."""
    made = {
        "1/4": "size: [0, 5, 8]",
        "1/4, unshifted": "size: [0, 5, 8], shift: false",
        "1/4, first step dense": "size: [0, 5, 8], dense_above: 0.99",
        "1/4, first block dense": "size: [0, 5, 8], dense_layers: [0]",
        "1/4, anchor tokens": "size: [0, 5, 8], anchor: [5, 8]",
        "1/8": "size: [0, 5, 4]",
        "1/8, anchor tokens": "size: [0, 5, 4], anchor: [5, 8]",
    }
    arms = {"exact": ["schedule=shortcut4"]}
    for name, arguments in made.items():
        arms[name] = ["schedule=shortcut4", f"attention={{name: window, {arguments}}}"]
    return arms


@dataclass
class Found:
    """The latents of an arm, its passes and skipped steps of a video, and seconds."""

    latents: list[Tensor]
    passes: float
    skipped: float
    seconds: float


class Bench:
    """``tiny`` and the texts and anchors that all arms share."""

    def __init__(self, prompts: int, seeds: int) -> None:
        self.config = self.composed([])
        backbone = self.config.backbone
        encode = EncodeText(load_text_encoder(backbone))
        empty = encode(backbone.negative_prompt)
        texts = [encode(text) for text in PROMPTS[:prompts]]
        self.cases = [
            (text, empty, 100 * i + 10_000 * s)
            for i, text in enumerate(texts)
            for s in range(seeds)
        ]
        self.anchors = self.sampled("anchor", []).latents

    def composed(self, words: list[str]) -> GenerateConfig:
        """The configuration of an arm."""
        job: Any = compose("generate", ["run_dir=unused", "tracker=none", *words])[0]
        config: GenerateConfig = job.config
        return config

    def sampled(self, stage: str, words: list[str]) -> Found:
        """All cases through one stage."""
        config = self.composed(words)
        size, sampler = config.resolution, config.anchor if stage == "anchor" else config.schedule
        shift = size.anchor_shift if stage == "anchor" else size.shift
        schedule = make_schedule(sampler, shift, stage)
        load = load_anchor if stage == "anchor" else load_detail
        network = load(config.backbone)
        network.attention = ATTENTION.make(config.attention, "attention")
        made: Any = (Anchor if stage == "anchor" else Detail)(network, schedule, sampler.guidance)
        geometry = size.anchor_geometry if stage == "anchor" else size.geometry
        found, states, started = [], [], time.process_time()
        for number, (text, negative, seed) in enumerate(self.cases):
            noise = initial_noise((config.backbone.dit.in_dim, *geometry.latent_grid), seed)
            given = () if stage == "anchor" else (self.anchors[number],)
            last: list[SolverState] = []
            found.append(made(noise, *given, text, negative, on_step=last.append))
            states.append(last[-1])
        seconds = (time.process_time() - started) / len(self.cases)
        skipped = sum(len(state.skipped) for state in states) / len(states)
        one = schedule.steps[0]
        per_step = one.evaluations * (1 + one.guided)
        return Found(found, (len(schedule.steps) - skipped) * per_step, skipped, seconds)


def rows(bench: Bench, stage: str, arms: dict[str, list[str]], folder: Path | None) -> list[Any]:
    """A row for each arm; the pictures of the first case go to ``folder``."""
    end: Found | None = None
    table: list[Any] = [("arm", "passes", "skipped", "distance / 1000", "processor s")]
    for name, words in arms.items():
        found = bench.sampled(stage, words)
        end = end or found
        pairs = zip(found.latents, end.latents, strict=True)
        distance = sum(float((a - b).square().mean()) for a, b in pairs) / len(found.latents)
        costs = (f"{found.passes:.3g}", f"{found.skipped:.3g}")
        table.append((name, *costs, f"{1000 * distance:.2f}", f"{found.seconds:.2f}"))
        print(table[-1], flush=True)
        if folder is not None:
            decode = Decode(load_vae(bench.config.backbone))
            frames = list(decode(found.latents[0]))
            folder.mkdir(parents=True, exist_ok=True)
            slug = "".join(c if c.isalnum() else "_" for c in name)
            Image.fromarray(frames[len(frames) // 2][0]).save(folder / f"{slug}.png")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("detail", "anchor", "window", "quantize"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frames", type=Path, help="a folder for a picture of each arm")
    given = parser.parse_args()
    bench = Bench(given.prompts, given.seeds)
    stage = "anchor" if given.what == "anchor" else "detail"
    arms = window_arms() if given.what == "window" else skip_arms(stage)
    if given.what == "quantize":
        kinds = ("fp8", "int8")
        arms = {"unquantised": []} | {kind: [f"backbone.quantize={kind}"] for kind in kinds}
    print("\n".join(markdown(rows(bench, stage, arms, given.frames))))


if __name__ == "__main__":
    main()
