"""``generate``: the prompts of a run become videos.

torch is imported only if something is missing, so a finished run is confirmed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.data.prompts import prompts_of
from pixelwizard.io.process import importing
from pixelwizard.io.terminal import say
from pixelwizard.models.checkpoints import weights_digests
from pixelwizard.records.provenance import check_names, finished, make_jobs
from pixelwizard.records.run_folder import OUT_OF_MEMORY, Failure, Status, write_failure
from pixelwizard.stages.precision import settled

if TYPE_CHECKING:
    from pixelwizard.parallel.mesh import Rank

SOME_FAILED = 3
SHEET = "contact_sheet.png"


def generate(config: GenerateConfig, rank: Rank | None = None) -> int:
    """Make the videos that are missing in ``config.run_dir`` and score them; the exit code.

    Every ``rank`` of several calls this; the first keeps status, tracker and contact sheet. A
    failing prompt is named on stderr and in status.json, the others continue. Raises ValueError if
    nothing can be done: no weights, a store that cannot be written.
    """
    first = rank is None or rank.is_first
    agreed: Callable[[Any], Any] = rank.everyone.from_first if rank else lambda value: value
    if config.decode.dtype == "auto":
        config = agreed(settled(config))
    prompts = prompts_of(config)
    check_names(config, prompts)
    digests = agreed(weights_digests(config.backbone) if first else {})
    jobs = make_jobs(config, prompts, digests)
    folder, failed = Path(config.run_dir), {}
    videos = {job.id: folder / "videos" / f"{job.id}{config.video.suffix}" for job in jobs}
    records = {job.id: finished(config, job) for job in jobs} if first else {}
    complete = all(records.values()) and (folder / SHEET).is_file()
    if agreed(complete and _is_scored(config, videos)):
        if first:
            Status(folder / "status.json", videos).done(*videos)
    else:
        with importing():
            from pixelwizard.generation.predict import Prediction

        with Prediction(config, jobs, digests, agreed(records), rank) as prediction:
            for loop, loader in prediction.loops():
                prediction.trainer.predict(loop, loader, return_predictions=False)
            failed = prediction.complete(videos)
    if first:
        _report(folder, videos, failed)
    return SOME_FAILED if first and failed else 0  # what failed is the first rank's to say


def _is_scored(config: GenerateConfig, videos: Mapping[str, Path]) -> bool:
    """Whether the scores of these very videos are there, if there are to be any."""
    if not config.scored:
        return True
    from pixelwizard.evaluation.files import kept_scores

    return kept_scores(config, videos) is not None


def _report(folder: Path, videos: Mapping[str, Path], failed: Mapping[str, str]) -> None:
    """Print where the videos are, and say which prompts failed."""
    print(folder)
    for id, path in videos.items():
        if id not in failed:
            print(path)
    sentences = [f"prompt {id} failed: {why}" for id, why in failed.items()]
    for sentence in sentences:
        say(sentence)
    if sentences:
        full = any(OUT_OF_MEMORY in why for why in failed.values())
        write_failure(folder, Failure("; ".join(sentences), full))
