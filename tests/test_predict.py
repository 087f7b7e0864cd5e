"""``generate`` as a worker runs it: the run folder, the store, failures and exit codes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import small_config, write_backbone, write_config

from pixelwizard import worker
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import (
    GenerateConfig,
    MemorySettings,
    PlanConfig,
    SamplerSettings,
    StoreSettings,
)
from pixelwizard.config.geometry import WHOLE
from pixelwizard.config.output import DecodeSettings, VideoSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target
from pixelwizard.generation import contact_sheet, placement, predict
from pixelwizard.io import video
from pixelwizard.io.files import read_json
from pixelwizard.io.reading import comment_of, probe, read_frames
from pixelwizard.io.terminal import Display, clock
from pixelwizard.models.attention.auto import KERNELS, choices
from pixelwizard.models.weights import load_vae
from pixelwizard.planning import planner
from pixelwizard.planning.decode_cost import cost_of_decode
from pixelwizard.planning.report import table
from pixelwizard.records.run_folder import LOCK, Status, claim, locked
from pixelwizard.stages import precision
from pixelwizard.stages.decode import Decode

FIRST, SECOND = "001-a-red-circle", "002-a-blue-square-moves-left"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def config(backbone: BackboneSettings, tmp_path: Path) -> GenerateConfig:
    return small_config(backbone, tmp_path)


def run(config: GenerateConfig) -> int:
    return worker.run(write_config(config))


def read(path: Path) -> dict[str, dict[str, str]]:
    return json.loads(path.read_text(encoding="utf-8"))


def results(config: GenerateConfig, kind: str) -> dict[str, torch.Tensor]:
    """The latents of one stage in the store, by key."""
    files = Path(config.store.dir).glob(f"{kind}/*/*.safetensors")
    return {path.stem: load_file(path)["latent"] for path in files}


def test_the_record_names_the_kernel_and_the_type_that_were_chosen(
    config: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: True)
    decode = DecodeSettings(dtype="auto")
    config = replace(config, prompt=config.prompt[:1], attention="auto", decode=decode)
    assert run(config) == 0
    record: Any = read(Path(config.run_dir) / "videos" / f"{FIRST}.json")
    stages = record["stages"]
    assert stages["decode"]["dtype"] == record["config"]["decode"]["dtype"] == "bfloat16"
    kept = list(read_json(choices()).values())
    assert [stages[name]["attention"] for name in ("anchor", "detail")] == kept
    assert set(kept) <= set(KERNELS["cpu"]) and "attention" not in stages["decode"]
    plan = planner.make_plan(config, only=["anchor", "detail"])
    assert [stage.attention for stage in plan.stages] == kept
    assert f"attention {kept[0]}" in table(plan)


def test_a_run_leaves_its_folder(config: GenerateConfig, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(config) == 0
    folder = Path(config.run_dir)
    videos = [folder / "videos" / f"{name}.mp4" for name in (FIRST, SECOND)]
    out, err = capfd.readouterr()
    assert out.split() == [str(path) for path in (folder, *videos)]
    assert "\r" not in err and "\x1b" not in err and "anchor: 1 prompt" in err
    assert "Lightning" not in err and "warn" not in err.lower()
    for path in videos:
        frames = list(read_frames(path))
        assert np.stack(frames).shape == (5, 64, 128, 3)
    assert read(folder / "status.json") == {name: {"state": "done"} for name in (FIRST, SECOND)}
    assert (folder / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "run.log").stat().st_size
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("*.anchor.mp4"))


def test_the_provenance_is_beside_the_video_and_in_it(config: GenerateConfig) -> None:
    assert run(replace(config, seed=5)) == 0
    path = Path(config.run_dir) / "videos" / f"{SECOND}.mp4"
    beside = json.loads(path.with_suffix(".json").read_text())
    inside = json.loads(comment_of(path))
    stages, files = beside.pop("stages"), beside.pop("files")
    assert inside == beside
    assert files[path.name]["bytes"] == path.stat().st_size and len(files) == 1
    assert list(stages) == ["text", "anchor", "detail", "decode"]
    assert all(cost["seconds"] >= 0 and 0 < cost["peak_gb"] < 10 for cost in stages.values())
    assert beside["prompt"] == "a blue square moves left" and beside["negative_prompt"] == "blue"
    assert beside["seeds"] == {"anchor": 5 + 200, "detail": 5 + 100 + 10000}
    assert beside["seed"] == 105  # alone with this seed it gets the same noise
    assert [step["dt"] for step in beside["detail"]["steps"]] == [154, 844]
    assert set(beside["weights"]) == {"text_encoder", "anchor", "detail", "vae"}
    assert beside["config"]["seed"] == 5 and "torch" in beside["versions"]


def test_the_same_command_again_computes_nothing(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(config) == 0
    first = capfd.readouterr().out
    monkeypatch.setattr(predict, "Prediction", None)
    assert run(config) == 0
    assert capfd.readouterr().out == first


def test_a_folder_that_is_in_use_is_refused_and_left_alone(
    config: GenerateConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_config(config)
    with locked(folder, "pixelwizard seed=1"):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ConfigError, match="is in use by process"):
            claim(config, ["pixelwizard"])
        assert worker.run(folder) == 2
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert re.search(r"run_dir=\S+ is in use by process \d+.*seed=1", capfd.readouterr().err)
    assert worker.run(folder) == 0 and not (folder / LOCK).exists()


def test_two_fresh_runs_are_equal_bit_for_bit(backbone: BackboneSettings, tmp_path: Path) -> None:
    configs = [small_config(backbone, tmp_path / name) for name in ("a", "b")]
    assert [run(config) for config in configs] == [0, 0]
    for kind in ("anchor", "detail"):
        one, other = (results(config, kind) for config in configs)
        assert len(one) == 2 and one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    one, other = (Path(config.run_dir) / "videos" / f"{FIRST}.mp4" for config in configs)
    assert one.read_bytes() == other.read_bytes()


def test_own_seeds_make_results_independent_of_the_order(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    lines = [
        json.dumps({"id": "one", "text": "a red circle", "seed": 3}),
        json.dumps({"id": "two", "text": "a blue square", "seed": 4, "negative_prompt": "red"}),
    ]
    found = []
    for name, order in (("a", lines), ("b", lines[::-1]), ("c", lines[1:])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(order))
        config = small_config(backbone, tmp_path / name, prompt=[], prompts=str(file))
        assert run(config) == 0
        found.append(results(config, "detail"))
    both, swapped, alone = found
    assert both.keys() == swapped.keys() and all(torch.equal(both[k], swapped[k]) for k in both)
    assert len(alone) == 1 and all(torch.equal(both[key], alone[key]) for key in alone)


def test_another_schedule_reuses_texts_and_anchors(config: GenerateConfig) -> None:
    assert run(config) == 0
    folder = Path(config.store.dir)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    other = replace(
        config, run_dir=f"{config.run_dir}2", schedule=SamplerSettings(solver="euler", steps=1)
    )
    assert run(other) == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert {path.parent.parent.name for path in after.keys() - before.keys()} == {"detail"}
    assert len(after.keys() - before.keys()) == 2
    assert all(after[path] == before[path] for path in before)


SOLVER = """
from pixelwizard.diffusion.solvers.euler import Euler

class Mine(Euler):
    \"\"\"{}\"\"\"
"""


def test_an_edited_solver_never_meets_the_results_of_its_earlier_self(
    config: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = Target("edited_solver.Mine")
    config = replace(config, schedule=replace(config.schedule, solver=mine), prompt=["a circle"])
    seen = []
    for text in ("first", "second", "first"):
        (tmp_path / "edited_solver.py").write_text(SOLVER.format(text))
        assert run(config) == 0
        (record,) = (read(path) for path in Path(config.run_dir).glob("videos/*.json"))
        seen.append(record["targets"]["schedule.solver"]["sha256"])
        assert len(results(config, "detail")) == len(set(seen))
    assert seen[0] == seen[2] != seen[1] and len(results(config, "anchor")) == 1


def test_a_video_that_is_not_the_one_that_was_written_is_decoded_again(
    config: GenerateConfig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, save_anchor=True)
    assert run(config) == 0
    folder = Path(config.run_dir) / "videos"
    whole = {path: path.read_bytes() for path in folder.glob("*.mp4")}
    monkeypatch.setattr(predict.DetailLoop, "predict_step", None)  # it takes the latents there are
    for number, (path, data) in enumerate(whole.items()):
        path.write_bytes((data[:-1] + bytes([data[-1] ^ 1]), data[:100], b"", data)[number])
    capfd.readouterr()
    assert run(config) == 0
    assert {path: path.read_bytes() for path in folder.glob("*.mp4")} == whole
    assert "decode: 1 prompt" in capfd.readouterr().err


def test_one_flipped_byte_in_the_store_is_said_and_computed_again(
    config: GenerateConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(config) == 0
    videos = {path: path.read_bytes() for path in Path(config.run_dir).glob("videos/*.mp4")}
    (first, *_) = videos
    first.unlink()
    detail = read(first.with_suffix(".json"))["keys"]["detail"]
    path = Path(config.store.dir) / "detail" / detail[:2] / f"{detail}.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 64]) + data[-1:])
    capfd.readouterr()
    assert run(config) == 0
    assert f"{path} is damaged; it was removed and is computed again" in capfd.readouterr().err
    assert path.stat().st_size == len(data) and all(p.read_bytes() == b for p, b in videos.items())


def test_a_latent_that_is_not_finite_fails_its_prompt(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = predict.DetailLoop.noise

    def broken(self: predict.DetailLoop, *arguments: object) -> torch.Tensor:
        drawn = noise(self, *arguments)  # type: ignore[arg-type]
        return drawn * (float("nan") if self.name == "detail" and arguments[1] == 10000 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(predict.DetailLoop, "noise", broken)
        assert run(config) == 3
    said = capfd.readouterr().err
    assert f"prompt {FIRST} failed: detail: the latent is not finite after step 1 of 2" in said
    assert len(results(config, "detail")) == 1
    assert not list(Path(config.store.dir).glob("detail_state/*/*.safetensors"))
    assert run(config) == 0


def test_prompts_whose_files_would_collide_are_refused(
    config: GenerateConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"id": i, "text": "a circle"}) + "\n" for i in NAMES))
    pictures = VideoSettings(png=True)
    config = replace(config, prompt=[], prompts=str(file), video=pictures)
    assert run(config) == 2
    said = "the prompts with id=x and id=X.mp4 would both write videos/X.mp4; give one of them"
    assert said in capfd.readouterr().err


NAMES = ("x", "X.mp4")


def test_many_videos_get_several_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "ROWS", 2)
    with video.VideoWriter(tmp_path / "a.mp4", 64, 32, VideoSettings()) as writer:
        writer.write(np.zeros((3, 32, 64, 3), np.uint8))
    rows = [(f"prompt {n}", tmp_path / "a.mp4", None) for n in range(5)]
    assert contact_sheet.write_contact_sheets(tmp_path, rows) == tmp_path / "contact_sheet.png"
    assert len(list(tmp_path.glob("contact_sheet*.png"))) == 3
    contact_sheet.write_contact_sheets(tmp_path, rows[:1])
    assert [path.name for path in tmp_path.glob("*.png")] == ["contact_sheet.png"]


def test_the_status_of_many_prompts_is_not_written_for_each(
    tmp_path: Path, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def slow(path: Path, value: dict[str, object]) -> None:
        written.append(dict(value))
        seconds[0] += 0.01

    monkeypatch.setattr("pixelwizard.records.run_folder.write_json", slow)
    status = Status(tmp_path / "status.json", [str(n) for n in range(1000)])
    for n in range(1000):
        status.done(str(n))
        seconds[0] += 0.01
    status.close()
    assert 10 < len(written) < 30 and set(map(str, written[-1].values())) == {"{'state': 'done'}"}


def test_the_video_shows_the_latent(config: GenerateConfig, backbone: BackboneSettings) -> None:
    config = replace(config, video=VideoSettings(codec="ffv1"), prompt=["a red circle"])
    assert run(config) == 0
    (latent,) = results(config, "detail").values()
    expected = np.concatenate(list(Decode(load_vae(backbone))(latent)))
    path = Path(config.run_dir) / "videos" / f"{FIRST}.mp4"
    assert np.array_equal(np.stack(list(read_frames(path))), expected)


def test_anchor_previews_can_be_added_later(config: GenerateConfig) -> None:
    assert run(config) == 0
    assert run(replace(config, save_anchor=True)) == 0
    path = Path(config.run_dir) / "videos" / f"{FIRST}.anchor.mp4"
    info = probe(path)
    assert (info.width, info.height) == (64, 32) and len(list(read_frames(path))) == 5


def test_a_failing_prompt_is_named_and_the_others_go_on(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = predict.DetailLoop.texts

    def fail(self: predict.DetailLoop, job: predict.Job) -> object:
        if job.id == FIRST and self.name == "detail":
            raise RuntimeError("numbers\nran out")
        return texts(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(predict.DetailLoop, "texts", fail)
        assert run(config) == 3
    out, err = capfd.readouterr()
    assert f"prompt {FIRST} failed: detail: numbers ran out" in err and "Traceback" not in err
    assert SECOND in out and FIRST not in out
    status = read(Path(config.run_dir) / "status.json")
    assert status[FIRST] == {"state": "failed", "why": "detail: numbers ran out"}
    assert status[SECOND] == {"state": "done"}
    assert "Traceback" in (Path(config.run_dir) / "run.log").read_text()
    assert run(config) == 0
    assert read(Path(config.run_dir) / "status.json")[FIRST] == {"state": "done"}


@pytest.mark.parametrize("tool", ["/bin/false", "/no/such/ffmpeg"])
def test_without_ffmpeg_nothing_is_begun(
    config: GenerateConfig,
    tool: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("IMAGEIO_FFMPEG_EXE", tool)
        assert run(config) == 2
    err = capfd.readouterr().err
    assert err.startswith("pixelwizard: videos need ffmpeg, which does not run") and "\n" in err[-1]
    assert not Path(config.store.dir).exists()


def test_ffmpeg_failing_at_the_end_loses_nothing(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(video, "_encoder", lambda _: ["-c:v", "no_such_codec"])
        assert run(config) == 3
    err = capfd.readouterr().err
    assert "no_such_codec" in err and "the same command decodes it again" in err
    kept = [Path(path) for path in re.findall(r"latent is kept in (\S+\.safetensors):", err)]
    assert {path.stem for path in kept} == results(config, "detail").keys()
    assert all(path.is_file() for path in kept)
    assert not list(Path(config.run_dir).rglob("*.part"))
    monkeypatch.setattr(predict.DetailLoop, "predict_step", None)
    other = replace(config, run_dir=f"{config.run_dir}2", video=VideoSettings(codec="ffv1"))
    assert run(config) == 0 and run(other) == 0


def test_the_users_mistakes_are_one_sentence(
    config: GenerateConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    store = replace(config.store, dir=str(tmp_path / "file" / "store"))
    weights = replace(config.backbone, folder=str(tmp_path / "nowhere"))
    for bad, said in (
        (replace(config, store=store), "store.dir=.* cannot be written"),
        (replace(config, backbone=weights), "backbone=small needs files that are not in"),
        (replace(config, video=VideoSettings(codec="vp10")), "video.codec=vp10 must be one of"),
    ):
        assert run(bad) == 2
        assert re.fullmatch(rf"pixelwizard: [^\n]*{said}[^\n]*\n", capfd.readouterr().err)


def test_a_defect_is_not_called_a_mistake(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pixelwizard.generation.loops.load_anchor", lose)
    assert run(config) == 1
    assert "KeyError: 'lost'" in capfd.readouterr().err
    assert "Traceback" in (Path(config.run_dir) / "run.log").read_text()


def lose(*_: object) -> None:
    raise KeyError("lost")


def test_one_job_comes_first_then_groups() -> None:
    jobs = list(range(6))
    assert [list(group) for group in predict.groups(jobs, 3)] == [[0], [1, 2, 3], [4, 5]]  # type: ignore[arg-type]
    assert list(predict.groups([], 3)) == []


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    yield now


def test_a_terminal_sees_prompt_stage_step_and_time_left(seconds: list[float]) -> None:
    out = Terminal()
    display = Display(["one", "two"], out)
    display.plan({"text": 0, "anchor": 0, "detail": 2, "decode": 2})
    display.enter("detail", 1)
    display.begin("one", "a red circle")
    seconds[0] = 10.0
    display.step(1, 4)
    assert out.getvalue().endswith("[1/2] a red circle  detail 1/4  ETA 0:30 for this stage")
    seconds[0] = 40.0
    display.end()
    display.enter("decode", 1)
    display.begin("one", "a red circle")
    seconds[0] = 44.0
    display.end()
    display.enter("detail", 1)
    display.begin("two", "a blue square")
    seconds[0] = 64.0
    display.step(2, 4)  # half of 40 s, then a decode of 4 s
    assert out.getvalue().endswith("[2/2] a blue square  detail 2/4  ETA 0:24")
    display.say("video done")
    assert out.getvalue().endswith("\r\x1b[Kvideo done\n")


def test_clock() -> None:
    assert [clock(s) for s in (4.4, 65, 3723)] == ["0:04", "1:05", "1:02:03"]


@pytest.mark.parametrize("mode", ["offload", "stream"])
def test_wherever_the_weights_wait_the_latents_are_the_same_bits(
    config: GenerateConfig, tmp_path: Path, mode: Literal["offload", "stream"]
) -> None:
    assert run(config) == 0
    other = replace(
        config,
        run_dir=str(tmp_path / "other"),
        store=StoreSettings(dir=str(tmp_path / "elsewhere")),
        memory=MemorySettings(mode=mode, budget_gb=8.0),
        group_size=1,
    )
    assert run(other) == 0
    expected = results(config, "detail")
    found = results(other, "detail")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    beside = json.loads((Path(other.run_dir) / "videos" / f"{FIRST}.json").read_text())
    assert 0 < beside["stages"]["detail"]["planned_gb"] < 8
    assert "peak" in (Path(other.run_dir) / "run.log").read_text()


def test_a_run_that_cannot_fit_is_refused_before_anything_is_loaded(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planner, "CONTEXT", 5e9)
    assert run(replace(config, memory=MemorySettings(budget_gb=4.0))) == 2
    sentence = capfd.readouterr().err
    assert "memory.budget_gb=4 is too little" in sentence and sentence.count("\n") == 1
    assert not list(Path(config.store.dir).rglob("*.safetensors"))


def test_a_run_does_what_the_plan_says(config: GenerateConfig) -> None:
    config = replace(config, memory=MemorySettings(budget_gb=8.0))
    same = {name: getattr(config, name) for name in ("backbone", "resolution", "memory", "decode")}
    asked = PlanConfig("none", anchor=config.anchor, schedule=config.schedule, **same)
    plan = placement.plan_of(config)
    assert plan is not None and plan == planner.make_plan(asked)
    assert placement.ModelLoader(config, plan).tiles == WHOLE


def test_a_decode_is_tiled_where_little_memory_is_free(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, decode=DecodeSettings(overlap=1), prompt=["a red circle"])
    free = config.resolution.geometry.clip_bytes + cost_of_decode(config, WHOLE).peak - 1
    monkeypatch.setattr(planner, "CONTEXT", 0)
    monkeypatch.setattr(placement, "available", lambda: free)
    assert placement.ModelLoader(config, placement.plan_of(config)).tiles.count == 2
    assert run(config) == 0
    path = Path(config.run_dir) / "videos" / f"{FIRST}.mp4"
    assert np.stack(list(read_frames(path))).shape == (5, 64, 128, 3)
    beside = json.loads(path.with_suffix(".json").read_text())
    assert beside["stages"]["decode"]["tiles"] == [1, 2]
