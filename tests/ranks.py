"""Real processes as the ranks of jobs: each is forked once and serves every check of a file."""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from test_golden import GoldenDiT
from torch import Tensor

from pixelwizard import worker
from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.parallel import Mesh
from pixelwizard.config.targets import Target
from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import SolverState
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.generation import predict
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.weights import fill_transformer, load_anchor
from pixelwizard.parallel.mesh import Rank, joined
from pixelwizard.records.provenance import Job
from pixelwizard.stages.latents import Anchor, Detail
from pixelwizard.tracking import Tracker
from pixelwizard.training.samples import Samples
from pixelwizard.training.sharded import gather_full

PRELOAD = [
    *("ranks", "pixelwizard.generation.predict", "pixelwizard.training.train"),
    "transformers.models.umt5.modeling_umt5",
]
WORLD = 4
PATIENCE = 300.0
M_MMAP_THRESHOLD = -3


def free_port() -> int:
    """A port below those that the system gives to others, as it may be used a minute later."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def start(world: int, work: Callable[..., None], *arguments: object) -> list[int]:
    """``work(*arguments)`` in as many processes; their exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ranks = [
        context.Process(target=_rank, args=(rank, world, work, *arguments)) for rank in range(world)
    ]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + PATIENCE
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in ranks:
        process.kill()  # only one that hangs is still there
        process.join()
    return [process.exitcode if process.exitcode is not None else -1 for process in ranks]


def _rank(rank: int, world: int, work: Callable[..., None], *arguments: object) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what was imported before the fork is not looked through again and again
    become(rank, world)
    work(*arguments)


def become(rank: int, world: int, port: int = 0) -> None:
    """The environment that a launcher gives."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


# Networks: one process group, all layouts.

MESHES = {
    "sequence": Mesh(2, 1, 2),
    "guidance": Mesh(2, 2, 1),
    "guidance and sequence": Mesh(1, 2, 2),
    "sequence, sharded over it": Mesh(2, 1, 2, "sequence"),
    "guidance and sequence, sharded": Mesh(1, 2, 2, "all"),
    "prompts, sharded": Mesh(4, 1, 1, "all"),
}


def four_heads() -> tuple[DiTSizes, dict[str, Tensor]]:
    """A detail network whose heads four ranks can share; every input matters in it."""
    torch.manual_seed(0)
    sizes = DiTSizes(
        in_dim=4, out_dim=4, dim=64, ffn_dim=96, freq_dim=16, text_dim=16, text_len=8,
        num_heads=4, num_layers=2,
    )  # fmt: skip
    network = ShortcutDiT(sizes, [0, 1])
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return sizes, network.state_dict()


def placed(network: WanDiT, weights: dict[str, Tensor], rank: Rank) -> Any:
    """A network as a rank has it."""
    names = network.state_dict().keys()
    own = {name: weights[name] for name in names}
    network = fill_transformer(network, own, "cpu", torch.float32, rank.shards)
    network.ulysses = rank.ulysses
    network.chunk = 25  # divides no count of tokens here
    return network


def networks(golden: Path, folder: Path, port: int) -> None:
    """Sample with every mesh and save what came out and what was sent."""
    number = int(os.environ["RANK"])
    os.environ["MASTER_PORT"] = str(port)
    with joined(Mesh(WORLD)) as first:
        for name, mesh in MESHES.items():
            rank = Rank(mesh, first.device)
            save_file(two_stages(GoldenDiT(golden), golden, rank), folder / f"{name}.{number}")
        found = {
            f"{length}": uneven(length, Rank(Mesh(1, 1, 4), first.device)) for length in (12, 15, 6)
        }
        save_file({k: v for k, (v, _) in found.items()}, folder / f"uneven.{number}")
        sent = {k: s for k, (_, s) in found.items()}
        (folder / f"sent.{number}").write_text(json.dumps(sent))


def two_stages(dit: GoldenDiT, golden: Path, rank: Rank) -> dict[str, Tensor]:
    """The golden anchor and detail, as this rank has them."""
    settings = json.loads((golden / "two_stage.json").read_text())
    io = load_file(golden / "two_stage_io.safetensors")
    solver, guidance = settings["solver"], settings["guidance"]
    texts = (io["context"], io["context_null"])
    with torch.device("meta"):
        base, detail = WanDiT(dit.sizes), ShortcutDiT(dit.sizes, dit.control_blocks)
    sampler = SamplerSettings(solver=solver, steps=settings["lr_steps"], guidance=guidance)
    schedule = make_schedule(sampler, settings["lr_shift"])
    anchor = Anchor(placed(base, dit.weights, rank), schedule, guidance, rank.cfg)
    low = anchor(io["noise_lr"][0], *texts)
    sampler = replace(sampler, steps=settings["hr_steps"], step_sizes="raw")
    schedule = make_schedule(sampler, settings["hr_shift"])
    stage = Detail(placed(detail, dit.weights, rank), schedule, guidance, rank.cfg)
    high = stage(io["noise_hr"][0], low, *texts)
    sent = rank.cfg.sent if rank.cfg else 0
    rule = Target("first_block", {"threshold": 0.7})
    schedule = make_schedule(replace(sampler, steps=8, skip=rule), settings["hr_shift"])
    states: list[SolverState] = []
    stage = Detail(stage.network, schedule, guidance, rank.cfg)
    skipping = stage(io["noise_hr"][0], low, *texts, on_step=states.append)
    skipped = torch.tensor(states[-1].skipped)
    given = load_file(golden / "ti2v_io.safetensors")
    sampler = SamplerSettings(solver="unipc", steps=4, guidance=given["sample_guidance"].item())
    schedule = make_schedule(sampler, given["sample_shift"].item())
    begun = Anchor(anchor.network, schedule, sampler.guidance, rank.cfg)(
        given["sample_noise"][0],
        *(given[f"sample_{name}"] for name in ("context", "context_null")),
        first_frame=given["sample_first_frame"][0],
    )
    found = {"anchor": low, "detail": high, "skipping": skipping, "skipped": skipped}
    found["begun"] = begun
    return {**found, "sent": torch.tensor(sent)}


def uneven(length: int, rank: Rank) -> tuple[Tensor, int]:
    """A pass of four heads over ``length`` tokens, and the bytes sent for each attention."""
    sizes, weights = four_heads()
    with torch.device("meta"):
        network = ShortcutDiT(sizes, [0, 1])
    network = placed(network, weights, rank)
    before = rank.ulysses.sent if rank.ulysses else 0
    out = one_pass(network, length)
    after = rank.ulysses.sent if rank.ulysses else 0
    return out, (after - before) // sizes.num_layers


@torch.no_grad()
def one_pass(network: ShortcutDiT, length: int) -> Tensor:
    """The velocity of a clip of one row of ``length / 3`` tokens and three frames.

    Its first frame is given, and ends within the tokens of a rank.
    """
    draw = torch.Generator().manual_seed(length)
    latent = torch.randn(1, 4, 3, 2, 2 * length // 3, generator=draw)
    anchor = torch.randn(1, 4, 3, 1, length // 3, generator=draw)
    text = network.encode_text([torch.randn(5, 16, generator=draw)])
    features = network.encode_anchor(anchor, (3, 1, length // 3))
    times, sizes = torch.tensor([[0.0, 700.0]]), torch.tensor([[0.0, 200.0]])
    return network(latent, times, text, sizes, features)


def slices(backbone: BackboneSettings, folder: Path, port: int) -> None:
    """Load this rank's slices of an anchor network; the first saves what all have together."""
    os.environ["MASTER_PORT"] = str(port)
    with joined(Mesh(2, shard="all")) as rank:
        network = load_anchor(backbone, "cpu", torch.float32, rank.shards)
        whole = gather_full(network.state_dict())
        if rank.is_first:
            save_file(whole, folder / "slices.safetensors")


# Memory: slices of a network on disk.


def memory(file: Path, sizes: DiTSizes, folder: Path, port: int) -> None:
    """Load slices of a network and make a pass; the memory of both beyond what was there."""
    os.environ["MASTER_PORT"] = str(port)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 18)  # what is freed goes back at once
    with joined(Mesh(WORLD, shard="all")) as rank, torch.no_grad():
        small = replace(sizes, dim=64, ffn_dim=64, num_layers=1)
        load_and_pass(small, WanDiT(small).state_dict(), rank)  # what a first use imports and keeps
        before, _ = own_memory()
        loaded, peak = load_and_pass(sizes, load_file(file), rank)
    (folder / f"memory.{rank.number}").write_text(json.dumps([loaded - before, peak - before]))


def load_and_pass(sizes: DiTSizes, tensors: Mapping[str, Tensor], rank: Rank) -> tuple[int, int]:
    """This rank's memory with its slices of a network loaded, and at most in a pass of it."""
    with torch.device("meta"):
        network = WanDiT(sizes)
    network = fill_transformer(network, tensors, "cpu", torch.float32, rank.shards)
    loaded, _ = own_memory()
    text = network.encode_text([torch.randn(2, sizes.text_dim)])
    network(torch.randn(1, sizes.in_dim, 1, 2, 4), torch.tensor([500.0]), text)
    return loaded, own_memory()[1]


def own_memory() -> tuple[int, int]:
    """Bytes of this process that are no file's, now and at most since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if "kB" in line}
    Path("/proc/self/clear_refs").write_text("5")
    return found["RssAnon"], found["VmHWM"] - found["RssFile"]


# Runs: the worker of a run folder, once per rank.


def runs(folders: Sequence[tuple[str, int, int]], made: Path) -> None:
    """Each of the (run folder, ranks, port); what this rank made of each goes to ``made``."""
    number, found = int(os.environ["RANK"]), {}
    codes = {}
    publish = predict.Prediction._publish

    def published(self: predict.Prediction, job: Job, cost: dict[str, float]) -> None:
        found.setdefault(self.config.run_dir, []).append(job.id)
        publish(self, job, cost)

    predict.Prediction._publish = published  # type: ignore[method-assign]
    for folder, world, port in folders:
        if number < world:
            become(number, world, port)
            codes[folder] = worker.run(Path(folder))
    (made / f"made.{number}").write_text(json.dumps([codes, found]))
    sys.stdout.flush()


def trainings(folders: Sequence[tuple[str, int]]) -> None:
    """The workers of trainings, each (run folder, port), one after the other."""
    for folder, port in folders:
        os.environ["MASTER_PORT"] = str(port)
        assert worker.run(Path(folder)) == 0


def failing(folder: str, port: int) -> None:
    """The worker of two ranks, the second of which cannot go on in the detail stage."""
    os.environ["MASTER_PORT"] = str(port)
    if os.environ["RANK"] == "1":

        def noise(self: predict.DetailLoop, *_: object) -> object:
            raise RuntimeError("numbers\nran out")

        predict.DetailLoop.noise = noise  # type: ignore[method-assign, assignment]
    with open(Path(folder) / f"said.{os.environ['RANK']}", "w") as said, redirect_stderr(said):
        code = worker.run(Path(folder))
    sys.exit(code)


def scoring(config: TrainConfig, videos: list[Path], port: int) -> None:
    """In a live group the first rank scores the samples of a training, while the other waits."""
    os.environ["MASTER_PORT"] = str(port)
    with joined(Mesh(2)) as rank:
        if rank.is_first:
            samples = Samples(config, None, Tracker(), is_first=True)  # type: ignore[arg-type]
            samples.table.keep(0)
            samples._score(1, videos, {path.stem: "a red circle" for path in videos})
        rank.everyone.barrier()
