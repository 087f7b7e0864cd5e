"""Settings: one definition gives defaults, types and checks, and survives a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pixelwizard.config import schema, tasks
from pixelwizard.config.generate import GenerateConfig, SamplerSettings
from pixelwizard.config.schema import ConfigError, marked
from pixelwizard.records.run_folder import claim, config_hash


def plain(**changes: Any) -> dict[str, Any]:
    """The defaults of generate with dotted keys changed (``schedule__steps=4``)."""
    values = {"run_dir": "run", **schema.defaults(GenerateConfig)}
    for key, value in changes.items():
        node = values
        *groups, name = key.split("__")
        for group in groups:
            node = node[group]
        node[name] = value
    return values


def test_plain_values_and_dataclasses_are_the_same_thing() -> None:
    config = tasks.from_plain(plain(schedule__timesteps=[999, 500.5], seed=3))
    assert config.schedule.timesteps == [999.0, 500.5]
    assert tasks.from_plain(schema.to_plain(config)) == config


def test_missing_keys_take_the_defaults_of_the_dataclass() -> None:
    config = tasks.from_plain({"task": "generate", "run_dir": "run", "schedule": {"steps": 4}})
    assert config == tasks.from_plain(plain(schedule__steps=4))


def test_the_run_folder_gives_back_the_configuration(tmp_path: Path) -> None:
    text = 'it\'s "quoted": {a, b} [c] # not a comment, ünïcode 视频'
    config = tasks.from_plain(plain(run_dir=str(tmp_path / "run"), prompt=[text]))
    folder = claim(config, ["pixelwizard", "--prompt", text])
    assert tasks.load(folder / "config.yaml") == config


def test_the_hash_ignores_where_results_lie_and_sees_what_they_depend_on() -> None:
    base = config_hash(tasks.from_plain(plain()))
    assert config_hash(tasks.from_plain(plain(run_dir="other", store__dir="x"))) == base
    assert config_hash(tasks.from_plain(plain(seed=1))) != base


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schedule__steps": 0}, "schedule.steps=0 must be at least 1; nearest: 1"),
        ({"schedule__steps": 4.4}, "schedule.steps=4.4 must be an integer; nearest: 4"),
        ({"schedule__steps": True}, "schedule.steps=true must be an integer"),
        ({"anchor__steps": None}, "anchor.steps=null must be an integer"),
        ({"schedule__solver": "eular"}, "did you mean euler?"),
        ({"schedule__timesteps": []}, "has no step; give at least one"),
        ({"schedule__timesteps": [500, 500]}, "must decrease strictly"),
        ({"schedule__timesteps": [500, 600]}, "must decrease strictly"),
        ({"schedule__timesteps": [1001, 600]}, "1001 is outside 0 "),
        ({"schedule__timesteps": [600, 0]}, "to 1000 (noise); nearest: 1"),
        ({"schedule__timesteps": 999}, "must be a list"),
        ({"schedule__timesteps": ["a"]}, "schedule.timesteps[0]=a must be a number"),
        ({"schedule__guided_steps": [50]}, "must be at most 49; nearest: 49"),
        ({"schedule__guidance": -1.0}, "schedule.guidance=-1.0 must be at least 0.0"),
        ({"schedule__guidance": float("nan")}, "must be a number"),
        ({"schedule__shift": 0.0}, "schedule.shift=0.0 must be at least"),
        (
            {"schedule": {"timesteps": [900, 500], "shift": 5.0}},
            "schedule.shift=5.0 would not change schedule.timesteps; leave one out",
        ),
        ({"resolution__width": 500}, "resolution.width=500 is not a multiple of 32; nearest: 480"),
        ({"resolution__anchor_height": 170}, "resolution.anchor_height=170 is not a multiple"),
        ({"resolution__frames": 16}, "resolution.frames=16 is not 4n+1; nearest: 13 or 17"),
        ({"resolution__frames": -3}, "resolution.frames=-3 is not 4n+1"),
        ({"resolution__anchor_width": 544}, "is larger than resolution.width=512; nearest: 512"),
        (
            {"resolution__width": 320, "resolution__height": 512, "resolution__anchor_width": 256}
            | {"resolution__anchor_height": 160},
            "(by 156%, at most 10%); leave both out, or nearest: resolution.anchor_width=160"
            " resolution.anchor_height=256",
        ),
        (
            {"decode": {"mode": "tiled", "tiles": [2, 99]}},
            "decode.overlap=3 allow; nearest: [2, 5]",
        ),
        ({"decode__tiles": [3]}, "decode.tiles=[3] must be [rows, columns], like [2, 3]"),
        (
            {"decode__tiles": [2, 2]},
            "decode.tiles=[2, 2] is for decode.mode=tiled, not auto; use that or leave it out",
        ),
        (
            {"decode": {"mode": "seamless", "overlap": 5}},
            "decode.overlap=5 is for tiles, and decode.mode=seamless has none; leave it out",
        ),
        ({"decode__mode": "tiles"}, "did you mean tiled?"),
        ({"video__codec": "av2"}, "did you mean av1?"),
        ({"video": {"codec": "prores", "bits": 8}}, "with video.codec=prores; nearest: 10"),
        ({"video__bits": 12}, "video.bits=12 is not possible with video.codec=h264; nearest: 8 or"),
        ({"video__crf": 60}, "video.crf=60 must be at most 51; nearest: 51"),
        (
            {"video": {"codec": "ffv1", "crf": 30}},
            "video.crf=30 is for codecs with a constant quality, and video.codec=ffv1 has none",
        ),
        ({"backbone__dit__dim": 3071}, "nearest: 3072"),
        ({"backbone__control_blocks": [30]}, "backbone.control_blocks=30 must be at most 29"),
        ({"video": 3}, "video=3 must be a group of keys: fps, codec, crf, bits, png"),
        ({"video__fsp": 3}, "unknown key 'video.fsp'; did you mean video.fps?"),
        ({"save_anchor": "yes"}, "save_anchor=yes must be true or false"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"tracker__kind": "wanbd"}, "did you mean wandb?"),
        (
            {"task": "trian"},
            "task=trian must be one of bench, compare, convert, encode, evaluate, fetch, generate,"
            " plan, replay, table, train;"
            " did you mean train?",
        ),
        ({"run_dir": None}, "run_dir=null must be text"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError) as error:
        tasks.from_plain(plain(**changes))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_prompts_come_from_one_place_only() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        tasks.from_plain(plain(prompt=["a"], prompts="file.txt"))


@pytest.mark.parametrize("content", ["", "[1, 2]", "just text"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match="task=null must be one of"):
        tasks.load(tmp_path / "config.yaml")


def test_guided_steps_without_guidance_are_refused() -> None:
    sampler = SamplerSettings(guidance=1.0, guided_steps=[0])
    with pytest.raises(ConfigError, match=r"schedule.guided_steps=\[0\] needs a schedule.guidance"):
        sampler.check("schedule")


SHARED = {"run_dir", "search", "replaced"}
MARKED: dict[tuple[str, str], set[str]] = {
    ("path", "generate"): {"run_dir", "store.dir", "prompts", "reference", "metrics.folder"}
    | {"backbone.folder", "backbone.anchor", "backbone.detail"},
    ("path", "train"): {"run_dir", "data.dir", "data.captions", "objective.init_from"}
    | {"backbone.folder", "backbone.anchor", "backbone.detail", "metrics.folder"},
    ("path", "fetch"): {"source.folder"},
    ("path", "replay"): {"file", "out"},
    ("path", "compare"): {"runs", "out"},
    ("path", "evaluate"): {"run_dir", "videos", "captions", "reference", "metrics.folder"},
    ("incidental", "generate"): {*SHARED, "store", "tracker", "group_size", "save_anchor"}
    | {"memory.mode", "memory.budget_gb", "memory.chunk", "parallel", "metrics", "reference"},
    ("incidental", "train"): {*SHARED, "tracker", "parallel", "checkpoint", "samples", "metrics"}
    | {f"trainer.{name}" for name in ("max_steps", "max_time", "threads", "log_every_n_steps")}
    | {"trainer.gradient_checkpointing", "trainer.profiler", "callbacks", "data.workers"},
    ("incidental", "encode"): {*SHARED, "data.workers"},
    ("incidental", "evaluate"): {*SHARED, "format"},
    ("names_run", "generate"): {"backbone", "resolution", "schedule"},
    ("names_run", "train"): {"backbone", "resolution", "schedule"},
    ("names_run", "bench"): {"bench", "backbone", "resolution", "schedule"},
    ("names_run", "evaluate"): {"metrics"},
    ("of_sample", "generate"): {"seed", "prompt", "prompts"},
    ("of_latents", "encode"): {"stage", "backbone.name", "backbone.vae", "backbone.text"}
    | {"backbone.dit", "resolution.width", "resolution.height", "resolution.frames"}
    | {"resolution.anchor_width", "resolution.anchor_height"},
}


@pytest.mark.parametrize(("mark", "task"), MARKED)
def test_a_field_says_what_its_key_is_for(mark: str, task: str) -> None:
    assert marked(tasks.ROOTS[task], mark).keys() >= MARKED[mark, task]


def test_every_group_is_checked_and_named_by_its_key() -> None:
    values = {"run_dir": "run", "task": "bench", "second": {"width": 33}}
    with pytest.raises(ConfigError, match=r"second.width=33 is not a multiple of 32"):
        tasks.from_plain(values)
    values = {"run_dir": "run", "task": "train", "optimizer": {"betas": [0.9, 1.5]}}
    with pytest.raises(ConfigError, match=r"optimizer.betas=1.5 must be at most 1.0"):
        tasks.from_plain(values)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"kind": "shapes", "fps": 12.0}, "data.fps=12.0 is for data=clips; leave it out"),
        ({"kind": "latents", "shard": 4}, "data.shard=4 is for data=shapes or data=clips; leave"),
        ({"kind": "clips", "captions": "a.csv", "count": 1}, "data.count=1 is for data=shapes;"),
    ],
)
def test_what_a_kind_has_no_use_for_is_refused(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tasks.from_plain({"run_dir": "run", "task": "train", "data": data})
