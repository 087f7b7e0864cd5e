"""A comparison joins by prompt and seed, pairs what it compares, and says what it cannot."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import comparable
import pytest
import yaml
from comparable import PROMPTS, SIZE, make_run, make_sweep
from PIL import Image

from pixelwizard.cli.main import main
from pixelwizard.comparison.differences import BESIDE, COSTS, Comparison, compare, cost_of
from pixelwizard.comparison.distance import compared_stage
from pixelwizard.comparison.plot import colours_of, draw_pareto
from pixelwizard.comparison.run import comparison_of, out_folder, write_comparison
from pixelwizard.comparison.tables import to_text
from pixelwizard.comparison.variants import Variant, _name_apart, read_variants
from pixelwizard.config.evaluate import CompareConfig, why_no_target
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.targets import Target
from pixelwizard.io.files import file_digest, write_json
from pixelwizard.io.store import Store
from pixelwizard.records.run_folder import locked

SHORTCUT = SamplerSettings(steps=4, step_sizes="raw")
EULER = SamplerSettings(solver="euler", steps=4)
MANY = SamplerSettings(steps=50)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("made") / "sweep")


def compared(*folders: Path, **changes: object) -> Comparison:
    return comparison_of(CompareConfig(runs=[str(f) for f in folders], **changes))  # type: ignore[arg-type]


def test_runs_that_differ_in_the_seed_alone_are_one_variant(sweep: Path) -> None:
    variants, notes = read_variants([sweep])
    assert [variant.name for variant in variants] == ["shortcut4", "euler4", "euler8", "unipc50"]
    assert all(len(variant.videos) == 4 for variant in variants) and not notes


def test_the_distance_is_that_of_the_latents_from_the_same_noise(sweep: Path) -> None:
    found = compared(sweep)
    assert found.target == "unipc50" and found.baseline == "shortcut4"
    values = {row.variant.name: row.scores["distance"].value for row in found.rows}
    factor = sum(1 + 0.1 * n + 0.05 * s for n in (0, 1) for s in (0, 1)) / 4
    assert values["shortcut4"] == pytest.approx(0.02 * factor, rel=1e-6)
    assert values["euler4"] == pytest.approx(0.05 * factor, rel=1e-6)
    assert values["unipc50"] == 0


def test_without_a_run_of_many_steps_there_is_no_distance(sweep: Path) -> None:
    jobs = [sweep / f"schedule={name},seed=0" for name in ("shortcut4", "euler4", "euler8")]
    found = compared(*jobs)
    assert found.target is None and found.quality == "clip-score"
    assert "distance" not in found.names
    assert found.notes[0].startswith(
        "distance is left out: no variant can be its target; schedule=euler8,seed=0 comes closest,"
        " but it has 8 steps, and at least 32 are needed; run schedule=unipc50"
    )
    with pytest.raises(ConfigError, match="quality=distance cannot be compared: no variant"):
        compared(*jobs, quality="distance")


@pytest.mark.parametrize(
    ("sampler", "why"),
    [
        (SamplerSettings(steps=31), "it has 31 steps, and at least 32 are needed"),
        (SamplerSettings(steps=50, timesteps=[999, 500]), "it has 2 steps"),
        (SamplerSettings(step_sizes="raw"), "its schedule has step_sizes=raw, which must be none"),
        (SamplerSettings(solver=Target("heun.Heun")), "is not one of pixelwizard's"),
        (SamplerSettings(solver="euler", steps=32), ""),
    ],
)
def test_a_target_takes_many_steps_and_is_not_told_their_sizes(
    sampler: SamplerSettings, why: str
) -> None:
    found = why_no_target(to_plain(sampler))
    assert why in found and bool(why) == bool(found)


def test_differences_are_paired_and_have_a_sign(sweep: Path) -> None:
    euler, unipc = (
        row for row in compared(sweep).rows if row.variant.name in ("euler4", "unipc50")
    )
    d = euler.differences["distance"]
    assert d.sign == "worse" and 0.03 * 0.98 < d.low < d.value < d.high < 0.03 * 1.2
    assert (d.high - d.low) < 0.2 * d.value  # unpaired, the spread of both would be in it
    assert unipc.differences["distance"].sign == "better"
    assert euler.differences["nfe"].sign == "equal"
    assert euler.differences["clip-score"].sign == "better"  # as metrics.json says, more is better


def test_what_another_variant_beats_is_dominated(sweep: Path) -> None:
    dominated = {row.variant.name: row.dominated for row in compared(sweep).rows}
    assert dominated["euler4"]["nfe"] and dominated["euler8"]["nfe"]
    assert not dominated["shortcut4"]["nfe"] and not dominated["unipc50"]["nfe"]


def test_an_interval_around_zero_is_unclear(tmp_path: Path) -> None:
    for name, sampler, errors in (("a", SHORTCUT, (0.02, 0.04)), ("b", EULER, (0.04, 0.02))):
        for seed, error in enumerate(errors):
            make_run(tmp_path / f"{name}{seed}", sampler, error, seed=seed, prompts=PROMPTS[:1])
    for seed in (0, 1):
        make_run(tmp_path / f"c{seed}", MANY, 0.0, seed=seed, prompts=PROMPTS[:1])
    found = compared(*(tmp_path / f"{name}{seed}" for name in "abc" for seed in (0, 1)))
    assert [row.variant.name for row in found.rows] == ["a0", "b0", "c0"]
    assert found.rows[1].differences["distance"].sign == "unclear"


def test_all_of_it_is_written_and_printed(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(sweep), f"out={tmp_path / 'out'}", "tracker=none"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "shortcut4" in said and f"{tmp_path}/out/report/index.html" in said
    lines = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    assert len(lines) == 4 * 6 and {line["sign"] for line in lines} >= {"better", "worse", "equal"}
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert re.search(r"^\| euler4 +\| +0\.05375 \(\+0\.032\d - \+0\.0\d+ to ", table, re.MULTILINE)
    assert "latent-mse/to=unipc50/n=4" in table
    with Image.open(tmp_path / "out" / "pareto.png") as picture:
        assert picture.width > 1200
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "http" not in re.sub(r'"http://www.w3.org/2000/svg"', "", page)
    assert len(list((tmp_path / "out" / "report" / "videos").glob("*.mp4"))) == 16
    assert main([*words, "format=json", "quality=clip-score", "baseline=euler4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["quality"], found["baseline"]) == ("clip-score", "euler4")


def test_a_terminal_shows_signs_and_lies_the_way_that_is_narrower(sweep: Path) -> None:
    found = compared(sweep)
    few = to_text(replace(found, rows=found.rows[:2])).splitlines()
    assert few[0].split()[0] == "variant" and few[1].startswith("distance ↓")
    many = to_text(replace(found, rows=found.rows * 20)).splitlines()
    assert many[0].split()[:2] == ["variant", "distance"]
    text = to_text(found)
    assert "(" not in text.split("\n\n")[0] and "+ better, - worse, ? unclear" in text


def test_the_comparison_is_recorded_by_wandb(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["compare", str(sweep), f"out={tmp_path / 'out'}"]) == 0
    (record,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    kept = {path.name.split("_")[0] for path in record.rglob("media/*/*") if path.is_file()}
    assert {"comparison", "pareto", "report"} <= kept


def test_trainings_are_told_apart_by_the_folders_that_differ() -> None:
    names = [
        f"backbone.detail=/runs/{method}/0/export/detail/model.safetensors,schedule={schedule}"
        for method in ("flow_map", "shortcut")
        for schedule in ("euler4", "euler50")
    ]
    variants = {name: Variant(name, {}) for name in names}
    _name_apart(variants)
    assert [variant.name for variant in variants.values()] == [
        "backbone.detail=flow_map,schedule=euler4",
        "backbone.detail=flow_map,schedule=euler50",
        "backbone.detail=shortcut,schedule=euler4",
        "backbone.detail=shortcut,schedule=euler50",
    ]


def test_of_several_trainings_the_baselines_many_steps_are_the_target(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = SamplerSettings(solver="unipc", steps=60)
    with monkeypatch.context() as patch:
        patch.setitem(comparable.DIGESTS, "detail", "1" * 64)
        make_run(tmp_path / "other" / "run", many, 0.01)
    alone = compared(sweep)
    both = compared(sweep, tmp_path / "other" / "run")
    assert alone.target == "unipc50" and both.target == "schedule=unipc50"
    assert len({row.variant.trained for row in both.rows}) == 2
    assert any("weights of several trainings" in note for note in both.notes)
    assert compared(sweep, tmp_path / "other" / "run", target="run").target == "run"
    assert len(set(colours_of(both))) == 2 and len(set(colours_of(alone))) == len(alone.rows)
    draw_pareto(both, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size


def test_jobs_are_named_by_folders_with_an_equals_sign(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(sweep.parent)
    jobs = [f"sweep/schedule={name},seed=0" for name in ("euler4", "euler8")]
    assert main(["compare", *jobs, "out=two", "tracker=none", "format=json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["arms"]) == 2
    assert out_folder(CompareConfig(runs=["a", "b"])).name.startswith("compare-")


def test_without_latents_the_videos_are_compared(tmp_path: Path) -> None:
    for name, sampler, error in (("a", SHORTCUT, 0.0), ("b", EULER, 0.03), ("c", MANY, 0.0)):
        config = make_run(tmp_path / name, sampler, error, prompts=PROMPTS[:1])
    for latent in Store(config.store.dir).root.rglob("*.safetensors"):
        latent.unlink()
    found = compared(*(tmp_path / name for name in "abc"))
    first, second, end = (row.scores["distance"] for row in found.rows)
    assert first.recipe == "100-psnr/ffmpeg-yuv420p/to=c/n=1"
    assert end.value == 0 and first.value < 20 < second.value


def test_a_sweep_that_still_runs_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    ledger = json.loads((sweep / "sweep.json").read_text())
    ledger["jobs"]["schedule=euler8,seed=1"] |= {"status": "pending"}
    ledger["jobs"]["schedule=other,seed=0"] = {"status": "failed", "reason": "it burnt"}
    (sweep / "sweep.json").write_text(json.dumps(ledger))
    folder = sweep / "schedule=euler8,seed=1"
    states = json.loads((folder / "status.json").read_text())
    lost, pending = states
    states[pending] = {"state": "pending"}
    (folder / "status.json").write_text(json.dumps(states))
    (folder / "videos" / f"{lost}.mp4").unlink()
    found = compared(sweep)
    assert len(found.samples) == 2 and [row.variant.name for row in found.rows][2] == "euler8"
    assert found.notes[:2] == [
        "schedule=euler8,seed=1 is pending; only its finished videos are compared",
        "schedule=other,seed=0 is failed (it burnt); only its finished videos are compared",
    ]
    assert (
        f"schedule=euler8,seed=1 lacks its video {lost}: No such file or directory" in found.notes
    )
    assert f"schedule=euler8,seed=1 has no video {pending}: not made yet" in found.notes
    assert (
        "all figures are of the 2 videos that every variant has, of up to 4 (euler8)" in found.notes
    )


def test_different_recipes_are_refused_or_left_out(tmp_path: Path) -> None:
    scored = {"metrics": {"clip-score": 20.0}}
    make_run(tmp_path / "a", SHORTCUT, 0.02, recipe="clip/one", **scored)  # type: ignore[arg-type]
    make_run(tmp_path / "b", MANY, 0.03, recipe="clip/other", **scored)  # type: ignore[arg-type]
    found = compared(tmp_path / "a", tmp_path / "b")
    assert "clip-score" not in found.names
    assert found.notes == [
        "clip-score is left out: it was computed by different recipes: clip/one, clip/other"
    ]
    with pytest.raises(ConfigError, match="quality=clip-score cannot be compared: it was computed"):
        compared(tmp_path / "a", tmp_path / "b", quality="clip-score")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "runs is missing; name a sweep's folder"),
        (["nothing"], "nothing is not a folder"),
        (["empty"], "empty is neither a sweep nor a run folder of generate"),
        (["a", "other"], "no two of these runs have a prompt and a seed in common: a begins with"),
        (["a"], "all of these videos have the settings of a; add other runs"),
        (["a", "large"], "have latents of other sizes"),
        (["a", "b", "baseline=x"], "baseline=x must be one of a, b"),
        (["a", "b", "target=x"], "target=x must be one of a, b"),
        (
            ["a", "b", "target=a"],
            "target=a does not qualify: it has 4 steps, and at least 32 are needed",
        ),
        (["a", "many", "quality=clip"], "quality=clip must be one of distance"),
        (["a", "b", "quality=psnr"], "quality=psnr is a similarity to real clips"),
        (["a", "b", "tracker=csv"], "tracker=csv records no comparison; nearest: wandb"),
        (
            ["a", "many", "out=full"],
            "full/report exists and is not a report; compare replaces only",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    words: list[str],
    sentence: str,
    few: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(few)
    assert main(["compare", *words, *([] if "tracker=csv" in words else ["tracker=none"])]) == 2
    said = capsys.readouterr().err.replace(f"{few}/", "")
    assert said.startswith("pixelwizard: ") and said.count("\n") == 1 and sentence in said


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    (folder / "empty").mkdir()
    (folder / "full" / "report").mkdir(parents=True)
    make_run(folder / "a", SHORTCUT, 0.02)
    make_run(folder / "b", EULER, 0.03)
    make_run(folder / "many", MANY, 0.0)
    make_run(folder / "other", SamplerSettings(solver="euler", steps=5), 0.03, seed=5)
    large = ResolutionSettings(288, 192, SIZE.frames, 96, 64)
    config = make_run(folder / "large", MANY, 0.0, size=large)
    store = Store(config.store.dir)
    for path in (folder / "large" / "videos").glob("*.json"):
        key = json.loads(path.read_text())["keys"]["detail"]
        latent = store.load("detail", key)["latent"]
        store.save("detail", key, {"latent": latent.repeat(1, 1, 1, 2)}, {})
    return folder


def test_variants_without_anything_in_common_are_left_out_and_named(few: Path) -> None:
    variants, _ = read_variants([few / name for name in ("a", "many", "other")])
    found = compare(variants)
    assert [row.variant.name for row in found.rows] == ["a", "many"]
    assert found.notes == ["other has no prompt and seed in common with a: left out"]


def test_variants_of_several_sizes_are_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "a", SHORTCUT, 0.02)
    large = ResolutionSettings(288, 192, SIZE.frames, 96, 64)
    make_run(tmp_path / "b", EULER, 0.03, size=large)
    notes = compared(tmp_path / "a", tmp_path / "b").notes
    said = "the variants differ in size, so they begin with different noise: "
    frames = f"with {SIZE.frames} frames"
    assert f"{said}a {SIZE.width}x{SIZE.height} {frames}, b 288x192 {frames}" in notes


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two runs of two videos, the second of many steps."""
    scored = {"metrics": {"clip-score": 20.0}}
    make_run(tmp_path / "a", SHORTCUT, 0.02, **scored)  # type: ignore[arg-type]
    make_run(tmp_path / "b", MANY, 0.0, **scored)  # type: ignore[arg-type]
    return tmp_path


def score_set(
    run: Path,
    value: float,
    recipe: str = "fvd/n=2",
    videos: int = 2,
    shares: Sequence[float] = (),
) -> None:
    """Scores as a run writes them: of its videos, and one of the whole set with their shares."""
    records = {path.stem: json.loads(path.read_text()) for path in run.glob("videos/*.json")}
    own = {id: {"clip-score": r["metrics"]["clip-score"]["value"]} for id, r in records.items()}
    facts = {"name": "fvd", "value": value, "low": value - 1, "high": value + 2}
    facts |= {"recipe": recipe, "videos": videos, "higher_is_better": False}
    mean = {"name": "clip-score", "higher_is_better": True}
    scores = {"per_video": own, "recipes": {"clip-score": "score/of=this"}, "set": [mean, facts]}
    scores["pseudo_values"] = {"fvd": dict(zip(own, shares, strict=False))}
    (run / "metrics.json").write_text(json.dumps(scores))


def test_scores_of_whole_sets_stand_beside_the_paired_ones(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score_set(pair / "a", 50.0)
    score_set(pair / "b", 60.0)
    runs = f"compare {pair / 'a'} {pair / 'b'} out={pair / 'out'} tracker=none"
    assert main(runs.split()) == 0
    assert "50 (49 to 52)" in capsys.readouterr().out
    lines = list(csv.DictReader((pair / "out" / "comparison.csv").open()))
    found = {line["arm"]: line for line in lines if line["score"] == "fvd"}
    assert found["b"]["value"] == "60.0" and found["b"]["sign"] == "" and len(found) == 2
    assert "| b       | 60 (59 to 62) |" in (pair / "out" / "comparison.md").read_text()
    assert '"fvd": {"a": ' in (pair / "out" / "report" / "index.html").read_text()


def test_scores_of_sets_are_paired_by_the_shares_of_their_videos(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score_set(pair / "a", 50.0, shares=(48.0, 52.0))
    score_set(pair / "b", 60.0, shares=(57.0, 63.0))
    runs = [str(pair / "a"), str(pair / "b")]
    assert main(["compare", *runs, f"out={pair / 'out'}", "tracker=none"]) == 0
    assert "60 (59 to 62), +10 - +" in capsys.readouterr().out
    lines = list(csv.DictReader((pair / "out" / "comparison.csv").open()))
    (b,) = (line for line in lines if line["score"] == "fvd" and line["arm"] == "b")
    assert float(b["difference"]) == 10 and b["sign"] == "worse"
    assert main(["plan", *runs, "scores=[fvd]", "n=24", "format=json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["power"]
    assert found["deviation"] == pytest.approx(2**0.5) and found["largest"] == 10


def test_a_score_of_sets_without_shares_has_no_power_and_says_why(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score_set(pair / "a", 50.0)
    score_set(pair / "b", 60.0)
    assert main(["plan", str(pair / "a"), str(pair / "b")]) == 0
    said = capsys.readouterr().out
    assert "- fvd has no value: its runs have no pseudo-values of single videos" in said


def test_of_several_runs_the_mean_of_their_sets_is_shown(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    for name, values in (("shortcut4", (50, 54)), ("euler4", (60, 60)), ("unipc50", (40, 41))):
        for seed, value in enumerate(values):
            score_set(tmp_path / f"schedule={name},seed={seed}", value)
    found = compared(tmp_path)
    sets = found.sets["fvd"]
    assert list(sets) == ["shortcut4", "euler4", "unipc50"] and sets["shortcut4"].runs == 2
    assert sets["shortcut4"].value == 52 and sets["euler4"].low == sets["euler4"].high == 60


def test_scores_of_other_videos_or_another_recipe_are_left_out(pair: Path) -> None:
    score_set(pair / "a", 50.0)
    score_set(pair / "b", 60.0, recipe="fvd/other")
    found = compared(pair / "a", pair / "b")
    assert not found.sets
    assert (
        "fvd is left out: it was computed by different recipes: fvd/n=2, fvd/other" in found.notes
    )
    scores = json.loads((pair / "b" / "metrics.json").read_text())
    scores["per_video"].popitem()
    (pair / "b" / "metrics.json").write_text(json.dumps(scores))
    assert "fvd is left out: only a has it" in compared(pair / "a", pair / "b").notes


def test_a_video_that_is_not_the_one_written_is_left_out(pair: Path) -> None:
    first, second = sorted((pair / "a" / "videos").glob("*.mp4"))
    for video in (first, second):
        record = json.loads(video.with_suffix(".json").read_text())
        written = {"bytes": video.stat().st_size, "sha256": file_digest(video)}
        write_json(video.with_suffix(".json"), {**record, "files": {video.name: written}})
    assert len(compared(pair / "a", pair / "b").samples) == 2
    first.write_bytes(first.read_bytes()[:-100])
    found = compared(pair / "a", pair / "b")
    assert len(found.samples) == 1
    assert f"{first} is not the file that was written; repeat its run" in found.notes[0]


@pytest.mark.parametrize("content", ["", "[]", '{"prompt": 1}', "{" * 100000])
def test_a_damaged_record_costs_its_video_and_is_named(pair: Path, content: str) -> None:
    record = min((pair / "a" / "videos").glob("*.json"))
    record.write_text(content)
    found = compared(pair / "a", pair / "b")
    assert len(found.samples) == 1 and f"{record} is damaged" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [("status.json", "{["), ("status.json", '{"complete": true}'), ("config.yaml", "{[")],
)
def test_a_damaged_run_is_named(pair: Path, name: str, content: str) -> None:
    (pair / "a" / name).write_text(content)
    with pytest.raises(ConfigError, match="there is no finished video|config.yaml cannot be read"):
        compared(pair / "a")
    if name == "status.json":
        _, notes = read_variants([pair / "a"])
        assert notes[0].startswith(f"a is left out: {pair / 'a' / name} is damaged")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"jobs": [1]}', '{"jobs": {"a": 1}}'])
def test_a_damaged_ledger_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ConfigError, match="sweep.json is damaged"):
        compared(tmp_path)


def test_a_score_of_unknown_direction_is_left_out(pair: Path) -> None:
    for run in ("a", "b"):
        (pair / run / "metrics.json").write_text("{")
    found = compared(pair / "a", pair / "b")
    assert "clip-score" not in found.names
    assert (
        "clip-score is left out: no metrics.json says whether more of it is better" in found.notes
    )


def test_a_comparison_replaces_only_what_one_has_made(pair: Path) -> None:
    out, found = pair / "out", compared(pair / "a", pair / "b")
    out.mkdir()
    (out / "comparison.csv").write_text("mine")
    with pytest.raises(ConfigError, match="out holds comparison.csv of something else"):
        write_comparison(found, out)
    (out / "comparison.csv").unlink()
    assert write_comparison(found, out) == write_comparison(found, out) == []
    (out / "report" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="report exists and holds notes.txt"):
        write_comparison(found, out)
    assert (out / "report" / "notes.txt").read_text() == "mine"


def test_two_comparisons_do_not_share_a_folder(pair: Path) -> None:
    found = compared(pair / "a", pair / "b")
    with locked(pair / "out", file=".compare.lock"):
        with pytest.raises(ConfigError, match="out is in use by process .*; wait until it ends"):
            write_comparison(found, pair / "out")
    with locked(pair / "out"):  # a sweep that still runs there
        assert write_comparison(found, pair / "out") == []
    assert not list((pair / "out").glob("*lock"))


def test_a_run_of_an_earlier_version_is_read(pair: Path) -> None:
    file = pair / "a" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    gone = {"project": "pixelwizard", "mode": "auto", "artifact": False, "options": {}}
    config["tracker"] = {"kind": "none", "logger": None, **gone}
    del config["schedule"]["skip"]
    file.write_text(yaml.safe_dump(config))
    assert len(compared(pair / "a", pair / "b").rows) == 2


def test_without_any_score_the_videos_are_shown_and_seconds_rank(few: Path, tmp_path: Path) -> None:
    found = compared(few / "a", few / "b")
    assert found.quality == "seconds" and found.names[:2] == ["seconds", "nfe"]
    assert found.notes[-1] == "seconds ranks the variants instead"
    assert write_comparison(found, tmp_path) == []


def test_where_only_anchors_differ_the_anchor_stage_is_compared() -> None:
    few, many = {"steps": 8, "solver": "unipc"}, {"steps": 50, "solver": "unipc"}

    def variant(anchor: dict[str, object], detail: dict[str, object]) -> Variant:
        return Variant("one", {"anchor": anchor, "schedule": detail})

    assert compared_stage([variant(few, few), variant(many, few)]) == "anchor"
    assert compared_stage([variant(few, few), variant(few, many)]) == "detail"
    assert compared_stage([variant(few, few), variant(many, many)]) == "detail"
    assert compared_stage([variant(few, few), variant(few, few)]) == "detail"


def test_skipped_steps_and_the_seconds_of_all_stages_stand_beside_the_costs() -> None:
    steps = [{"computed": True}, {"computed": False}, {"computed": False}]
    record = {
        "device": "cpu",
        "stages": {"anchor": {"seconds": 1.0}, "decode": {"seconds": 6}},
        "anchor": {"nfe": 9, "steps": steps},
        "detail": {"nfe": 3, "steps": steps[:1]},
    }
    found = {name: cost_of(record, name, "anchor")[0] for name in (*COSTS, *BESIDE)}
    assert found == {"seconds": 1.0, "nfe": 9, "skipped": 2, "all-seconds": 7.0}
    assert cost_of(record, "skipped", "detail") == (0, "skipped steps of the detail stage")
