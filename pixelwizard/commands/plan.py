"""``pixelwizard plan``: time and memory of a run, on any machine, with nothing loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pixelwizard.commands import Command
from pixelwizard.plan_settings import PlanConfig

EXAMPLES = """\
  pixelwizard plan                                    2K with the full-size backbone
  pixelwizard plan resolution=4k memory.budget_gb=24  the way that fits a card of 24 GB
  pixelwizard plan resolution=4k memory=stream        block by block from host memory
  pixelwizard plan device=rtx4090 format=json        one JSON object on stdout"""


def check(config: PlanConfig) -> None:
    """Nothing beyond the settings."""


def run(config: PlanConfig, command_line: Sequence[str]) -> int:
    """Print the plan; 2 where a stage does not fit, with the sentence that says what would."""
    from pixelwizard.planner import make_plan, table  # torch: only where something is traced

    plan = make_plan(config, config.device)
    print(json.dumps(plan.to_json()) if config.format == "json" else table(plan), flush=True)
    if plan.refusal:
        raise ValueError(plan.refusal)
    return 0


COMMAND = Command("time and memory of a run, before it", EXAMPLES, check, run)
