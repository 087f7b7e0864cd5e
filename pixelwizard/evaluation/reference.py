"""What distances see of videos, and need of the real ones: computed once, kept in their folder.

The kept tensors go by recipe; they hold for these very files and this way of reading them. T
frames, P patches of a frame, D features.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelwizard.config.output import SCORED_FRAMES
from pixelwizard.evaluation.files import Clip, content_hash
from pixelwizard.evaluation.look import look_at_all, raised
from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric
from pixelwizard.evaluation.networks import ImageNetwork, VideoNetwork
from pixelwizard.evaluation.score import Unavailable
from pixelwizard.io.files import atomic
from pixelwizard.io.reading import PIXELS

STATISTICS = "stats.safetensors"
SIDE = 224
"""Pixels of a patch."""
Tensors = dict[str, Tensor]


class SetDistance(VideoMetric):
    """A distance of all videos to the real ones of ``reference``, whose hash is in the recipe.

    ``values`` has the features [M, D] of every video; ``name`` is that of the score, and
    ``estimator`` what recipes add to how they call what is seen.
    """

    higher_is_better = False
    per_video = False
    name = estimator = ""

    def prepare(self, given: Given) -> None:
        """Load the network and what is needed of the real videos, where there are some."""
        if not given.reference:
            raise Unavailable("needs reference=DIR")
        self.real = self._of_reference(given, self.look_with(given) + self.estimator)

    @abstractmethod
    def look_with(self, given: Given) -> str:
        """Choose the network and set ``look``; how recipes call that."""

    @abstractmethod
    def features(self, seen: Tensor) -> Tensor:
        """The samples [M, D] of one video, from what was seen of it."""

    @abstractmethod
    def summary(self, features: Iterator[Tensor]) -> Tensors:
        """What is needed of the real videos' samples, by name."""

    def update(self, seen: Tensor) -> None:
        """Take what was seen of a video."""
        self.values.append(self.features(seen))

    def _of_reference(self, given: Given, look: str) -> Tensors:
        """The summary of the real videos, from their folder where it has it.

        Raises Unavailable where none of them can be used.
        """
        clips = [clip for clip in given.reference if clip.frames >= self.sampling.least]
        if not clips:
            raise Unavailable(f"no video of reference has {self.sampling.least} frames")
        if short := len(given.reference) - len(clips):
            self.warnings.append(f"{short} videos of reference are too short and were left out")
        content, folder = content_hash([clip.path for clip in clips]), clips[0].path.parent
        convention = f"{look}/{self.sampling}"
        self.convention = f"{convention}/n={{n}}/ref={content[:8]}"
        everything, recipe = kept(folder, content), f"{self.name}/{convention}"
        if recipe not in everything:
            everything[recipe] = self.summary(self._features_of(clips, given))
            keep(folder, everything, content)
        return everything[recipe]

    def _features_of(self, clips: Sequence[Clip], given: Given) -> Iterator[Tensor]:
        for number, (clip, found) in enumerate(look_at_all(clips, [self])):
            given.show(f"reference {number + 1} of {len(clips)}", clip.id)
            yield self.features(raised(found()[0]))


class OfVideos(SetDistance):
    """A sample per video, by the network of ``metrics.video``."""

    sampling = Sampling("first", SCORED_FRAMES, least=SCORED_FRAMES)
    temporal = True

    def look_with(self, given: Given) -> str:
        """See frames as the video network wants them."""
        self.network: VideoNetwork = given.network("video")
        self.look = self.network.fit
        return self.network.convention

    def features(self, seen: Tensor) -> Tensor:
        """[1, D]."""
        return self.network.sample(seen)


class OfPatches(SetDistance):
    """A sample per patch at full resolution, by the network of ``metrics.image``."""

    sampling = Sampling("uniform", 16, side=SIDE, patches=ImageNetwork.patches)

    def look_with(self, given: Given) -> str:
        """See patches with the image network.

        Raises Unavailable without one, for several sizes, and for videos smaller than a patch.
        """
        network: ImageNetwork = given.network("image")
        given.need_one_size()
        given.need_side(SIDE)
        self.look = network.embed
        return network.label

    def features(self, seen_TPD: Tensor) -> Tensor:
        """[T P, D]."""
        return seen_TPD.flatten(0, 1)


def keep(folder: Path, found: dict[str, Tensors], content: str) -> None:
    """Write tensors by recipe into the folder; ``content`` is the hash of its videos.

    A folder that cannot be written keeps nothing.
    """
    tensors = {
        f"{recipe}:{name}": tensor.contiguous()
        for recipe, named in found.items()
        for name, tensor in named.items()
    }
    names = json.dumps({recipe: [*named] for recipe, named in found.items()})
    known = {"content": content, "pixels": str(PIXELS), "tensors": names}
    with suppress(OSError), atomic(folder / STATISTICS) as part:
        save_file(tensors, part, metadata=known)


def kept(folder: Path, content: str) -> dict[str, Tensors]:
    """What the folder keeps, by recipe; nothing if its videos or their pixels differ."""
    path = folder / STATISTICS
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata() or {}
            if (known.get("content"), known.get("pixels")) != (content, str(PIXELS)):
                return {}
            return {
                recipe: {name: file.get_tensor(f"{recipe}:{name}") for name in names}
                for recipe, names in json.loads(known["tensors"]).items()
            }
    except (SafetensorError, OSError, KeyError, ValueError):
        return {}
