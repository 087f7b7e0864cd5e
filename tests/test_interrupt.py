"""A run that is stopped in any stage keeps what it has; the same command ends in the same bits."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small import small_config, write_backbone, write_config

from pixelwizard import __main__, worker
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import GenerateConfig, SamplerSettings
from pixelwizard.io.process import SIGNALS, Interrupted, interruptible

PRELOAD = [
    *("small", "pixelwizard.worker", "pixelwizard.generation.predict"),
    "transformers.models.umt5",
]
FIRST, SECOND = "001-a-red-circle", "002-a-blue-square-moves-left"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def undisturbed(
    backbone: BackboneSettings, tmp_path_factory: pytest.TempPathFactory
) -> GenerateConfig:
    config = small(backbone, tmp_path_factory.mktemp("undisturbed"))
    assert work(config) == 0
    return config


def small(backbone: BackboneSettings, folder: Path) -> GenerateConfig:
    """Both prompts in one group, so that one may be half done while the other is done."""
    return replace(small_config(backbone, folder), anchor=SamplerSettings(steps=4))


def work(config: GenerateConfig, *stop: object) -> int:
    """Run a worker in a process of its own; its exit code. ``stop``: see ``child``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=child, args=(str(write_config(config)), *stop))
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode


def child(folder: str, stage: str = "", prompt: int = 0, step: int = 0, number: int = 0) -> None:
    """A worker that sends itself the signal ``number`` in a stage at a step of a prompt."""
    from pixelwizard.generation import loops
    from pixelwizard.io.terminal import Display

    begin, show = Display.begin, Display.step
    at = [0]

    def on_begin(self: Display, id: str, text: str) -> None:
        at[0] = place = self.numbers[id]
        begin(self, id, text)
        if stage == self.stage == "text" and place == prompt:
            os.kill(os.getpid(), number)

    def on_step(self: Display, done: int, steps: int, first: int = 0) -> None:
        show(self, done, steps, first)
        if (self.stage, at[0], done) == (stage, prompt, step):
            os.kill(os.getpid(), number)

    Display.begin, Display.step = on_begin, on_step  # type: ignore[method-assign]
    loops.AnchorLoop.state_seconds = 0.0
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a launch's server may block them
    sys.exit(worker.run(Path(folder)))


def files(config: GenerateConfig) -> dict[str, bytes]:
    """Every tensor in the store and every video, without what timing notes beside them."""
    found = {path.name: path.read_bytes() for path in Path(config.run_dir).rglob("*.mp4")}
    for path in Path(config.store.dir).rglob("*.safetensors"):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        found[f"{path.parent.parent.name}/{path.name}"] = data[8 + length :]
    return found


def test_a_signal_while_an_object_is_destroyed_is_not_lost() -> None:
    class Closing:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with pytest.raises(Interrupted) as stopped, interruptible():
        Closing()
        time.sleep(10)
    assert stopped.value.exit_code == 143


def test_a_repeated_signal_does_not_disturb_the_way_out() -> None:
    way_out = []
    with pytest.raises(Interrupted), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            way_out.append("done")
    assert way_out == ["done"]


def library(number: int) -> int:
    """What a library does that makes another error of an interruption during its import."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(10)
    except BaseException:
        raise AttributeError("module has no attribute '_multiarray_umath'") from None
    return 0


def test_an_interruption_that_a_library_turned_into_an_error_is_one() -> None:
    with pytest.raises(Interrupted) as stopped, interruptible():
        library(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    with pytest.raises(AttributeError), interruptible():
        raise AttributeError("nobody interrupted")


def test_ctrl_c_that_a_library_turned_into_an_error_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr("pixelwizard.cli.main.main", lambda: library(signal.SIGINT))
        assert __main__.main() == 130
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("stage", "prompt", "step", "number"),
    [
        ("text", 2, 0, signal.SIGINT),
        ("anchor", 1, 2, signal.SIGKILL),
        ("anchor", 2, 3, signal.SIGTERM),
        ("detail", 2, 1, signal.SIGKILL),
        ("detail", 1, 1, signal.SIGINT),
        ("decode", 2, 1, signal.SIGINT),
        ("decode", 1, 5, signal.SIGKILL),
    ],
)
def test_the_same_command_continues_and_ends_in_the_same_bits(
    backbone: BackboneSettings,
    undisturbed: GenerateConfig,
    tmp_path: Path,
    stage: str,
    prompt: int,
    step: int,
    number: int,
) -> None:
    config = small(backbone, tmp_path)
    code = work(config, stage, prompt, step, number)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    kept = files(config)
    states = [name for name in kept if "_state/" in name]
    assert len(states) == (stage in ("anchor", "detail"))
    if number != signal.SIGKILL:
        assert not list(Path(config.run_dir).rglob("*.part"))
    assert work(config) == 0
    assert files(config) == files(undisturbed)
    status = json.loads((Path(config.run_dir) / "status.json").read_text())
    assert status == {FIRST: {"state": "done"}, SECOND: {"state": "done"}}


def test_what_was_finished_is_not_computed_again(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    config = small(backbone, tmp_path)
    assert work(config, "detail", 2, 1, signal.SIGINT) == 130
    paths = [*Path(config.store.dir).rglob("*.safetensors"), *Path(config.run_dir).rglob("*.mp4")]
    before = {path: path.stat().st_mtime_ns for path in paths if "_state" not in str(path)}
    assert {path.suffix for path in before} == {".safetensors", ".mp4"}
    assert work(config) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
