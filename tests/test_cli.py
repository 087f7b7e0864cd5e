"""The command line: fast, one sentence per mistake, the right folder, the right exit code."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType

import hydra
import pytest
import yaml
from small import BACKBONE, small_config, write_config

from pixelwizard import __main__, worker
from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.cli.tasks import TASKS, command
from pixelwizard.cli.tasks import generate as generate_command
from pixelwizard.config import tasks
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.models.weights import write_statistics
from pixelwizard.records.run_folder import Failure, claim

ROOT = Path(__file__).resolve().parent.parent
Fake = Callable[[Path], int]


class Launched:
    """Stands in for the workers: remembers the run folders, answers with ``code(folder)``."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.ranks = 0
        self.code: Fake = lambda folder: 0

    def __call__(self, folder: Path, ranks: int) -> int:
        self.folders.append(folder)
        self.ranks = ranks
        return self.code(folder)

    def config(self, index: int = -1) -> tasks.GenerateConfig:
        loaded = tasks.load(self.folders[index] / "config.yaml")
        assert isinstance(loaded, tasks.GenerateConfig)
        return loaded


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launched:
    """An empty working directory, and no worker."""
    monkeypatch.chdir(tmp_path)
    stand_in = Launched()
    monkeypatch.setattr("pixelwizard.launch.launch.launch", stand_in)
    monkeypatch.setattr("pixelwizard.generation.run.require_weights", lambda backbone: None)
    trusted = replace(generate_command.COMMAND, finished=lambda config: True)
    monkeypatch.setattr(generate_command, "COMMAND", trusted)
    return stand_in


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pixelwizard", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_help_answers_in_a_second_without_torch_or_hydra(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run(
        program("--help"), env=environment(), cwd=tmp_path, capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert "shortcut4" in shown.stdout.decode()
    code = """
import sys
from pixelwizard.cli.main import main
main(["--help"]); main(["train", "--help"])
assert not {"torch", "hydra", "lightning", "omegaconf"} & set(sys.modules)
main(["--cfg", "job"])
assert not {"torch", "lightning", "wandb", "transformers"} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        cwd=tmp_path,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_help_shows_the_words_and_options_that_a_task_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = {
        "generate": "[TASK] [--prompt TEXT]... [key=value ...]",
        "train": "train [key=value ...]",
        "compare": "compare [FOLDER]... [key=value ...]",
        "replay": "replay [FILE] [key=value ...]",
    }
    for task, words in usage.items():
        assert main([task, "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.splitlines()[0] == f"usage: pixelwizard {words}"
        assert ("--video FILE" in shown) is (task == "generate")


def test_a_working_directory_that_was_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["seed=1"]) == 2
    assert capsys.readouterr().err == (
        "pixelwizard: the working directory was removed; change to another\n"
    )


def test_an_interrupt_during_the_imports_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "pixelwizard.cli.main", Interrupting("main"))
    assert __main__.main() == 130


@pytest.mark.parametrize("task", TASKS)
def test_every_example_of_the_help_composes(
    launched: Launched, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    Path("prompts.csv").write_text("text\na\n")
    lines = [line.strip() for line in command(task).examples.splitlines()]
    examples = [re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("pixelwizard")]
    assert len(examples) >= 2
    for example in examples:
        assert main([*shlex.split(example)[1:], "--cfg=job"]) == 0, capsys.readouterr().err


def test_nothing_said_makes_the_demo(launched: Launched) -> None:
    assert main([]) == 0
    config = launched.config()
    assert (config.backbone.name, config.prompt, config.prompts) == ("tiny", [], None)
    assert launched.folders[0].parent == Path.cwd() / "outputs"
    assert (launched.folders[0] / "overrides.txt").read_text() == "pixelwizard\n"


@pytest.mark.parametrize("group", tasks.groups("generate")[:-1])
def test_every_option_of_every_group_composes(
    launched: Launched, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    for option in tasks.options(group):
        assert main(["--cfg", "job", f"{group}={option}"]) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert tasks.from_plain(shown).task == "generate"


def test_full_size_presets_have_the_published_token_counts() -> None:
    conf = tasks.asset_root("conf") / "conf" / "resolution"
    tokens = {}
    for name in ("2k", "4k"):
        size = ResolutionSettings(**yaml.safe_load((conf / f"{name}.yaml").read_text()))
        tokens[name] = size.geometry.tokens
        assert size.anchor_geometry.tokens == 3472
    assert tokens == {"2k": 111_600, "4k": 249_240}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["schedule=foo"], "schedule=foo must be one of dpmpp4"),
        (["schedule=shortcut"], "did you mean shortcut"),
        (["schedule=null"], "schedule=null must be one of"),
        (["schedule=[euler4,unipc4]"], "must be one of"),
        (["resolutoin=demo"], "unknown key 'resolutoin'; did you mean resolution?"),
        (["schedule.stepz=3"], "unknown key 'schedule.stepz'; did you mean schedule.steps?"),
        (["+schedule.stepz=3"], "did you mean schedule.steps?"),
        (["++schedule.stepz=3"], "did you mean schedule.steps?"),
        (["+sedule.steps=3"], "did you mean schedule.steps?"),
        (["objective=vae"], "objective is a key of train and plan, not of generate"),
        (["schedule.steps=abc"], "schedule.steps=abc must be an integer"),
        (["schedule.steps="], "schedule.steps= must be an integer"),
        (["schedule.steps=0"], "schedule.steps=0 must be at least 1"),
        (["schedule.timesteps=[5,5]"], "must decrease strictly"),
        (["schedule.timesteps=[9,5"], "schedule.timesteps=[9,5: this value cannot be read"),
        (["resolution.width=500"], "nearest: 480 or 512"),
        (["resolution.frames=16"], "nearest: 13 or 17"),
        (["seed=0,1"], "seed=0 is one of several values; -m runs them all"),
        (["seed=${nothing}"], "seed: Interpolation key 'nothing' not found"),
        (["refine=3"], "refine=3 must be a group of keys"),
        (["~tracker"], "a key cannot be removed"),
        (["task=train"], "the task is the first word, like pixelwizard train"),
        (["experiments=nothing"], "or a file ./experiments/nothing.yaml"),
        (["run_dir="], "run_dir is empty"),
        (["sweep_dir=x"], "sweep_dir is for sweeps"),
        (["-m", "seed=0,1", "run_dir=x"], "run_dir is for one run"),
        (["trian"], "unknown task 'trian'; did you mean train?"),
        (["train", "objective=flowmap"], "dmd, dmd_jumps, flow, flow_map, flow_uniform"),
        (
            ["plan", "experiments=train_few_step_anchor"],
            "not of plan; leave experiments=train_few_step_anchor out",
        ),
        (["num_inference_steps=4"], "use schedule.steps (detail) and anchor.steps"),
        (["output_dir=x"], "use run_dir for a run, sweep_dir for a sweep"),
        (["a red circle"], "'a red circle' is no task; put --prompt before it for a video"),
        (["seed=1", "words"], "'words' is neither an option nor key=value"),
        (["--promt", "x"], "unknown option '--promt'; did you mean --prompt?"),
        (["--prompt"], "--prompt needs a value"),
        (["--prompt", ""], "--prompt number 1 is empty"),
        (["--cfg", "run"], "--cfg=run must be one of all, hydra, job"),
        (["--cfg", "job", "-p", "schedule.step"], "did you mean schedule.steps?"),
        (["--resolve"], "--resolve goes with --cfg"),
        (["--help=x"], "--help takes no value"),
        (["-sc", "install=tcsh"], "must be one of install=bash"),
        (["--seed=3"], "--seed=3: a key has no hyphens; write seed=3"),
        (["-cd", "nowhere"], "--config-dir=nowhere is not a folder"),
        (["width=512"], "did you mean resolution.width?"),
        (["--prompt", "a", "prompts=x.txt"], "exclude each other"),
        (["prompts=none.txt"], "none.txt does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    launched: Launched,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("pixelwizard: ") and error.count("\n") == 1
    assert sentence in error
    assert not launched.folders and not Path("outputs").exists()


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("logger=wandb", "tracker=wandb"),
        ("trainer=ddp", "parallel=prompts"),
        ("trainer.devices=2", "parallel.devices"),
        ("trainer.accelerator=gpu", "CUDA_VISIBLE_DEVICES"),
        ("ckpt_path=last.ckpt", "repeat the command"),
        ("callbacks=default", "callbacks.mine._target_=module.Class"),
        ("callbacks.early_stopping.patience=3", "callbacks"),
        ("hparams_search=optuna", "hydra/sweeper=optuna"),
        ("optimized_metric=fvd", "hydra.sweeper.quality"),
        ("tags=[a,b]", "tracker.tags"),
        ("debug=default", "trainer.fast_dev_run=true"),
        ("paths.output_dir=x", "run_dir"),
        ("extras.print_config=true", "--cfg job"),
        ("model=wan", "backbone=NAME"),
        ("prompt=cat", "--prompt"),
        ("prompts=cat.txt", "a key of generate"),
        ("hydra.job.chdir=true", "run_dir"),
        ("hydra.sweep.subdir=x", "sweep_dir"),
        ("hydra/job_logging=disabled", "run.log"),
        ("hydra.mode=MULTIRUN", "-m"),
        ("hydra.launcher.gpus=2", "hydra.launcher.gpus_per_node"),
        ("hydra.launcher.n_jobs=2", "hydra/launcher=joblib"),
        ("hydra.sweeper.trials=2", "hydra.sweeper.n_trials"),
        ("--config-name=train", "pixelwizard train"),
        ("--config-path=x", "--config-dir"),
    ],
)
@pytest.mark.parametrize("task", ["generate", "train"])
def test_a_habit_from_elsewhere_is_answered_by_what_it_is_called_here(
    launched: Launched, capsys: pytest.CaptureFixture[str], task: str, words: str, ours: str
) -> None:
    if (task, words) in (("generate", "prompts=cat.txt"),):
        return
    assert main([task, words]) == 2
    error = capsys.readouterr().err
    assert ours in error and error.count("\n") == 1
    assert not launched.folders


def test_what_hydra_calls_otherwise_does_the_same(launched: Launched) -> None:
    assert main(["hydra.run.dir=here", "--run"]) == 0
    assert launched.folders[-1] == Path.cwd() / "here"
    assert main(["-m", "seed=0,1", "hydra.sweep.dir=there"]) == 0
    assert {folder.parent.name for folder in launched.folders[-2:]} == {"there"}
    for value, loggers in (("true", ["root"]), ("[a,b]", ["a", "b"]), ("a", ["a"]), ("false", [])):
        assert main([f"hydra.verbose={value}"]) == 0
        assert launched.config().verbose == loggers


def test_run_log_has_all_that_the_named_loggers_say(tmp_path: Path) -> None:
    folder = write_config(small_config(BACKBONE, tmp_path, verbose=["wordy"]))
    with worker.session(folder):
        for name in ("wordy", "other"):
            logging.getLogger(name).debug("a detail of %s", name)
    text = (folder / "run.log").read_text()
    assert "a detail of wordy" in text and "a detail of other" not in text


def test_a_part_of_the_configuration_is_printed(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-c", "job", "--resolve", "--package", "resolution", "resolution.frames=21"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# @package resolution\n") and yaml.safe_load(shown)["frames"] == 21
    assert main(["--cfg=job", "-p", "schedule.steps", "schedule=euler4"]) == 0
    assert capsys.readouterr().out == "# @package schedule.steps\n4\n"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--cfg", "hydra", "-p", "hydra.launcher", "hydra/launcher=joblib"], "kind: joblib"),
        (["--info", "defaults", "train"], "objective/flow"),
        (["-i", "searchpath"], "/conf"),
        (["-sc", "install=bash"], "hydra_bash_completion"),
        (["-sc", "uninstall=fish"], "complete -e"),
    ],
)
def test_hydra_shows_what_it_is_asked_for(
    launched: Launched, capsys: pytest.CaptureFixture[str], options: list[str], shown: str
) -> None:
    task = [word for word in options if word in TASKS]
    assert main([*task, *(word for word in options if word not in TASKS)]) == 0
    assert shown in capsys.readouterr().out


def test_a_shell_completes_tasks_options_groups_keys_and_values(
    launched: Launched, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("conf/schedule").mkdir(parents=True)
    Path("conf/schedule/shortest.yaml").write_text("steps: 1\n")

    def completed(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        assert main(["-sc", "query=fish"]) == 0
        return capsys.readouterr().out.split()

    assert {"train", "schedule=", "schedule.", "seed="} <= set(completed("pixelwizard "))
    assert completed("pixelwizard trai") == ["train", "trainer."]
    assert completed("pixelwizard train obj") == ["objective.", "objective="]
    assert completed("pixelwizard schedule=shortes") == ["schedule=shortest"]
    assert completed("pixelwizard --prompt a schedule.st") == [
        "schedule.step_sizes=",
        "schedule.steps=",
    ]
    assert completed("pixelwizard decode.mode=se") == ["decode.mode=seamless"]
    assert completed("pixelwizard hydra.launcher.n") == [
        "hydra.launcher.n_jobs=",
        "hydra.launcher.name=",
        "hydra.launcher.nodes=",
    ]
    assert completed("pixelwizard --c") == ["--cfg", "--config-dir"]
    assert completed("pixelwizard --info de") == ["defaults", "defaults-tree"]


@pytest.mark.parametrize("name", ["a=b, c=d", "schedule=euler8,seed=0/001.mp4"])
def test_a_word_may_be_any_path(
    launched: Launched, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for path in (Path("runs", name), Path(name)):
        path.mkdir(parents=True)
        for task, key in (("replay", "file"), ("compare", "runs")):
            assert main([task, str(path), "--cfg", "job", "-p", key]) == 0
            assert str(path.resolve()) in capsys.readouterr().out
    assert main(["replay", "out/seed=0/gone.mp4"]) == 2
    assert "out/seed=0/gone.mp4 does not exist" in capsys.readouterr().err


def test_nobody_who_stops_reading_or_reads_ascii_only_stops_a_command(tmp_path: Path) -> None:
    """Through ``| head -1``, without a stdout, and in ASCII."""
    show = shlex.join(program("--cfg", "job", "--prompt", "ein Würfel 视频 \udcff"))
    for line, shown in (
        (f"{show} | head -1", "run_dir: "),
        (f"{show} >&-", ""),
        (f"! {show} >/dev/full 2>/dev/null", ""),
        (f"PYTHONIOENCODING=ascii {show} | grep -A1 ^prompt:", "ein W\\xfcrfel \\u89c6\\u9891"),
    ):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        assert shown in done.stdout


def test_missing_weights_are_named_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["backbone=wan2_2_ti2v_5b", "resolution=2k"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "checkpoints" / "Wan2.2-TI2V-5B") in error and "Wan2.2_VAE.pth" in error
    assert error.count("\n") == 1 and not (tmp_path / "outputs").exists()


def test_a_negative_prompt_of_unguided_stages_is_said_to_have_no_part(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    for anchor, said in (("few4", True), ("unipc20", False)):
        assert main([f"anchor={anchor}", "negative_prompt=blurred", "tracker=none"]) == 0
        assert ("negative prompts are not used" in capsys.readouterr().err) is said


@pytest.mark.parametrize(
    "text",
    ['say "hi", {a: 1}', "it's = 5,6", "[x](y) ${seed} \\", "--help", "a\nb", "视频 ☃", "null"],
)
def test_any_text_reaches_the_worker_unchanged(launched: Launched, text: str) -> None:
    assert main(["--prompt", text, f"--prompt={text}"]) == 0
    assert launched.config().prompt == [text, text]


@pytest.mark.parametrize("name", ["it's", "a (b) {c}", "1_000", "a=b", "x,y", "range(3)", "tail\\"])
def test_any_path_can_be_given(launched: Launched, name: str) -> None:
    assert main([f"run_dir={name}"]) == 0
    assert launched.folders == [Path.cwd() / name]


def test_a_layout_starts_as_many_ranks_and_a_sweep_may_have_several(launched: Launched) -> None:
    assert main([]) == 0 and launched.ranks == 1
    assert main(["parallel=hybrid", "parallel.prompts=2", "parallel.sequence=3"]) == 0
    assert launched.ranks == 6
    assert main(["-m", "parallel=auto", "parallel.devices=4,1", "sweep_dir=sweep"]) == 0
    assert launched.ranks == 1
    assert [path.parent.name for path in launched.folders[-2:]] == ["sweep", "sweep"]


def test_a_run_for_another_launcher_is_laid_out_and_not_started(
    launched: Launched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["parallel=ulysses", "parallel.sequence=3", "parallel.launch=false"]
    assert main([*words, f"run_dir={tmp_path / 'run'}"]) == 0
    assert not launched.folders and "-m pixelwizard.worker" in capsys.readouterr().out
    assert tasks.load(tmp_path / "run" / "config.yaml").parallel.sequence == 3


def test_the_same_request_has_the_same_folder_and_another_one_another(launched: Launched) -> None:
    for arguments in ([], ["seed=0"], ["+seed=0"], ["seed=1"], ["--prompt", "a"]):
        assert main(arguments) == 0
    first, second, third, fourth, fifth = launched.folders
    assert first == second == third
    assert len({first, fourth, fifth}) == 3


def test_a_folder_of_another_configuration_is_refused_and_left_alone(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run_dir=run", "seed=1"]) == 0
    before = (Path("run") / "config.yaml").read_text()
    assert main(["run_dir=run", "seed=2", "schedule=euler4"]) == 2
    error = capsys.readouterr().err
    assert "belongs to another configuration" in error and "schedule.solver" in error
    assert "seed" in error and error.count("\n") == 1
    assert (Path("run") / "config.yaml").read_text() == before
    assert main(["run_dir=run", "seed=1"]) == 0


def test_the_folder_of_a_run_that_failed_before_its_first_result_takes_other_settings(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run_dir=run", "seed=1"]) == 0
    Failure("backbone.lora: pic.png is a PNG picture").write(Path("run"))
    (Path("run") / "run.log").touch()
    (Path("run") / "checkpoints").mkdir()
    assert main(["run_dir=run", "seed=2"]) == 0
    (Path("run") / "status.json").touch()
    assert main(["run_dir=run", "seed=3"]) == 2
    assert "belongs to another configuration" in capsys.readouterr().err


def test_a_folder_of_settings_that_are_gone_is_refused_by_their_reason(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run_dir=run"]) == 0
    with (Path("run") / "config.yaml").open("a") as file:
        file.write("gone: 1\n")
    assert main(["run_dir=run"]) == 2
    said = capsys.readouterr().err
    assert "that this version cannot read (unknown key 'gone'); choose another folder" in said
    assert said.count("\n") == 1


def test_of_commands_with_other_settings_one_has_a_new_folder(tmp_path: Path) -> None:
    def claims(seed: int) -> bool:
        try:
            claim(small_config(BACKBONE, tmp_path, run_dir=str(tmp_path / "new"), seed=seed), [])
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(claims, range(8))) == 1


def test_a_worker_has_the_settings_of_its_command_whoever_came_between(tmp_path: Path) -> None:
    config = small_config(BACKBONE, tmp_path, verbose=["ours"])
    written = (claim(config, []) / "config.yaml").read_text()
    folder = claim(replace(config, verbose=["theirs"]), [])
    with worker.session(folder, written) as (found, _):
        assert found.verbose == ["ours"]
    assert (folder / "config.yaml").read_text() == written


def test_names_that_collide_are_refused_before_there_is_a_folder(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.csv").write_text("id,text\nx,a circle\nx.mp4,a square\n")
    assert main(["prompts=p.csv", "run_dir=run", "video.png=true"]) == 2
    said = capsys.readouterr().err
    assert "id=x and id=x.mp4 would both write" in said
    assert not Path("run").exists() and not launched.folders


def test_a_folder_that_cannot_be_written_is_one_sentence(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    assert main(["run_dir=file/run"]) == 2
    assert main(["-m", "seed=0,1", "sweep_dir=file/sweep"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and not launched.folders
    assert "run_dir=" in errors[0] and "sweep_dir=" in errors[1]


@pytest.mark.parametrize("code", [0, 2, 3, 130, 143])
def test_the_exit_code_is_the_workers(launched: Launched, code: int) -> None:
    launched.code = lambda folder: code
    assert main([]) == code


def test_a_sweep_runs_every_combination_in_folders_named_by_its_values(launched: Launched) -> None:
    assert main(["-m", "schedule=shortcut4,euler4", "seed=range(2)", "sweep_dir=sweep"]) == 0
    assert [folder.name for folder in launched.folders] == [
        "schedule=shortcut4,seed=0",
        "schedule=shortcut4,seed=1",
        "schedule=euler4,seed=0",
        "schedule=euler4,seed=1",
    ]
    ledger = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
    assert {job["status"] for job in ledger.values()} == {"done"} and len(ledger) == 4
    assert [launched.config(index).seed for index in range(4)] == [0, 1, 0, 1]


def test_jobs_of_equal_choices_read_their_files_once_and_are_what_each_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["experiments=captions24", "schedule=shortcut4,euler8", "seed=0,1", "anchor.steps=3,4"]
    alone = [
        compose("generate", [*words[:1], f"schedule={name}", f"seed={seed}", f"anchor.steps={n}"])
        for name, seed, n in product(("shortcut4", "euler8"), range(2), (3, 4))
    ]
    read, whole = [], hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *a, **k: read.append(a) or whole(*a, **k))
    jobs = compose("generate", words, sweep=True)
    assert [job.config for job in jobs] == [job.config for (job,) in alone]
    assert len(jobs) == 8 and len(read) == len({str(a) for a in read}) <= 4


def test_a_job_that_fails_does_not_end_the_sweep_and_only_it_runs_again(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "seed=0,1,2", "sweep_dir=sweep"]
    launched.code = lambda folder: 3 if folder.name == "seed=1" else 0
    assert main(arguments) == 3
    assert "1 of 3 jobs failed:\n  seed=1: failed: it ended with code 3" in capsys.readouterr().err
    ledger = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
    assert ledger["seed=1"] == {
        **{"status": "failed", "exit_code": 3, "reason": "it ended with code 3"},
        "overrides": ["seed=1"],
    }
    launched.code = lambda folder: 0
    assert main(arguments) == 0
    assert [folder.name for folder in launched.folders[3:]] == ["seed=1"]


def test_an_interrupt_stops_the_sweep_and_keeps_what_is_done(launched: Launched) -> None:
    launched.code = lambda folder: 130 if folder.name == "seed=1" else 0
    assert main(["-m", "seed=0,1,2", "sweep_dir=sweep"]) == 130
    ledger = json.loads(Path("sweep/sweep.json").read_text())["jobs"]
    assert [job["status"] for job in ledger.values()] == ["done", "pending", "pending"]


def test_one_bad_value_refuses_the_sweep_before_its_first_job(launched: Launched) -> None:
    assert main(["-m", "schedule.steps=4,0", "sweep_dir=sweep"]) == 2
    assert not launched.folders and not Path("sweep").exists()


def test_an_experiment_of_ones_own_is_found_and_can_be_overridden(launched: Launched) -> None:
    Path("experiments").mkdir()
    Path("experiments/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /schedule: euler8\nseed: 5\n"
    )
    assert main(["experiments=mine"]) == 0
    config = launched.config()
    assert (config.schedule.solver, config.schedule.steps, config.seed) == ("euler", 8, 5)
    assert launched.folders[0].name.startswith("mine-")
    assert main(["experiments=mine", "seed=6", "schedule.steps=3"]) == 0
    assert (launched.config().seed, launched.config().schedule.steps) == (6, 3)


def test_the_statistics_beside_an_autoencoder_hold_unless_others_are_named(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    means = [round(0.01 * channel, 4) for channel in range(32)]
    named = "backbone.vae.latent_std=[" + ",".join(["2.0"] * 32) + "]"
    write_statistics(means, [0.5] * 32, Path("mine"))
    shown = []
    for words in ([], ["backbone.folder=mine"], ["backbone.folder=mine", named]):
        assert main(["--cfg", "job", *words]) == 0
        vae = yaml.safe_load(capsys.readouterr().out)["backbone"]["vae"]
        shown.append((vae["latent_mean"], vae["latent_std"]))
    assert means not in shown[0]
    assert shown[1:] == [(means, [0.5] * 32), (means, [2.0] * 32)]


def test_statistics_that_are_none_are_one_sentence(
    launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine/latent_statistics.yaml").write_text("latent_mean: [a]")
    assert main(["--cfg", "job", "backbone.folder=mine"]) == 2
    error = capsys.readouterr().err
    assert "must hold latent_mean and latent_std" in error and error.count("\n") == 1
    numbers = "[" + ",".join(["1.0"] * 32) + "]"
    both = [f"backbone.vae.{name}={numbers}" for name in ("latent_mean", "latent_std")]
    assert main(["--cfg", "job", "backbone.folder=mine", *both]) == 0


def test_an_experiment_can_be_a_sweep(launched: Launched) -> None:
    Path("experiments").mkdir()
    Path("experiments/both.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      schedule: shortcut4,euler4\n      seed: 0,1\n"
    )
    assert main(["experiments=both", "seed=7"]) == 0
    names = ["schedule=shortcut4,seed=7", "schedule=euler4,seed=7"]
    assert sorted(folder.name for folder in launched.folders) == sorted(names)
    assert launched.config().seed == 7


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("# @package _global_\nsede: 5\n", "unknown key 'sede'; did you mean seed?"),
        ("# @package _global_\nschedule: {stepz: 5}\n", "did you mean schedule.steps?"),
        (
            "# @package _global_\ndefaults:\n  - override /schedule: foo\n",
            "mine.yaml: schedule=foo",
        ),
        (
            "# @package _global_\ndefaults:\n  - override /data: shapes\n",
            "experiments=mine chooses data, a group of train and encode, not of generate",
        ),
        ("seed: [\n", "mine.yaml"),
    ],
)
def test_a_slip_in_an_experiment_is_one_sentence(
    launched: Launched, capsys: pytest.CaptureFixture[str], content: str, sentence: str
) -> None:
    Path("experiments").mkdir()
    Path("experiments/mine.yaml").write_text(content)
    assert main(["experiments=mine"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and sentence in error


def test_the_module_is_the_command(tmp_path: Path) -> None:
    shown = subprocess.run(
        program("seed=x"), env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "pixelwizard: seed=x must be an integer\n"
