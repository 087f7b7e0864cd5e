"""What a comparison of objectives keeps on disk, and what is missing. No torch here.

Below an arm's run folder: ``few_step/clips/NNN.json``, the values of a held-out clip by number of
passes, and ``few_step/cost.json``. The starting network's folder has ``few_step/blind``, a backbone
with its weights, ``few_step/goals/NNN.safetensors``, its many-step latents, and the values of
itself and of the backbone's own network in place of those of an arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Union

from pixelwizard.config.objective import FlowSettings, ObjectiveSettings
from pixelwizard.config.schema import ConfigError, choice
from pixelwizard.config.tasks import load
from pixelwizard.config.train import ARM_BUDGETS, ComparisonSettings, TrainConfig
from pixelwizard.io.files import read_json
from pixelwizard.models.checkpoints import available_parts
from pixelwizard.records.run_folder import CONFIG, LEDGER

Row = dict[str, Any]
"""The figures of a clip by number of passes."""
Seeds = Mapping[Union[int, None], Sequence[Row]]
"""The rows of an arm by seed; those of a network that no arm trained have the seed None."""
Arms = dict[str, Seeds]
START, BACKBONE, ARM = "start", "backbone", "clips"
IN_EVERY_ARM = ("seed", "comparison.budget")
"""Keys whose values make no other arm: an arm is trained with several."""
NAMING = ("objective=", "objective._target_=")


def few_step_folder(run: str | Path) -> Path:
    """The folder of everything that a run keeps for the comparison."""
    return Path(run) / "few_step"


def start_of(config: TrainConfig) -> Path:
    """The run folder of the starting network of an arm."""
    given = config.comparison.start
    return Path(given) if given else Path(config.run_dir).parent / START


def measured_in(config: TrainConfig) -> list[str]:
    """The networks that a run measures, each a folder of values."""
    if config.comparison.budget != START:
        return [ARM]
    return [START, BACKBONE] if "detail" in available_parts(config.backbone) else [START]


def clip_file(run: str | Path, network: str, number: int) -> Path:
    """The values of a clip."""
    return few_step_folder(run) / network / f"{number:03d}.json"


def goal_file(run: str | Path, number: int) -> Path:
    """The starting network's latent of many steps for a clip, below its run folder."""
    return few_step_folder(run) / "goals" / f"{number:03d}.safetensors"


def read_row(path: Path) -> Row:
    """The values of a clip so far."""
    return read_json(path) if path.is_file() else {}


def missing_in(row: Row, settings: ComparisonSettings) -> list[int]:
    """The numbers of passes that a clip has yet to be sampled with."""
    return [
        count
        for count in settings.passes
        if f"{count}" not in row or (count in settings.decoded and "psnr" not in row[f"{count}"])
    ]


def rows_of(run: str | Path, network: str, settings: ComparisonSettings) -> list[Row] | None:
    """The values of all clips; None if some are missing."""
    rows = [read_row(clip_file(run, network, number)) for number in range(settings.clips)]
    return None if any(missing_in(row, settings) for row in rows) else rows


def is_measured(config: TrainConfig) -> bool:
    """Whether a run has all the values that its settings ask for."""
    return all(rows_of(config.run_dir, n, config.comparison) for n in measured_in(config))


def label(swept: Iterable[str]) -> str:
    """The name of an arm, from the values that its job was swept with."""
    own = sorted(word for word in swept if word.split("=", 1)[0] not in IN_EVERY_ARM)
    named = [word for word in own if word.startswith(NAMING)]
    names = [word.split("=", 1)[1] for word in named]
    return ", ".join([*names, *(word for word in own if word not in named)]) or "objective"


def arms_below(folder: Path) -> dict[Path, str]:
    """The run folders of a sweep's arms, and their names."""
    if not (folder / LEDGER).is_file():
        return {}
    jobs = read_json(folder / LEDGER)["jobs"].items()
    found = {folder / name: job["overrides"] for name, job in jobs if name != START}
    return {run: label(swept) for run, swept in found.items() if (run / CONFIG).is_file()}


def check_against(against: str, arms: Iterable[str], folder: Path) -> None:
    """Refuse to compare with an arm that is neither asked for nor there; raises ConfigError."""
    names = list(dict.fromkeys([*arms, *arms_below(folder).values()]))
    if against not in names:
        raise ConfigError(
            f"{choice('comparison.against', against, names)}, the arms of this sweep; or add it,"
            f" like -m objective={against},{names[0]}"
        )


def start_config(arm: TrainConfig, folder: Path) -> TrainConfig:
    """The training of the starting network of a sweep: flow matching at the size of an arm.

    Its network is the plain one, as only a blind one answers every conditioning's steps alike.
    """
    rule = arm.objective
    flow = replace(rule.flow, weighting="uniform", guidance=1.0)
    flow = replace(flow, steepness=FlowSettings.steepness, centre=FlowSettings.centre)
    return replace(
        arm,
        run_dir=str(folder / START),
        seed=0,
        backbone=replace(arm.backbone, detail_network=None),
        objective=ObjectiveSettings(
            batch=rule.batch, init_from=rule.init_from, flow=flow, condition=rule.condition
        ),
        stage="detail",
        optimizer=replace(arm.optimizer, decay=0.5),
        trainer=replace(arm.trainer, max_steps=arm.comparison.start_steps),
        comparison=replace(arm.comparison, budget="start", start=None),
    )


def read_config(run: Path) -> TrainConfig:
    """The configuration of a training."""
    return load(run / CONFIG)


@dataclass
class Found:
    """Everything that is measured: the rows by budget and arm, the costs by arm."""

    known: Arms = field(default_factory=dict)
    arms: dict[str, dict[str, dict[int | None, list[Row]]]] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    def of(self, budget: str) -> Arms:
        """The networks that no arm trained, and the arms of a budget."""
        return {**self.known, **self.arms[budget]}


def read_found(folder: Path, settings: ComparisonSettings, start: Path) -> tuple[Found, list[str]]:
    """What is measured below a sweep's folder, and the names of the runs that are not."""
    found, left_out = Found(), []
    for network in measured_in(read_config(start)):
        if rows := rows_of(start, network, settings):
            found.known[network] = {None: rows}
    for run, name in arms_below(folder).items():
        config = read_config(run)
        if (budget := config.comparison.budget) not in ARM_BUDGETS:
            continue
        if rows := rows_of(run, ARM, settings):
            found.arms.setdefault(budget, {}).setdefault(name, {})[config.seed] = rows
            found.costs[name] = read_json(few_step_folder(run) / "cost.json")
        else:
            left_out.append(run.name)
    return found, left_out
