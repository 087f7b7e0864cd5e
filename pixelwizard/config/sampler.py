"""The settings of a sampling stage: its solver, its steps, its guidance. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Literal, Optional

from pixelwizard.config.schema import ConfigError, check_range
from pixelwizard.config.setting import setting
from pixelwizard.config.targets import Part, door

DIFFUSION = "pixelwizard.diffusion"


@dataclass(frozen=True)
class SamplerSettings:
    """The sampler of one stage, which integrates its velocity field from noise to latent.

    ``timesteps`` (1000 = noise, strictly decreasing) replaces the ``steps`` and the ``shift`` of
    the solver's own grid. ``shift=None`` takes the shift of the resolution. ``guided_steps`` are
    the 0-based steps that run classifier-free guidance (``None``: all of them). ``skip`` decides
    which steps evaluate the network. ``step_sizes`` is the step-size conditioning:
    ``none``, ``raw`` or ``snapped`` to the step sizes seen in training.
    """

    solver: Part = setting(
        "unipc", **door(f"{DIFFUSION}.solvers.base.Solver", f"{DIFFUSION}.solvers")
    )
    skip: Part = setting(
        "none", later=True, **door(f"{DIFFUSION}.skip.base.Skip", f"{DIFFUSION}.skip")
    )
    steps: int = setting(50, low=1, high=1000)
    timesteps: Optional[List[float]] = None
    shift: Optional[float] = setting(None, low=0.01)
    guidance: float = setting(5.0, low=0.0)
    guided_steps: Optional[List[int]] = None
    step_sizes: Literal["none", "raw", "snapped"] = "none"

    def check(self, key: str) -> None:
        """Decreasing timesteps inside (0, 1000], existing guided steps; raises ConfigError.

        ``key`` is the stage's: ``anchor``, whose network takes no step sizes, or ``schedule``.
        """
        if self.timesteps is not None:
            _check_timesteps(self.timesteps, f"{key}.timesteps")
        steps = len(self.timesteps or range(self.steps))
        for step in self.guided_steps or []:
            check_range(f"{key}.guided_steps", step, 0, steps - 1)
        if (guided := self.guided_steps) and self.guidance == 1:
            raise ConfigError(f"{key}.guided_steps={guided} needs a {key}.guidance other than 1")
        if key == "anchor" and self.step_sizes != "none":
            raise ConfigError(
                f"anchor.step_sizes={self.step_sizes} is for the detail's schedule; the anchor"
                " network takes no step sizes; nearest: none"
            )


def _check_timesteps(times: List[float], key: str) -> None:
    """At least one timestep, strictly decreasing, all inside (0, 1000]."""
    like = "like [999, 942, 845, 646]"
    if not times:
        raise ConfigError(f"{key}=[] has no step; give at least one, {like}")
    for time in times:
        if not 0 < time <= 1000:
            raise ConfigError(
                f"{key}={times}: {time:g} is outside 0 (data, where the last step ends by itself)"
                f" to 1000 (noise); nearest: {min(1000, max(1, time)):g}"
            )
    for before, after in zip(times, times[1:], strict=False):
        if after >= before:
            raise ConfigError(
                f"{key}={times} must fall strictly; {after:g} comes after {before:g}; nearest:"
                f" {sorted(set(times), reverse=True)}"
            )


def any_guided(*samplers: SamplerSettings) -> bool:
    """Whether any step of the samplers runs classifier-free guidance."""
    return any(s.guidance != 1 and s.guided_steps != [] for s in samplers)
