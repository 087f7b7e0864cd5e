"""Objectives side by side: one command trains, measures and writes the page; nothing twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small import BACKBONE, FEW_STEP, SIZE, few_step, small_training, write_backbone

from pixelwizard import worker
from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.comparison.few_step import measuring, page, run
from pixelwizard.comparison.few_step.files import Row, label, read_config
from pixelwizard.comparison.few_step.page import Arms, differences, interval
from pixelwizard.comparison.few_step.run import with_guidance
from pixelwizard.config.objective import AdapterSettings, FlowSettings, ObjectiveSettings
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.targets import Target
from pixelwizard.config.train import ComparisonSettings, DataSettings, TrainConfig, check_comparison
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.training.objectives.base import make_objective
from pixelwizard.training.train import make_module
from pixelwizard.training.work import WITH_GRADIENT, equal_steps, kind_at, mean_passes, passes_of

MINE = """
from pixelwizard.training.objectives.shortcut import Shortcut


class Mine(Shortcut):
    def __init__(self, config, more=1):
        super().__init__(config)
        self.more = more

    def target(self, kind, network, x0, generator):
        for _ in range(self.more):
            network(x0, *[0 * x0.flatten(1).mean(1)] * 2)
        return super().target(kind, network, x0, generator)
"""
SMALL = [
    *("backbone=small", "resolution.width=128", "resolution.height=64", "resolution.frames=17"),
    *("resolution.anchor_width=64", "resolution.anchor_height=32", "data.workers=0", "seed=0"),
    *("data.count=2", "data.ready=2", "data.held_out=2", "data.degradation.shrink=[]"),
    *("trainer.max_steps=4", "comparison.start_steps=2", "comparison.clips=2", "tracker=none"),
    *("comparison.passes=[1,2]", "comparison.decoded=[1]", "sweep_dir=arms"),
    "schedule.guidance=1",
]
PRESETS = {
    "flow_uniform": ("flow", ["flow.weighting=uniform"]),
    "shortcut_original": (
        "shortcut",
        ["shortcut.index_bias=0", "shortcut.half_step=timestep", "shortcut.span_exponent=0"],
    ),
    "shortcut_biased": ("shortcut", ["shortcut.half_step=timestep", "shortcut.span_exponent=0"]),
    "shortcut_schedules": ("shortcut", ["shortcut.sampling=schedules"]),
    "mean_flow_restricted": ("mean_flow", ["mean_flow.rise=1"]),
    "consistency_continuous": (
        "consistency",
        ["consistency.kind=continuous", "consistency.warmup=20"],
    ),
    "dmd_jumps": ("dmd", ["dmd.rollout=jumps"]),
}


def compared(*words: str) -> int:
    return main(["train", "experiments=compare_objectives", *SMALL, *words])


def steps_of(job: str) -> int:
    """How many steps a job's log has."""
    rows = Path("arms", job, "log.csv").read_text().splitlines()
    return int(rows[-1].split(",")[0])


def state() -> dict[str, tuple[int, int]]:
    """When the arms' checkpoints and values were written."""
    files = [*Path("arms").rglob("*.ckpt"), *Path("arms").rglob("few_step/**/*.json")]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a small backbone and an objective of one's own; jobs run here."""
    folder = tmp_path_factory.mktemp("workplace")
    backbone = to_plain(write_backbone(folder / "weights"))
    for group, name, values in (
        ("backbone", "small", backbone),
        ("objective", "mine", {"_target_": "mine.Mine", "more": 2, "batch": 2}),
    ):
        path = folder / "conf" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(values))
    (folder / "mine.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("pixelwizard.launch.launch.launch", lambda run, world: worker.run(run))
        patch.setattr(measuring, "MANY", 3)
        patch.setattr(measuring, "REAL", 2)
        patch.setattr(page, "RESAMPLINGS", 20)
        yield folder


@pytest.fixture(scope="module")
def done(workplace: Path) -> dict[str, tuple[int, int]]:
    """Two baselines with both budgets; the state of their files."""
    assert compared("-m", "objective=shortcut,consistency", "comparison.budget=work,samples") == 0
    return state()


def values() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path("arms/objectives.json").read_text())["arms"]
    return found


def test_one_command_trains_every_arm_and_writes_the_page(done: dict[str, Any]) -> None:
    text = Path("arms/objectives.md").read_text()
    assert "## Equal samples" in text and "## Equal work" in text and "left out" not in text
    for budget in ("samples", "work"):
        assert Path(f"arms/objectives_{budget}.svg").read_text().count("<svg") == 1
        found = [value for value in values() if value["budget"] == budget]
        assert {v["arm"] for v in found} == {"start", "backbone", "shortcut", "consistency"}
        assert len(found) == 4 * 2 * 2  # arms, clips, passes
    decoded = [value for value in values() if value["passes"] == 1]
    assert all({"psnr", "judge", "distance"} <= value.keys() for value in decoded)
    assert all("psnr" not in value for value in values() if value["passes"] == 2)


def test_differences_are_those_of_each_number_of_passes() -> None:
    def rows(first: float, last: float) -> list[Row]:
        return [{"1": {"distance": first}, "4": {"distance": last}}] * 2

    arms: Arms = {"shortcut": {0: rows(0.01, 0.002)}, "mine": {0: rows(0.03, 0.001)}}
    table = differences(arms, [1, 4], "shortcut")
    cells = [cell.strip() for cell in table[-1].strip("|").split("|")]
    assert cells == ["mine", "1", "20.00 (20.00 to 20.00)", "-1.00 (-1.00 to -1.00)"]


def test_equal_work_is_fewer_steps_for_what_makes_more_passes(done: dict[str, Any]) -> None:
    job = "comparison.budget={},objective=consistency,seed=0"
    assert steps_of(job.format("samples")) == 4
    assert steps_of(job.format("work")) == 2  # 5 passes for 3
    cost = json.loads(Path("arms", job.format("work"), "few_step/cost.json").read_text())
    assert cost == {"passes": 5 / 3, "steps": 2}


def test_the_same_command_again_does_nothing_and_writes_the_page(done: dict[str, Any]) -> None:
    Path("arms/objectives.md").unlink()
    words = ("objective=shortcut,consistency", "comparison.budget=work,samples")
    assert compared("-m", *words) == 0
    assert state() == done
    assert Path("arms/objectives.md").is_file()


def test_a_clip_whose_values_are_lost_is_measured_again_and_nothing_else(
    done: dict[str, Any],
) -> None:
    lost = Path("arms/comparison.budget=work,objective=shortcut,seed=0/few_step/clips/001.json")
    before = json.loads(lost.read_text())
    lost.unlink()
    assert compared("-m", "objective=shortcut", "comparison.budget=work,samples") == 0
    changed = {name for name, kept in state().items() if done[name][0] != kept[0]}
    assert {Path(name).name for name in changed} <= {"001.json", "cost.json"}
    assert json.loads(lost.read_text()) == before


def test_an_objective_of_ones_own_stands_beside_those_that_are_there(done: dict[str, Any]) -> None:
    assert compared("-m", "objective=mine", "comparison.budget=work,samples") == 0
    now = state()
    assert all(now[name][0] == kept[0] for name, kept in done.items() if "shortcut" not in name)
    assert {v["arm"] for v in values() if v["budget"] == "work"} == {
        *("start", "backbone", "shortcut", "consistency", "mine"),
    }
    cost = Path("arms/comparison.budget=work,objective=mine,seed=0/few_step/cost.json")
    assert json.loads(cost.read_text())["passes"] > 3  # two passes with gradient more
    again = ("objective._target_=mine.Mine", "objective.more=1", "objective.batch=2")
    assert compared("-m", *again, "comparison.budget=samples") == 0
    assert "mine.Mine" in {value["arm"] for value in values()}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["objective=shortcutt"], "did you mean shortcut?"),
        (["comparison.clips=1"], "comparison.clips=1 must be at least 2; nearest: 2"),
        (["comparison.clips=101"], "comparison.clips=101 must be at most 100; nearest: 100"),
        (["comparison.passes=[0]"], "comparison.passes=0 must be at least 1; nearest: 1"),
        (["comparison.passes=[]"], "must name at least one number"),
        (["comparison.decoded=[3]"], "must be among comparison.passes=[1, 2]; nearest: 2"),
        (
            ["objective=dmd,flow", "comparison.against=dmdd", "sweep_dir=new"],
            "comparison.against=dmdd must be one of dmd, flow; did you mean dmd?",
        ),
        (["objective=mine", "sweep_dir=new"], "add it, like -m objective=shortcut,mine"),
        (["comparison.budget=time"], "comparison.budget=time must be one of"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    workplace: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert compared("-m", *words) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": DataSettings(kind="clips")}, "needs data=shapes, not data=clips"),
        ({"data": DataSettings(target=Target("a.B"))}, "needs data=shapes, not data=a.B"),
        ({"stage": "anchor"}, "is for the detail network, not for anchor"),
        ({"adapter": AdapterSettings(kind="lora")}, "use adapter=none"),
        ({"resolution": SIZE}, "frames=5 are too few for comparison.budget=work, which needs 17"),
    ],
)
def test_what_is_no_whole_detail_network_on_shapes_is_no_arm(
    changes: dict[str, Any], sentence: str
) -> None:
    arm = TrainConfig(
        run_dir="x",
        objective=ObjectiveSettings(kind="shortcut"),
        resolution=replace(SIZE, frames=17),
        comparison=ComparisonSettings(budget="work"),
    )
    check_comparison(arm)
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        check_comparison(replace(arm, **changes))


def test_settings_of_a_comparison_need_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "comparison.clips=8"]) == 2
    assert "comparison.clips=8 has no effect without comparison.budget" in capsys.readouterr().err


def test_an_arm_alone_needs_a_starting_network_of_its_size(
    done: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in SMALL if not word.startswith("sweep_dir")]
    alone = ["train", "experiments=compare_objectives", *words, "objective=shortcut"]
    alone += ["comparison.budget=samples", "run_dir=alone/one"]
    assert main(alone) == 2
    assert "needs a starting network, and" in capsys.readouterr().err
    other = ["comparison.start=arms/start", "resolution.frames=21", "run_dir=alone/two"]
    assert main([*alone[:-1], *other]) == 2
    assert "was trained at 128x64 with 17 frames" in capsys.readouterr().err
    more = ["comparison.start=arms/start", "comparison.clips=3", "run_dir=alone/three"]
    assert main([*alone[:-1], *more]) == 2
    assert "comparison.clips=3 is more than the starting" in capsys.readouterr().err


def test_values_of_a_clip_are_the_distance_to_the_goal_of_the_blind_network(
    done: dict[str, Any],
) -> None:
    """The starting network's own many steps, sampled anew, are the goal; one step is not."""
    config = read_config(Path("arms/start"))
    made = measuring.Measuring(config, Path("arms/start"), torch.device("cpu"))
    blind = run.blind_file(Path("arms/start"))
    made.networks.detail_network = run.load_from(blind, config.backbone, torch.device("cpu"))
    (clip, _) = measuring.clips(2)
    sampler = {"solver": "unipc", "steps": measuring.MANY, "step_sizes": "raw", "guidance": 1.0}
    assert torch.equal(made.latent(clip, sampler), made.goal(clip))
    one = {"steps": 1, "step_sizes": "raw", "guidance": 1.0}
    row = json.loads(Path("arms/start/few_step/start/000.json").read_text())
    found = float((made.latent(clip, one) - made.goal(clip)).square().mean())
    assert found == pytest.approx(row["1"]["distance"]) and found > 0


def test_a_blind_network_answers_every_step_size_as_it_does_zero() -> None:
    network = ShortcutDiT(BACKBONE.detail_dit, BACKBONE.control_blocks)
    torch.nn.init.normal_(network.dt_embedding[2].weight)
    step_B = torch.tensor([0.0, 10.0, 500.0])
    before = network.dt_embedding(step_B)
    assert not torch.allclose(before[0], before[1])
    run.blind(network.dt_embedding)
    after = network.dt_embedding(step_B)
    assert torch.equal(after, after[:1].expand(3, -1))
    assert torch.allclose(after[0], before[0], atol=1e-6)


@pytest.mark.parametrize("name", ["flow", "shortcut", *FEW_STEP])
def test_the_passes_counted_are_those_that_a_training_step_makes(
    name: str, workplace: Path, tmp_path: Path
) -> None:
    backbone = replace(BACKBONE, folder=str(workplace / "weights"))
    objective = few_step(name) if name in FEW_STEP else {"kind": name, "init_from": None}
    config = small_training(backbone, tmp_path, tmp_path, "detail", **objective)
    config = replace(config, stage="detail")
    module: Any = make_module(config)
    for step in range(8):
        expected = passes_of(make_objective(config), step, config)
        assert expected == passes_made(module, step)


def passes_made(module: Any, step: int) -> int:
    """The passes of a real step, counted at the networks."""
    count, config, draw = 0, module.config, torch.Generator().manual_seed(0)
    size, dit = config.resolution, config.backbone.dit

    def note(network: torch.nn.Module, _: object) -> None:
        nonlocal count
        trains = any(weight.requires_grad for weight in network.parameters())
        count += WITH_GRADIENT if torch.is_grad_enabled() and trains else 1

    grids = {"latent": size.geometry.latent_grid, "condition": size.anchor_geometry.latent_grid}
    batch: dict[str, Any] = {
        name: torch.randn(2, dit.in_dim, *grid, generator=draw) for name, grid in grids.items()
    }
    batch |= {"text": [torch.randn(3, dit.text_dim)] * 2, "step": step}
    batch |= {"empty": [torch.zeros(1, dit.text_dim)] * 2}
    kind = kind_at(module.objective, step)
    hooks = [network.register_forward_pre_hook(note) for network in module.networks]
    module.target_kind = lambda _: kind
    module.loss(module.network, batch)
    for hook in hooks:
        hook.remove()
    return count


def test_a_step_of_shortcut_costs_a_fifth_more_than_one_of_flow_matching() -> None:
    config = compose("train", ["objective=shortcut", "run_dir=x"])[0].config
    cost, steps = equal_steps(replace(config, trainer=replace(config.trainer, max_steps=100)))
    assert cost == pytest.approx(1 + 0.3 * 2 / 3, abs=0.02)
    assert steps == round(100 / cost)
    assert mean_passes(config) == pytest.approx(cost * WITH_GRADIENT)


@pytest.mark.parametrize(
    ("objective", "sizes"),
    [("flow", "none"), ("shortcut", "raw"), ("mean_flow", "raw"), ("progressive", "raw")]
    + [("consistency", "whole"), ("dmd", "whole"), ("dmd_jumps", "raw")],
)
def test_an_objective_says_how_its_network_is_sampled(objective: str, sizes: str) -> None:
    config = compose("train", [f"objective={objective}", "stage=detail", "run_dir=x"])[0].config
    assert make_objective(config).sampled_with == sizes


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_parent_with_few_keys(name: str) -> None:
    parent, keys = PRESETS[name]
    shared = ["stage=detail", "run_dir=x"]
    (made,) = compose("train", [f"objective={name}", *shared])
    words = [f"objective={parent}", *(f"objective.{key}" for key in keys)]
    (spelt,) = compose("train", [*words, *shared])
    assert made.config == spelt.config


def test_differences_are_paired_by_seed_whatever_order_they_came_in() -> None:
    def rows(*distances: float) -> list[dict[str, Any]]:
        return [{"1": {"distance": distance}} for distance in distances]

    found: page.Arms = {
        "known": {None: rows(1.0, 2.0)},
        "base": {0: rows(1.0, 2.0), 1: rows(5.0, 6.0)},
        "mine": {2: rows(9.0, 9.0), 1: rows(5.5, 6.5), 0: rows(1.5, 2.5)},
        "alone": {3: rows(0.0, 0.0)},
    }
    own, other = page.paired(found["mine"], found["base"])
    assert list(own) == list(other) == [1, 0]
    lines = page.differences(found, [1], "base")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["known", "mine"]
    assert "500.00 (500.00 to 500.00)" in lines[3]


def test_an_interval_of_equal_values_is_a_point() -> None:
    found = interval(np.full((2, 4), 3.0))
    assert found == {"value": 3.0, "low": 3.0, "high": 3.0}


def test_an_arm_is_named_after_what_tells_it_from_the_others() -> None:
    assert label(["seed=1", "comparison.budget=work", "objective=dmd"]) == "dmd"
    assert label(["objective._target_=a.B", "seed=0"]) == "a.B"
    words = ["objective=shortcut", "objective.shortcut.index_bias=0"]
    assert label(words) == label(words[::-1]) == "shortcut, objective.shortcut.index_bias=0"


def test_the_guidance_of_the_schedule_is_trained_into_an_arm() -> None:
    (flow,) = compose("train", ["objective=flow_map", "run_dir=x"])
    assert with_guidance(flow.config.objective, 1.0).flow == FlowSettings(weighting="beta")
    (taught,) = compose("train", ["objective=dmd", "run_dir=x"])
    made = with_guidance(taught.config.objective, 2.0)
    assert made.dmd.guidance == 2.0 and made.flow.guidance == 1.0
