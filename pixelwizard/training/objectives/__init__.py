"""What a step of training asks of a velocity network: one objective per file, one signature."""

from __future__ import annotations

from dataclasses import replace

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.schedules import Schedule, make_schedule
from pixelwizard.training.objectives.flow import FlowObjective
from pixelwizard.training.objectives.shortcut import ShortcutObjective

SHORTCUTS: dict[str, type[ShortcutObjective]] = {"shortcut": ShortcutObjective}
"""Objectives of a network that is told the size of its step."""


def make_objective(config: TrainConfig) -> FlowObjective:
    """The objective of a training, on the noise levels of its stage."""
    settings, size = config.objective, config.resolution
    shift = size.anchor_shift if config.part == "anchor" else size.shift
    if settings.kind == "flow":
        return FlowObjective(settings.flow, shift)
    made = SHORTCUTS[settings.kind]
    return made(settings.flow, shift, settings.shortcut, schedules_to_use(config))


def schedules_to_use(config: TrainConfig) -> list[Schedule]:
    """The schedules that the trained network shall be good at, with their step sizes."""
    rule, size = config.objective.shortcut, config.resolution
    sampler = replace(config.schedule, timesteps=None, step_sizes="raw", guided_steps=None)
    return [
        make_schedule(replace(sampler, steps=steps), shift)
        for steps in rule.steps
        for shift in rule.shifts or [size.shift]
    ]
