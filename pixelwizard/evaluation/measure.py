"""One metric in one evaluation: its values so far, and its errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.own_source import source_digest
from pixelwizard.config.schema import listed, show
from pixelwizard.config.targets import Part, Target, door_of
from pixelwizard.evaluation.files import content_hash
from pixelwizard.evaluation.look import TooShort, raised
from pixelwizard.evaluation.metrics.base import Given, VideoMetric, completed
from pixelwizard.evaluation.score import NO_PAIRS, Score, Unavailable, mean_with_interval
from pixelwizard.evaluation.signature import asked, check_metric
from pixelwizard.io.process import ProcessLost

log = logging.getLogger(__name__)
REAL = ("reference", "target", "pair")
"""Arguments of ``update`` that are of the real video: its set is then in the recipe."""


class Measure:
    """A metric under the name of its score, and its values of single videos by id.

    ``lacking`` are the videos without what it asks for, ``short`` those with too few or only flat
    frames, and why; ``failed`` has its own errors by video, which cost its values and nothing else.
    ``pseudo_values`` are, once a set is scored, its videos' shares in the score, where it has some.
    """

    def __init__(self, name: str, part: Part, given: Given) -> None:
        """Make and prepare the metric. Raises Unavailable where these videos cannot be scored."""
        self.name, key = name, f"metrics.extra.{name}"
        made = door_of(MetricsSettings, "extra").make(part, key)
        check_metric(type(made), key)
        if not isinstance(made, VideoMetric):
            made.to(given.device)
        self.metric: VideoMetric = completed(made)
        self.metric.distributed_available_fn = lambda: False  # one process scores, in any group
        if self.metric.temporal:
            given.need_one_rate()
        self.metric.prepare(given)
        self.convention = self.metric.convention or _convention(part, self.metric)
        self.wants_frames, self.asked = asked(type(made))
        if given.reference and not self.asked.keys().isdisjoint(REAL):
            real = content_hash([clip.path for clip in given.reference])
            self.convention += f"/ref={real[:8]}"
        self.values: dict[str, float] = {}
        self.lacking: list[str] = []
        self.short: list[str] = []
        self.failed: dict[str, str] = {}
        self.taken: list[str] = []
        self.pseudo_values: dict[str, float] = {}

    @property
    def wants_real_frames(self) -> bool:
        """Whether it needs the real video too."""
        return not self.asked.keys().isdisjoint(("reference", "target"))

    def take(self, id: str, seen: Tensor | Exception, facts: Mapping[str, Any]) -> None:
        """One video: its reduction, and by name the other arguments of ``update``."""
        if isinstance(seen, Unavailable) and self.wants_frames:
            self.short.append(str(seen) if isinstance(seen, TooShort) else f"{id}: {seen}")
            return
        named = {n: facts[n] for n in self.asked if facts.get(n) is not None}
        if any(needed and name not in named for name, needed in self.asked.items()):
            self.lacking.append(id)
            return
        try:
            frames = [raised(seen)] if self.wants_frames else []
            if self.metric.per_video:
                self.metric.reset()
            device = self.metric.device
            seen_ones = {n: v for n, v in named.items() if isinstance(v, (Tensor, Exception))}
            named |= {n: raised(found).to(device) for n, found in seen_ones.items()}
            self.metric.update(*(frame.to(device) for frame in frames), **named)
            if self.metric.per_video:
                (self.values[id],) = self._computed()
            self.taken.append(id)
        except Unavailable as error:
            self.short.append(f"{id}: {error}")
        except ProcessLost:  # this says nothing of the video
            raise
        except Exception as error:
            log.exception("%s failed for %s", self.name, id)
            self.failed[id] = _reason(error)

    def score(self) -> Score:
        """The score of all videos. Raises Unavailable where there is none, with the reason."""
        videos = len(self.taken)
        if not videos:
            raise Unavailable(self.problem or NO_PAIRS)
        bounds = self._of_the_set()
        value, low, high = bounds if len(bounds) == 3 else (*bounds, *bounds, *bounds)
        warnings = list(self.metric.warnings)
        if videos == 1:
            warnings.append("one video has no interval")
        elif len(bounds) == 1:
            warnings.append("a score of the whole set, which has no interval")
        recipe, higher = self.recipe(videos), bool(self.metric.higher_is_better)
        return Score(self.name, value, low, high, recipe, videos, higher, tuple(warnings))

    def recipe(self, videos: int) -> str:
        """The recipe of the value of so many videos."""
        return f"{self.name}/{self.convention.replace('{n}', str(videos))}"

    @property
    def problem(self) -> str:
        """What went wrong or was missing, in a line; empty if nothing."""
        if self.failed:
            (id, why), *_ = self.failed.items()
            return f"it failed for {listed([*self.failed])} ({why})"
        if self.short:
            others = len(self.short) - 1
            return self.short[0] + (f" (and {others} others)" if others else "")
        if self.lacking and "caption" in self.asked:
            return f"no caption for {listed(self.lacking)}"
        return ""  # most videos have no real video of their name

    def _of_the_set(self) -> tuple[float, ...]:
        if self.metric.per_video:
            return mean_with_interval(torch.tensor([*self.values.values()], dtype=torch.float64))
        try:
            found, self.pseudo_values = self._computed(), self._shares()
            return found
        except Unavailable:
            raise
        except Exception as error:
            log.exception("%s failed", self.name)
            self.failed["the set"] = _reason(error)
            raise Unavailable(self.problem) from error

    def _computed(self) -> tuple[float, ...]:
        """What ``compute`` gives: a value, for a set also the ends of its interval."""
        values = torch.as_tensor(self.metric.compute()).double().flatten()
        if len(values) not in (1, 3) or not values.isfinite().all():
            raise ValueError(f"compute() gave {values.tolist()}, and not a finite number")
        return tuple(values.tolist())

    def _shares(self) -> dict[str, float]:
        found = self.metric.pseudo_values
        if found is None:
            return {}
        shares = torch.as_tensor(found).double().flatten().tolist()
        videos = len(self.taken)
        if len(shares) != videos:
            raise ValueError(f"pseudo_values has {len(shares)} values for {videos} videos")
        return dict(zip(self.taken, shares, strict=True))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _convention(part: Part, metric: VideoMetric) -> str:
    """The recipe of a user's metric: class, file, arguments, frames."""
    made = part if isinstance(part, Target) else Target(part)
    digest = f"@{source_digest(made.path)[:8]}" if made.is_foreign else ""
    arguments = [f"{name}={show(value)}" for name, value in made.arguments.items()]
    return "/".join([f"{made.path}{digest}", *arguments, str(metric.sampling), "n={n}"])
