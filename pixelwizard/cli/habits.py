"""Keys that users know from Hydra, Lightning and their template, and their names here."""

from __future__ import annotations

HABITS = {
    "logger": "use tracker=wandb, csv or tensorboard, or your own logger by"
    " tracker.logger._target_=module.Class",
    "tags": "use tracker.tags=[a,b]",
    "task_name": "use run_dir=FOLDER to name a run, tracker.name to name it in W&B",
    "ckpt_path": "to continue a training, repeat the command; to start from weights, use"
    " objective.init_from=FILE",
    "callbacks": "use callbacks.NAME, like callbacks.mine._target_=module.Class; checkpoints,"
    " logging and progress need none",
    "hparams_search": "use -m hydra/sweeper=optuna, with ranges like schedule.steps=range(2,9)",
    "optimized_metric": "use hydra.sweeper.quality",
    "debug": "use trainer.fast_dev_run=true or trainer.max_steps=2",
    "paths": "use run_dir=FOLDER for results, store.dir for shared ones, data.dir for data",
    "extras": "--cfg job prints the composed configuration, and config.yaml has it",
    "model": "use backbone=NAME and its keys",
    "local": "put your own settings into ./conf/GROUP/NAME.yaml or ./experiments/NAME.yaml",
    "trainer": "use parallel=prompts, fsdp or another layout for several devices;"
    " trainer.NAME=VALUE is an argument of Lightning's Trainer",
    "trainer.devices": "use parallel.devices for the number of devices, parallel=NAME for the"
    " layout",
    "trainer.gpus": "use parallel.devices for the number of GPUs, parallel=NAME for the layout",
    "trainer.strategy": "use parallel=prompts, fsdp or another layout",
    "trainer.accelerator": "a GPU is used if there is one; CUDA_VISIBLE_DEVICES= hides it",
    "trainer.num_nodes": "use parallel.launch=false and torchrun for several machines",
    "trainer.logger": "use tracker=wandb, csv or tensorboard",
    "num_inference_steps": "use schedule.steps (detail) and anchor.steps",
    "guidance_scale": "use schedule.guidance (detail) and anchor.guidance",
    "num_frames": "use resolution.frames",
    "output_dir": "use run_dir for a run, sweep_dir for a sweep",
    "max_train_steps": "use trainer.max_steps",
    "batch_size": "use objective.batch",
    "prompt": 'use --prompt "TEXT" for one text, prompts=FILE for several',
    "video": "use --video FILE or videos=DIR for clips to refine, video.codec and the like for"
    " written videos",
    "image": "use --image FILE for a picture that a video begins with",
    "hydra.sweep.subdir": "a job's folder is named by its values, in sweep_dir",
    "hydra.job": "use run_dir to name a run; a run never changes the working directory",
    "hydra.output_subdir": "config.yaml and overrides.txt are in run_dir itself",
    "hydra.mode": "use -m to run several values",
    **dict.fromkeys(
        ("hydra.job_logging", "hydra.hydra_logging", "hydra/job_logging", "hydra/hydra_logging"),
        "a run logs to run.log in its folder; hydra.verbose=true logs more",
    ),
    "hydra/callbacks": "use Lightning's callbacks: callbacks.NAME._target_=module.Class",
    "hydra.callbacks": "use Lightning's callbacks: callbacks.NAME._target_=module.Class",
    "hydra.launcher.jobs": "use hydra.launcher.n_jobs",
    "hydra.launcher.minutes": "use hydra.launcher.timeout_min",
    "hydra.launcher.gpus": "use hydra.launcher.gpus_per_node",
    "hydra.launcher.cpus": "use hydra.launcher.cpus_per_task",
    "hydra.launcher.memory_gb": "use hydra.launcher.mem_gb",
    "hydra.launcher.options": "use hydra.launcher.additional_parameters",
    "hydra.launcher.cluster": "use hydra/launcher=submitit_local to run on this machine",
    "hydra.sweeper.trials": "use hydra.sweeper.n_trials",
    "hydra.sweeper.reference": "use hydra.sweeper.target",
    "hydra.sweeper.seed": "use hydra.sweeper.sampler.seed",
    "hydra.sweeper.direction": "the direction of hydra.sweeper.quality is known, and less"
    " hydra.sweeper.cost is better",
    "hydra.sweeper.storage": "trials are stored in sweep.json; the same command continues them",
    "hydra.sweeper.study_name": "trials are stored in sweep.json; the same command continues them",
    "tracker.options": "use keys of tracker.logger for the arguments of your own logger",
    "--config-name": "the first word chooses the task, like pixelwizard train",
    "--config-path": "use --config-dir DIR for your own folder",
    "--experimental-rerun": "repeat the command, or regenerate a video with pixelwizard replay",
}
"""A foreign key (all keys below it too) or option -> the sentence that names ours."""


def habit(name: str) -> str | None:
    """The sentence on a key or an option that is known from elsewhere but has another name here."""
    parts = name.split(".")
    keys = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((f"{name}: {HABITS[key]}" for key in keys if key in HABITS), None)
