"""A metric of the user's, any torchmetrics.Metric, appears wherever a shipped one does."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_evaluate import shape_clip, write

from pixelwizard.cli.compose import compose
from pixelwizard.cli.tasks.evaluate import check
from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target
from pixelwizard.evaluation.evaluate import SOME_SKIPPED, evaluate
from pixelwizard.evaluation.files import identity

SOURCE = """
import torch
from torchmetrics import Metric

class Brightness(Metric):
    higher_is_better = True
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale
        self.add_state("total", torch.tensor(0.0), "sum")
        self.add_state("count", torch.tensor(0), "sum")
    def update(self, frames):
        self.total += self.scale * frames.mean()
        self.count += 1
    def compute(self):
        return self.total / self.count

class OfTheSet(Brightness):
    per_video = False

class Shared(OfTheSet):
    def __init__(self, lost=0):
        super().__init__()
        self.lost, self.seen = lost, []
    def update(self, frames):
        super().update(frames)
        self.seen.append(frames.mean())
    def compute(self):
        self.pseudo_values = torch.stack(self.seen[self.lost:])
        return super().compute()

class Broken(Brightness):
    def update(self, frames, caption="", clip=None):
        if clip.id == "clip1":
            raise RuntimeError("no such\\nthing")
        super().update(frames)

class Blind(Brightness):
    def look(self, frame, before):
        raise KeyError("eyes")

class Undirected(Brightness):
    higher_is_better = None

class Asking(Brightness):
    def update(self, frames, depth):
        pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, importable."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brightness", raising=False)
    (tmp_path / "brightness.py").write_text(SOURCE)
    return tmp_path / "brightness.py"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        write(folder / f"clip{seed}.mp4", shape_clip(seed))
    return folder


def settings(**extra: Any) -> MetricsSettings:
    return MetricsSettings(video=None, clip=None, extra=extra)


def scored(tmp_path: Path, videos: Path, code: int = 0, **extra: Any) -> dict[str, Any]:
    """What metrics.json says."""
    (tmp_path / "run").mkdir(exist_ok=True)
    config = EvaluateConfig(str(tmp_path / "run"), videos=str(videos), metrics=settings(**extra))
    assert evaluate(replace(config, reference=str(videos))) == code
    found: dict[str, Any] = json.loads((tmp_path / "run" / "metrics.json").read_text())
    return found


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    score: dict[str, Any] = next(score for score in found["set"] if score["name"] == name)
    return score


def test_a_metric_of_the_users_has_values_recipe_and_interval(tmp_path: Path, videos: Path) -> None:
    found = scored(tmp_path, videos, bright=Target("brightness.Brightness", {"scale": 2.0}))
    score = of(found, "bright")
    values = [row["bright"] for row in found["per_video"].values()]
    assert score["value"] == pytest.approx(sum(values) / 3) and 0 < min(values) < max(values) < 2
    assert score["low"] < score["value"] < score["high"] and score["higher_is_better"]
    assert score["recipe"].startswith("bright/brightness.Brightness@")
    assert score["recipe"].endswith("/scale=2.0/16f-uniform/n=3")
    assert found["recipes"]["bright"].endswith("/n=1")
    page = (tmp_path / "run" / "evaluate.md").read_text()
    assert f"`{score['recipe']}`" in page and re.search(r"^\| video .* bright \|$", page, re.M)


def test_torchmetrics_own_classes_are_metrics_as_they_are(tmp_path: Path, videos: Path) -> None:
    psnr = Target("torchmetrics.image.PeakSignalNoiseRatio", {"data_range": 1.0})
    ssim = Target("torchmetrics.image.StructuralSimilarityIndexMeasure", {"data_range": 1.0})
    variation = Target("torchmetrics.image.TotalVariation", {"reduction": "mean"})
    found = scored(tmp_path, videos, SOME_SKIPPED, rgb_psnr=psnr, rgb_ssim=ssim, tv=variation)
    assert of(found, "rgb_ssim")["value"] == pytest.approx(
        1, abs=1e-4
    )  # each video is its own reference
    assert of(found, "tv")["value"] > 0
    assert "gave [inf], and not a finite number" in found["failed"]["rgb_psnr"]


def test_a_score_of_the_whole_set_has_no_interval(tmp_path: Path, videos: Path) -> None:
    found = scored(tmp_path, videos, bright=Target("brightness.OfTheSet"))
    score = of(found, "bright")
    assert score["low"] == score["value"] == score["high"] and score["videos"] == 3
    assert score["warnings"] == ["a score of the whole set, which has no interval"]
    assert all("bright" not in row for row in found["per_video"].values())


def test_a_score_of_the_set_may_give_the_shares_of_its_videos(tmp_path: Path, videos: Path) -> None:
    whole, less = Target("brightness.Shared"), Target("brightness.Shared", {"lost": 1})
    found = scored(tmp_path, videos, SOME_SKIPPED, whole=whole, less=less)
    shares = found["pseudo_values"]["whole"]
    assert sorted(shares) == ["clip0", "clip1", "clip2"] and "less" not in found["pseudo_values"]
    assert sum(shares.values()) / 3 == pytest.approx(of(found, "whole")["value"])
    assert "pseudo_values has 2 values for 3 videos" in found["failed"]["less"]


def test_a_metric_that_raises_costs_its_own_values_alone(tmp_path: Path, videos: Path) -> None:
    broken, blind = Target("brightness.Broken"), Target("brightness.Blind")
    found = scored(tmp_path, videos, SOME_SKIPPED, broken=broken, blind=blind)
    assert of(found, "broken")["videos"] == 2 and "broken" not in found["per_video"]["clip1"]
    assert of(found, "flicker")["videos"] == 3
    assert found["failed"] == {
        "broken": "it failed for clip1 (RuntimeError: no such thing)",
        "blind": "it failed for clip0, clip1, clip2 (KeyError: 'eyes')",
    }
    assert "broken: it failed for clip1 (RuntimeError: no such thing)" in found["notes"]
    assert f"no blind: {found['failed']['blind']}" in found["notes"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Undirected", "metrics.extra.x: brightness.Undirected must say higher_is_better = True"),
        ("Asking", "brightness.Asking.update asks for 'depth', which no video has"),
        ("Nothing", "'brightness.Nothing'"),
    ],
)
def test_what_is_no_metric_is_refused_before_anything_is_scored(
    name: str, sentence: str, videos: Path
) -> None:
    metrics = settings(x=Target(f"brightness.{name}"))
    with pytest.raises(ConfigError) as refused:
        check(EvaluateConfig("run", videos=str(videos), metrics=metrics))
    assert sentence in str(refused.value)


def test_the_name_of_a_score_is_given_once() -> None:
    with pytest.raises(ConfigError, match="metrics.extra.fvd must be a new name"):
        settings(fvd=Target("brightness.Brightness")).check("metrics")


def test_another_source_means_other_scores(module: Path) -> None:
    config = GenerateConfig("run", metrics=settings(bright=Target("brightness.Brightness")))
    plain = replace(config, metrics=settings())
    before = identity(config, {}), identity(plain, {})
    module.write_text(SOURCE + "\n# changed\n")
    assert identity(config, {}) != before[0] != before[1] == identity(plain, {})


def test_the_example_of_the_page_runs(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    source, yaml = re.findall(r"```(?:python|yaml)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "conf" / "metrics").mkdir(parents=True)
    (tmp_path / "edges.py").write_text(source)
    (tmp_path / "conf" / "metrics" / "edges.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    words = [f"videos={videos}", f"run_dir={tmp_path / 'run'}", "metrics=edges"]
    config = compose("evaluate", words)[0].config
    check(config)
    (tmp_path / "run").mkdir()
    assert evaluate(config) == 0
    recipe = of(json.loads((tmp_path / "run" / "metrics.json").read_text()), "edges")["recipe"]
    assert re.fullmatch(r"edges/edges.Edges@\w{8}/step=2/16f-uniform/n=3", recipe)
