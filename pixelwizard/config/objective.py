"""The settings of objectives, every constant with PixelWizard's default, and of a trained LoRA.

The defaults are those of PixelWizard (arXiv 2605.25801), read from the history of its repository
(VisionForge-arch/PixelWizard, ``model_wan/diffusion_upsample_shortcut.py`` and
``utils_long/scheduler.py``); the miniature's own are in ``experiments/train_tiny_*.yaml``.
No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Literal, Optional

from pixelwizard.config.few_step import (
    ConsistencySettings,
    DMDSettings,
    FlowMapSettings,
    MeanFlowSettings,
    ProgressiveSettings,
)
from pixelwizard.config.schema import ConfigError, changed, check_pair, choice, setting
from pixelwizard.config.targets import Door, OwnPart, Part, title

Stage = Literal["anchor", "detail"]
STAGES = ("anchor", "detail")
TAUGHT = ("consistency", "dmd", "progressive")
"""The objectives with a teacher."""
TRAINING = "pixelwizard.training"
OBJECTIVES = Door(f"{TRAINING}.objectives.base.Objective", f"{TRAINING}.objectives", ("config",))
"""Objectives for the networks of the stages."""
NETWORKS = Door(f"{TRAINING}.networks.base.TrainedNetwork", f"{TRAINING}.networks", ("config",))
"""The trained networks; those outside the stages are chosen by ``objective``."""
RANDOM = "random"
"""The starting weights of a network that is trained from scratch."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """Weights of the autoencoder's loss; the L1 distance of pixels has weight 1.

    ``decoder_only`` trains the decoder of ``objective.init_from`` (or of the backbone) with the
    encoder frozen, without ``kl``, on noisier latents than the encoder's own.
    """

    mse: float = 2.0
    gradient: float = 0.5
    kl: float = 3e-4
    decoder_only: bool = False


@dataclass(frozen=True)
class FlowSettings:
    """Flow matching on 1000 noise levels, even in sigma before ``shift`` (None: the stage's).

    Upstream's training shifts are 5.5 (2K), 5.8 (4K) and 4.3 (anchor). The loss is weighted
    over time by ``bell``, exp(-steepness ((t - centre) / 1000)^2) less its minimum with mean 1
    (upstream: 2 and 500; it is 0 at t = 1000), by AnyFlow's ``beta``, sigma sqrt(1 - sigma)
    with mean 1, or not (``uniform``), and over the channels of
    the latent by ``channels``, one weight each with mean 1 (none, as upstream: all alike). In a
    share ``text_drop`` of the samples the text is dropped, and with it the anchor (upstream: 0.1).
    ``guidance`` other than 1 is trained into the network, which then samples without: its target is
    the velocity that guidance at this scale would give, whose part without text comes from the
    network itself, without gradient (arXiv 2605.13724; 1: none, as upstream).

    A share ``first_frame`` of the samples teaches image to video: their first latent frame is kept
    clean, its tokens have timestep and step size 0, and it does not count in the loss (Wan2.2's
    ``masks_like``: 0.2).
    """

    shift: Optional[float] = setting(None, low=0.01)
    text_drop: float = setting(0.1, low=0.0, high=1.0)
    first_frame: float = setting(0.0, low=0.0, high=1.0, later=True)
    guidance: float = setting(1.0, low=1.0, later=True)
    weighting: Literal["uniform", "bell", "beta"] = "bell"
    steepness: float = setting(2.0, low=0.001)
    centre: float = setting(500.0, low=0.0, high=1000.0)
    channels: List[float] = setting([], low=0.0)

    def check_channels(self, channels: int) -> None:
        """A weight for every channel of the backbone's latent, mean 1; raises ConfigError."""
        if not self.channels:
            return
        if len(self.channels) != channels:
            raise ConfigError(
                f"objective.flow.channels has {len(self.channels)} weights, and the backbone's"
                f" latent {channels} channels; give one each, or []"
            )
        mean = sum(self.channels) / channels
        if abs(mean - 1) > 0.01:
            raise ConfigError(
                f"objective.flow.channels has the mean {mean:.3g}, it must be 1; divide all by it"
            )


@dataclass(frozen=True)
class ConditionSettings:
    """The anchor condition in the training of the detail network, and the initialisation.

    A share ``noisy`` of the samples has gaussian noise of a level up to ``noise`` on the anchor
    latent (upstream: half of them, up to 0.1). ``adapter_init_std`` initialises the
    adapter's last layers (0, as upstream: identity); ``pass_through`` starts the
    network as the velocity v = x_t instead of zero.
    """

    noise: float = setting(0.1, low=0.0, high=1.0)
    noisy: float = setting(0.5, low=0.0, high=1.0)
    adapter_init_std: float = setting(0.0, low=0.0)
    pass_through: bool = False


@dataclass(frozen=True)
class ShortcutSettings:
    """Self-consistency steps: their frequency, (t, dt), target and weight.

    After the share ``start`` of the training, a step uses self-consistency with
    ``probability`` (upstream: 0 and 0.3). ``sampling`` selects the source of (t, dt):

    ``reference``  t one of ``anchors`` (500 to 800), dt the anchor halved k times, k < ``halvings``
                   (6), drawn in proportion to exp(-``index_bias`` k): 0.7, the exponential index
                   bias; 0 draws every k equally often, as arXiv 2410.12557 does
    ``schedules``  t and dt of a step of the schedules that will be used: ``schedule.solver``'s grid
                   for one of ``steps`` and one of ``shifts`` (none: the resolution's), halved like
                   the others; a share ``reference_share`` still follows the rule above

    ``half_step`` is how the middle of the target is reached: along ``sigma`` to the grid point
    nearest t - dt/2 (noise-span aligned, as upstream), or by dt/2 in ``timestep`` to that very
    time (arXiv 2410.12557). The weight of a sample is that of its t times (its noise span over the
    batch's mean) ^ ``span_exponent``, clamped to ``span_limits``: 0.5 and [0.1, 10], the adaptive
    noise-span calibration; 0 leaves it out.
    """

    start: float = setting(0.0, low=0.0, high=1.0)
    probability: float = setting(0.3, low=0.0, high=1.0)
    sampling: Literal["reference", "schedules"] = "reference"
    anchors: List[int] = setting([500, 600, 700, 800], low=2, high=1000)
    halvings: int = setting(6, low=1, high=10)
    index_bias: float = 0.7
    half_step: Literal["sigma", "timestep"] = "sigma"
    span_exponent: float = setting(0.5, low=0.0)
    span_limits: List[float] = setting([0.1, 10.0])
    steps: List[int] = setting([2, 3, 4, 5, 8], low=1, high=1000)
    shifts: List[float] = setting([], low=0.01)
    reference_share: float = setting(0.0, low=0.0, high=1.0)

    def check(self, key: str) -> None:
        """Times, steps and two limits; raises ConfigError."""
        for name in ("anchors", "steps"):
            if not getattr(self, name):
                raise ConfigError(f"{key}.{name}=[] must name at least one")
        what = "a lower and an upper limit, like [0.1, 10.0]"
        check_pair(f"{key}.span_limits", self.span_limits, what, low=0.0)
        if self.sampling == "reference" and self.reference_share:
            raise ConfigError(
                f"{key}.reference_share={self.reference_share} is for {key}.sampling=schedules;"
                " leave it out"
            )


@dataclass(frozen=True)
class ObjectiveSettings(OwnPart):
    """The objective: ``kind`` names one for a stage's network, or a network with its own loss.

    A user's class in place of ``kind`` trains a stage's network, by default the detail one.
    ``init_from`` is a file whose matching tensors are loaded, or ``random``. By default
    training starts from the backbone's weights, or from random ones if the backbone has none.
    ``teacher`` is the file of a frozen teacher, or a folder laid out like a backbone (default: what
    the training starts from).
    """

    kind: str = "flow"
    batch: int = setting(16, low=1, stays=True)
    init_from: Optional[str] = setting(None, path=(RANDOM,), stays=True)
    reconstruction: ReconstructionSettings = setting(ReconstructionSettings, stays=True)
    flow: FlowSettings = setting(FlowSettings, stays=True)
    condition: ConditionSettings = setting(ConditionSettings, stays=True)
    shortcut: ShortcutSettings = setting(ShortcutSettings, stays=True)
    teacher: Optional[str] = setting(None, path=True, stays=True, later=True)
    flow_map: FlowMapSettings = setting(FlowMapSettings, stays=True, later=True)
    mean_flow: MeanFlowSettings = setting(MeanFlowSettings, stays=True, later=True)
    consistency: ConsistencySettings = setting(ConsistencySettings, stays=True, later=True)
    progressive: ProgressiveSettings = setting(ProgressiveSettings, stays=True, later=True)
    dmd: DMDSettings = setting(DMDSettings, stays=True, later=True)

    @property
    def part(self) -> Part:
        """The objective of a stage's network: a shipped name or a user's class."""
        return self.target or self.kind

    def trained_part(self, stage: Optional[Stage]) -> str:
        """The network that is trained, a file of ``pixelwizard.training.networks``.

        Raises ConfigError if objective and stage do not match.
        """
        if self.target is not None:
            return stage or "detail"
        networks = [name for name in NETWORKS.names if name not in STAGES]
        if self.kind not in (*OBJECTIVES.names, *networks):
            raise ConfigError(choice("objective.kind", self.kind, [*OBJECTIVES.names, *networks]))
        if self.kind in networks:
            if stage is not None:
                raise ConfigError(
                    f"stage={stage} is for objective={'|'.join(OBJECTIVES.names)}, not for"
                    f" {self.kind}; leave it out"
                )
            return self.kind
        return stage or ("anchor" if self.kind == "flow" else "detail")

    def check_stage(self, stage: Optional[Stage]) -> None:
        """No settings of another objective; raises ConfigError."""
        part, own, given = self.trained_part(stage), self.target is not None, changed(self)
        owners = {
            "flow": part in STAGES,
            "condition": part == "detail",
            "reconstruction": part == "vae",
            "teacher": own or self.kind in TAUGHT,
            **{name: own or self.kind == name for name in OBJECTIVES.names if name != "flow"},
        }
        for name, used in owners.items():
            if not used and name in given:
                raise ConfigError(
                    f"objective.{name} is not used by objective={title(self.part)}"
                    f"{f' stage={part}' if part in STAGES else ''}; leave it out"
                )
        if self.init_from == RANDOM:
            self._check_random_start()
        if not own:
            self._check_flow()

    def _check_flow(self) -> None:
        """Nothing about flow matching that this objective would not follow."""
        kind, given = self.kind, changed(self.flow)
        if self.flow.guidance != 1 and kind in TAUGHT:
            raise ConfigError(
                f"objective.flow.guidance={self.flow.guidance:g} is for objectives without a"
                f" teacher; set objective.{kind}.guidance, its teacher's scale"
            )
        for name in ("weighting", "steepness", "centre"):
            if name in given and kind in (*TAUGHT, "mean_flow"):
                raise ConfigError(
                    f"objective.flow.{name}={given[name]} is not used by objective={kind}, which"
                    " draws or weights its times by itself; leave it out"
                )

    def _check_random_start(self) -> None:
        """An objective that needs trained weights has them."""
        if self.reconstruction.decoder_only:
            raise ConfigError(
                f"objective.init_from={RANDOM} would leave the encoder untrained, because only the"
                " decoder trains; give a file, or leave it out"
            )
        if self.target is None and self.kind in TAUGHT and self.teacher is None:
            raise ConfigError(
                f"objective={self.kind} with objective.init_from={RANDOM} has nothing to learn"
                " from; name a trained network with objective.teacher=FILE, or leave init_from out"
            )


@dataclass(frozen=True)
class AdapterSettings:
    """A LoRA that is trained in place of the network, whose own weights stay as they are.

    ``targets`` are the linears of the blocks that get one, by the ends of their names. Its output
    is scaled by ``alpha`` / ``rank`` (None: 1). The network is kept in ``backbone.dtype``, the LoRA
    in float32; AdamW trains it, at ``optimizer.lr``.
    """

    kind: Literal["none", "lora"] = "none"
    rank: int = setting(16, low=1, only_for=("lora",))
    alpha: Optional[float] = setting(None, low=1e-6, only_for=("lora",))
    targets: List[str] = setting(["q", "k", "v", "o", "ffn.0", "ffn.2"], only_for=("lora",))

    @property
    def used(self) -> bool:
        """Whether a LoRA is trained."""
        return self.kind == "lora"

    @property
    def factor(self) -> float:
        """The factor of the low-rank pair's output."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def check_network(self, part: str, objective: ObjectiveSettings, container: bool) -> None:
        """Refuse a LoRA of a network that cannot have one, or without weights under it.

        ``container`` asks for an export that a LoRA does not have. Raises ConfigError.
        """
        if not self.used:
            return
        if part not in STAGES:
            raise ConfigError(
                f"adapter=lora is for the anchor and the detail network, not for {part}"
            )
        if objective.kind in ("dmd", "progressive"):
            raise ConfigError(
                f"adapter=lora is not possible with objective={objective.kind}, which copies the"
                " whole student into its other networks; use objective=flow_map or consistency"
            )
        if objective.init_from == RANDOM:
            raise ConfigError(
                f"adapter=lora adapts a trained network, and objective.init_from={RANDOM} has"
                " none; give a file, or leave it out"
            )
        if container:
            raise ConfigError(
                "checkpoint.container=true exports whole networks, and adapter=lora trains none;"
                " leave it out"
            )
        if not self.targets:
            raise ConfigError(
                "adapter.targets=[] leaves nothing to train; name ends like [q,k,v,o]"
            )
