"""Keys that users know from Hydra, Lightning and their template, and their names here."""

from __future__ import annotations

HABITS = {
    "logger": "the record of a run is tracker=wandb, csv or tensorboard; a logger of your own is"
    " tracker.logger._target_=module.Class",
    "tags": "tags are tracker.tags=[a,b]",
    "task_name": "a run is named by run_dir=FOLDER, in W&B by tracker.name",
    "ckpt_path": "a training continues in its folder: repeat the command; weights to start from"
    " are objective.init_from=FILE",
    "callbacks": "a callback has a name of yours, like callbacks.mine._target_=module.Class;"
    " checkpoints, figures and progress need none",
    "hparams_search": "a search is -m hydra/sweeper=optuna, with ranges like"
    " schedule.steps=range(2,9)",
    "optimized_metric": "what a search improves is hydra.sweeper.quality",
    "debug": "a short try is trainer.fast_dev_run=true or trainer.max_steps=2",
    "paths": "results go to run_dir=FOLDER, shared ones to store.dir; data of your own is data.dir",
    "extras": "the composed configuration is printed by --cfg job and written to config.yaml",
    "model": "the networks are backbone=NAME and its keys",
    "local": "settings of your own are files ./conf/GROUP/NAME.yaml or ./experiments/NAME.yaml",
    "trainer": "devices are laid out by parallel=prompts, fsdp or another layout;"
    " trainer.NAME=VALUE is an argument of Lightning's",
    "trainer.devices": "the number of devices is parallel.devices, their layout parallel=NAME",
    "trainer.gpus": "the number of GPUs is parallel.devices, their layout parallel=NAME",
    "trainer.strategy": "how several devices work is parallel=prompts, fsdp or another layout",
    "trainer.accelerator": "a GPU is used where there is one; CUDA_VISIBLE_DEVICES= hides it",
    "trainer.num_nodes": "several machines are parallel.launch=false and torchrun",
    "trainer.logger": "the record of a run is tracker=wandb, csv or tensorboard",
    "num_inference_steps": "the steps are schedule.steps (detail) and anchor.steps",
    "guidance_scale": "the scales are schedule.guidance (detail) and anchor.guidance",
    "num_frames": "its name is resolution.frames",
    "output_dir": "the folder of a run is run_dir, that of a sweep sweep_dir",
    "max_train_steps": "its name is trainer.max_steps",
    "batch_size": "its name is objective.batch",
    "prompt": 'a text is --prompt "TEXT", several are prompts=FILE',
    "video": "a clip to refine is --video FILE, a folder of them videos=DIR; how videos are written"
    " is video.codec and its like",
    "image": "a picture that a video begins with is --image FILE",
    "hydra.sweep.subdir": "the folder of a job is named by its values, in sweep_dir",
    "hydra.job": "a run never changes the working directory and is named by run_dir",
    "hydra.output_subdir": "config.yaml and overrides.txt lie in run_dir itself",
    "hydra.mode": "several values are run by -m",
    **dict.fromkeys(
        ("hydra.job_logging", "hydra.hydra_logging", "hydra/job_logging", "hydra/hydra_logging"),
        "a run logs to run.log in its folder; hydra.verbose=true logs more",
    ),
    "hydra.callbacks": "callbacks are Lightning's: callbacks.NAME._target_=module.Class",
    "hydra.launcher.jobs": "its name is hydra.launcher.n_jobs",
    "hydra.launcher.minutes": "its name is hydra.launcher.timeout_min",
    "hydra.launcher.gpus": "its name is hydra.launcher.gpus_per_node",
    "hydra.launcher.cpus": "its name is hydra.launcher.cpus_per_task",
    "hydra.launcher.memory_gb": "its name is hydra.launcher.mem_gb",
    "hydra.launcher.options": "its name is hydra.launcher.additional_parameters",
    "hydra.launcher.cluster": "this machine as a cluster is hydra/launcher=submitit_local",
    "hydra.sweeper.trials": "its name is hydra.sweeper.n_trials",
    "hydra.sweeper.reference": "its name is hydra.sweeper.target",
    "hydra.sweeper.seed": "its name is hydra.sweeper.sampler.seed",
    "hydra.sweeper.direction": "hydra.sweeper.quality knows whether more is better; less"
    " hydra.sweeper.cost is",
    "hydra.sweeper.storage": "trials are kept in sweep.json; the same command continues them",
    "hydra.sweeper.study_name": "trials are kept in sweep.json; the same command continues them",
    "tracker.options": "arguments of a logger of your own are keys of tracker.logger",
    "--config-name": "the first word chooses the task, like pixelwizard train",
    "--config-path": "a folder of your own is --config-dir DIR",
    "--experimental-rerun": "repeat the command, or make a video again with pixelwizard replay",
}
"""A key of elsewhere (all keys below it too), or an option -> the sentence that names ours."""


def habit(name: str) -> str | None:
    """The sentence on a key or an option that is known from elsewhere but has another name here."""
    parts = name.split(".")
    keys = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((f"{name}: {HABITS[key]}" for key in keys if key in HABITS), None)
