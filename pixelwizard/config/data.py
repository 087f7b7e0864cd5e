"""What a training is fed with, and the settings of ``encode``. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings, check_backbone
from pixelwizard.config.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE
from pixelwizard.config.objective import Stage
from pixelwizard.config.resolution import ResolutionSettings, check_resolution
from pixelwizard.config.run import RunSettings
from pixelwizard.config.schema import ConfigError, check_range, show


@dataclass(frozen=True)
class DegradationSettings:
    """How the anchor that a detail network is trained with is made from its clip.

    The clip is shrunk by a factor between the two of ``shrink`` (areas; none: right to the anchor's
    size), brought to the anchor's size (bilinear), and a share ``blurred`` of the clips convolved
    with a gaussian of one of ``kernels`` taps and a ``deviation`` between the two, in pixels of the
    anchor. The defaults are the reference's (``model_wan_trainer_upsample_shortcut.py``).
    """

    shrink: List[float] = field(default_factory=lambda: [8.0, 16.0])
    blurred: float = 1.0
    kernels: List[int] = field(default_factory=lambda: [7, 9])
    deviation: List[float] = field(default_factory=lambda: [3.0, 4.3])


@dataclass(frozen=True)
class DataSettings:
    """Where training examples come from.

    ``clips``    videos in ``dir`` with their ``captions`` (.csv or .jsonl), read at ``fps``; the
                 last ``held_out`` of the table measure the loss; ``workers`` processes decode
    ``latents``  what ``pixelwizard encode`` wrote into ``dir``, read by a process of its own
    ``shapes``   ``count`` procedural clips, whose latents are kept below ``dir``: training starts
                 with ``ready`` of them, and every example that it takes allows ``growth`` more,
                 which it waits for; ``workers`` processes encode them beside it (0: all before it),
                 and read them where all are there at the start.
                 ``held_out`` examples of other captions measure the loss.

    ``shard`` examples make a file. The autoencoder trains on ``crops`` random crops of each
    procedural clip, ``crop`` pixels wide and high and ``crop_frames`` long, mixed over the
    ``window`` latest clips; a share ``anchor_share`` of the clips has the anchor's size, half of it
    degraded. ``workers`` processes cut the crops; for ``encode`` they read the clips ahead.
    """

    kind: Literal["shapes", "clips", "latents"] = "shapes"
    dir: str = "outputs/latents"
    captions: Optional[str] = None
    fps: float = 24.0
    held_out: int = 32
    workers: int = 1
    shard: int = 32
    degradation: DegradationSettings = field(default_factory=DegradationSettings)
    count: int = 1200
    ready: int = 320
    growth: float = 0.25
    crop: int = 64
    crop_frames: int = 9
    crops: int = 6
    anchor_share: float = 0.5
    window: int = 50


@dataclass(frozen=True)
class EncodeConfig(RunSettings):
    """Everything that determines one ``encode`` run: clips and captions become latents.

    ``stage`` is the network that shall train on them: clips at the anchor's size, or at the video's
    with the anchor that each is given. ``seed`` draws the degradations and where clips start.
    """

    task: Literal["encode"] = "encode"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    resolution: ResolutionSettings = field(default_factory=ResolutionSettings)
    data: DataSettings = field(default_factory=DataSettings)
    stage: Stage = "detail"
    seed: int = 0

    @property
    def part(self) -> str:
        """The network that shall train on the latents."""
        return self.stage

    def check(self) -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        check_resolution(self.resolution)
        check_backbone(self.backbone)
        check_range("seed", self.seed, 0, 2**31)
        if self.data.kind == "latents":
            raise ConfigError("data=latents are encoded already; use data=clips or data=shapes")
        check_data(self.data, self.resolution, self.part)


_OF_SHAPES = ("count", "ready", "growth", "crop", "crop_frames", "crops", "anchor_share", "window")
_OF_PIXELS = ("captions", "fps", "held_out", "workers", "shard", "degradation")
FOREIGN: dict[str, tuple[str, ...]] = {
    "shapes": ("captions", "fps"),
    "clips": _OF_SHAPES,
    "latents": (*_OF_SHAPES, *_OF_PIXELS),
}
"""What has no part in a kind of data."""


def check_data(data: DataSettings, size: ResolutionSettings, part: str) -> None:
    """Values in their ranges, data that the trained network can have; raises ConfigError."""
    for name, low in (
        *(("held_out", 0), ("workers", 0), ("shard", 1), ("count", 1), ("ready", 1)),
        *(("growth", 0), ("crops", 1), ("window", 1), ("fps", 0.1)),
    ):
        check_range(f"data.{name}", getattr(data, name), low)
    check_degradation(data.degradation)
    if data.kind == "clips" and data.captions is None:
        raise ConfigError("data.captions is missing; name the .csv or .jsonl of the videos' texts")
    plain = DataSettings()
    for name in FOREIGN[data.kind]:
        if getattr(data, name) != getattr(plain, name):
            value = show(getattr(data, name))
            raise ConfigError(f"data.{name}={value} has no part in data={data.kind}; leave it out")
    if part not in ("anchor", "detail") and data.kind != "shapes":
        raise ConfigError(f"objective={part} trains on data=shapes alone, not data={data.kind}")
    if data.kind == "shapes":
        check_shapes(size)
        check_range("data.held_out", data.held_out, 1)
    if part == "vae":
        check_crops(data, size)


def check_degradation(rule: DegradationSettings) -> None:
    """Pairs in order, odd kernels, a share in 0..1; raises ConfigError."""
    key = "data.degradation"
    check_range(f"{key}.blurred", rule.blurred, 0.0, 1.0)
    if rule.shrink and (len(rule.shrink) != 2 or not 1 <= rule.shrink[0] <= rule.shrink[1]):
        raise ConfigError(
            f"{key}.shrink={rule.shrink} must be the least and the greatest factor, like [8, 16],"
            " or []"
        )
    if len(rule.deviation) != 2 or not 0 < rule.deviation[0] <= rule.deviation[1]:
        raise ConfigError(
            f"{key}.deviation={rule.deviation} must be the least and the greatest, like [3.0, 4.3]"
        )
    for taps in rule.kernels:
        if taps < 1 or taps % 2 == 0:
            raise ConfigError(f"{key}.kernels={rule.kernels} must be odd; nearest: {taps + 1}")
    if not rule.kernels:
        raise ConfigError(f"{key}.kernels=[] must name at least one size, like [7, 9]")


def check_shapes(size: ResolutionSettings) -> None:
    """Clips wide enough for the shapes; raises ConfigError."""
    for prefix, clip in (("", size.geometry), ("anchor_", size.anchor_geometry)):
        if clip.width < clip.height:
            raise ConfigError(
                f"resolution.{prefix}width={clip.width} is too narrow for the shapes of training"
                f" clips that are {clip.height} high; nearest: {clip.height}"
            )


def check_crops(data: DataSettings, size: ResolutionSettings) -> None:
    """Crops on the autoencoder's grid that fit into the clips; raises ConfigError."""
    check_range("data.anchor_share", data.anchor_share, 0.0, 1.0)
    anchor = size.anchor_geometry
    check_range("data.crop", data.crop, SPATIAL_STRIDE, min(anchor.width, anchor.height))
    check_range("data.crop_frames", data.crop_frames, 1, size.frames)
    side = data.crop // SPATIAL_STRIDE * SPATIAL_STRIDE
    if data.crop != side:
        raise ConfigError(
            f"data.crop={data.crop} is not a multiple of {SPATIAL_STRIDE}; nearest: {side}"
        )
    frames = (data.crop_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
    if data.crop_frames != frames:
        raise ConfigError(f"data.crop_frames={data.crop_frames} is not 4n+1; nearest: {frames}")
