"""The settings of the output: decoding, video files, scores, trackers. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Literal, Optional

from pixelwizard.config.geometry import Geometry, most_tiles
from pixelwizard.config.schema import ConfigError, changed, check_range, setting, show
from pixelwizard.config.targets import Door, Part, Target

WANDB = ("wandb",)


@dataclass(frozen=True)
class DecodeSettings:
    """The decode: ``seamless`` (whole frames, exact), ``tiled``, or ``auto`` by memory.

    ``tiles`` are [rows, columns]; each tile overlaps its neighbours by ``overlap`` latent rows and
    columns (16 px). ``auto`` is seamless if that fits, else takes the fewest tiles that do.
    ``dtype=None`` is the backbone's; ``dtype=auto`` is bfloat16 where the device is fast at it.
    """

    mode: Literal["auto", "seamless", "tiled"] = "auto"
    tiles: List[int] = setting([1, 3])
    overlap: int = setting(3, low=1)
    dtype: Optional[Literal["auto", "float32", "bfloat16"]] = None

    def check_tiles(self, geometry: Geometry) -> None:
        """Tiles that are wide enough for their overlaps in such a video; raises ConfigError."""
        _, *grid = geometry.latent_grid
        if len(self.tiles) != 2:
            raise ConfigError(f"decode.tiles={self.tiles} must be [rows, columns], like [2, 3]")
        if self.mode != "tiled":
            if self.tiles != DecodeSettings().tiles:
                raise ConfigError(
                    f"decode.tiles={self.tiles} is for decode.mode=tiled, not {self.mode}; use"
                    " that or leave it out"
                )
            if self.mode == "seamless" and self.overlap != DecodeSettings().overlap:
                raise ConfigError(
                    f"decode.overlap={self.overlap} is for tiles, and decode.mode=seamless has"
                    " none; leave it out"
                )
            return
        most = [most_tiles(cells, self.overlap) for cells in grid]
        nearest = [min(max(1, n), top) for n, top in zip(self.tiles, most, strict=True)]
        if self.tiles != nearest:
            raise ConfigError(
                f"decode.tiles={self.tiles} must be between [1, 1] and {most}, as {grid[0]} x"
                f" {grid[1]} latent rows and columns with decode.overlap={self.overlap} allow;"
                f" nearest: {nearest}"
            )


@dataclass(frozen=True)
class Codec:
    """A codec: its bits per colour (default first), its highest ``crf`` (None: it has none).

    ``seconds``: CPU seconds for a million pixels (``measure/writing.py``; for nvenc those of the
    colour conversion).
    """

    bits: tuple[int, ...]
    seconds: float
    crf: Optional[int] = None
    suffix: str = ".mp4"


CODECS = {
    "h264": Codec((8, 10), 0.10, 51),
    "h265": Codec((8, 10), 0.30, 51),
    "av1": Codec((8, 10), 0.08, 63),
    "prores": Codec((10,), 0.13, suffix=".mov"),
    "ffv1": Codec((8,), 0.06),
    "h264_nvenc": Codec((8,), 0.004, 51),
    "hevc_nvenc": Codec((8, 10), 0.004, 51),
}


@dataclass(frozen=True)
class VideoSettings:
    """Video files: ``crf`` is the quality of h264, h265 and av1, 0 the best; of nvenc the fixed QP.

    ``bits=None`` is the codec's default. ``png`` also writes every frame as a picture.
    """

    fps: int = setting(24, low=1, high=240)
    codec: Literal["h264", "h265", "av1", "prores", "ffv1", "h264_nvenc", "hevc_nvenc"] = "h264"
    crf: int = setting(12, low=0)
    bits: Optional[int] = None
    png: bool = False

    @property
    def suffix(self) -> str:
        """The suffix of the files."""
        return CODECS[self.codec].suffix

    def check(self, key: str) -> None:
        """Refuse values that the codec does not support; raises ConfigError."""
        codec = CODECS[self.codec]
        if codec.crf is not None:
            check_range(f"{key}.crf", self.crf, 0, codec.crf)
        elif self.crf != VideoSettings().crf:
            raise ConfigError(
                f"{key}.crf={self.crf} is for codecs with a constant quality, and"
                f" {key}.codec={self.codec} has none; leave it out"
            )
        if self.bits is not None and self.bits not in codec.bits:
            able = " or ".join(str(bits) for bits in codec.bits)
            raise ConfigError(
                f"{key}.bits={self.bits} is not possible with {key}.codec={self.codec};"
                f" nearest: {able}"
            )


@dataclass(frozen=True)
class TrackerSettings:
    """The tracker of a run: W&B, CSV files or none; and ``logger``, a Lightning logger.

    All fields but ``kind`` and ``logger`` are W&B's. ``mode=auto`` is online if W&B has a key,
    else offline; ``artifact`` also uploads the original videos. Defaults come from WANDB_PROJECT,
    WANDB_NAME, WANDB_RUN_GROUP, WANDB_TAGS and WANDB_NOTES.
    """

    kind: Literal["wandb", "csv", "none"] = "wandb"
    logger: Optional[Part] = setting(
        None, door=Door("lightning.pytorch.loggers.Logger", offered=("save_dir",))
    )
    project: Optional[str] = setting(None, only_for=WANDB)
    name: Optional[str] = setting(None, only_for=WANDB)
    group: Optional[str] = setting(None, only_for=WANDB)
    tags: List[str] = setting([], only_for=WANDB)
    notes: Optional[str] = setting(None, only_for=WANDB)
    mode: Literal["auto", "offline", "online"] = setting("auto", only_for=WANDB)
    artifact: bool = setting(False, only_for=WANDB)

    @property
    def records(self) -> bool:
        """Whether there is any tracker."""
        return self.kind != "none" or self.logger is not None


_METRICS = "pixelwizard.evaluation.metrics"


def _result(program: str, column: str) -> Part:
    arguments = {"program": program, "column": column}
    return Target(f"{_METRICS}.result_file.ResultFile", arguments)


VBENCH = (
    *("subject_consistency", "background_consistency", "motion_smoothness"),
    *("dynamic_degree", "aesthetic_quality", "imaging_quality"),
)
IMPORTED: Dict[str, Part] = {
    **{
        f"vbench-{name.replace('_', '-')}": Target(f"{_METRICS}.vbench.VBench", {"dimension": name})
        for name in VBENCH
    },
    "vbench": "vbench",
    "dover": _result("dover", "overall"),
    "dover-technical": _result("dover", "technical"),
    "dover-aesthetic": _result("dover", "aesthetic"),
    "musiq": _result("musiq", "musiq"),
}
"""Scores of other programs, by name. The mean of VBench comes after its dimensions."""
COMPUTED: Dict[str, Dict[str, Part]] = {
    "musiq": {"musiq": "musiq"},
    "dover": {
        "dover": "dover",
        "dover-technical": Target(f"{_METRICS}.dover.DOVER", {"part": "technical"}),
        "dover-aesthetic": Target(f"{_METRICS}.dover.DOVER", {"part": "aesthetic"}),
    },
}
"""Those that a network can compute instead, by the setting that names the network."""
OF_NETWORK = {
    "clip": ("frame_consistency", "clip"),
    "video": ("fvd", "hd_fvd", "video_mmd"),
    "image": ("patch_fid", "patch_kid", "frame_mmd"),
}
"""The metrics that need a feature network, by its kind."""
SCORED_FRAMES = 16
"""Frames that the video networks need; shorter clips are scored only if scores are asked for."""


@dataclass(frozen=True)
class MetricsSettings:
    """The networks that score videos, by name; those outside the package are in ``folder``.

    ``None`` omits the scores of that network. ``auto`` takes what is available: the networks in the
    package for videos of ``backbone=tiny``, I3D and CLIP ViT-L/14 for others, and for all videos
    EfficientNet-Lite0 (extra ``features``), MUSIQ and DOVER. ``lpips`` adds HD-LPIPS, which needs
    the extra of that name; ``extra`` adds metrics by the name of their score. ``vbench`` is
    VBench's program, ``auto`` the one on PATH. Without it, or without the network of ``musiq`` or
    ``dover``, only result files are read.
    """

    enabled: bool = True
    video: Optional[str] = "auto"
    clip: Optional[str] = "auto"
    image: Optional[str] = "auto"
    musiq: Optional[str] = "auto"
    dover: Optional[str] = "auto"
    folder: str = setting("checkpoints/metrics", path=True)
    lpips: bool = False
    vbench: Optional[str] = setting("auto", path=("auto",))
    extra: Dict[str, Part] = setting({}, door=Door("torchmetrics.Metric", _METRICS))

    @property
    def parts(self) -> Dict[str, Part]:
        """Every metric by the name of its score: those that are always tried, then ``extra``.

        Those of IMPORTED are of other programs, unless a network is named that computes them.
        """
        standard = ["hd_mse", "hd_mse_noise", *["hd_lpips"] * self.lpips]
        standard += ["high_frequency", "niqe", "si", "blur", "blockiness", "banding", "ti"]
        standard += ["flicker", "warping_error"]
        standard += [name for names in OF_NETWORK.values() for name in names]
        standard += ["psnr", "ssim", "vmaf"]
        named: Dict[str, Part] = {name.replace("_", "-"): name for name in standard}
        named |= IMPORTED
        for network, computed in COMPUTED.items():
            named |= computed if getattr(self, network) not in (None, "auto") else {}
        return {**named, **self.extra}

    @property
    def scores(self) -> List[str]:
        """The names of the scores, without those of a network that is not named."""
        left = [name for kind, of in OF_NETWORK.items() if not getattr(self, kind) for name in of]
        return [name for name in self.parts if name.replace("-", "_") not in left]

    @property
    def asked(self) -> str:
        """The first setting that asks for more than the default, as written; empty if none."""
        given = {n: v for n, v in changed(self).items() if n not in ("enabled", "folder")}
        return next((f"metrics.{name}={show(value)}" for name, value in given.items()), "")

    def check(self, key: str) -> None:
        """Refuse a user's metric with the name of another score; raises ConfigError."""
        taken = replace(self, lpips=True, extra={}).parts
        for name in self.extra:
            if name in taken or not name.replace("-", "_").isidentifier():
                raise ConfigError(
                    f"{key}.extra.{name} must be a new name of letters, digits, _ and -; these are"
                    f" taken: {', '.join(taken)}"
                )

    def check_asked(self, reference: Optional[str], frames: int) -> None:
        """No other metrics with ``metrics=none``, no video network for clips that are too short.

        Raises ConfigError.
        """
        asked = self.asked if reference is None else f"reference={reference}"
        if asked and not self.enabled:
            raise ConfigError(
                f"{asked} asks for scores, and metrics=none for no scores; leave one out"
            )
        if self.enabled and self.video not in (None, "auto") and frames < SCORED_FRAMES:
            raise ConfigError(
                f"metrics.video={self.video} needs {SCORED_FRAMES} frames, and videos of"
                f" resolution.frames={frames} are too short; nearest: {SCORED_FRAMES + 1}, or"
                " metrics.video=null"
            )
