"""A LoRA is trained in place of its network, by every objective, and read by everyone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import BACKBONE, FEW_STEP, SIZE, few_step, small_training, write_backbone
from test_train import fixed_batch
from torch import nn

from pixelwizard.config.backbone import BackboneSettings, LoRASettings
from pixelwizard.config.generate import PlanConfig
from pixelwizard.config.objective import AdapterSettings, ShortcutSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.train import CheckpointSettings, TrainConfig
from pixelwizard.config.trainer import TrainerSettings
from pixelwizard.models.lora.adapter import add_adapter, is_adapter
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.weights import load_anchor, load_detail
from pixelwizard.planning.training_cost import plan_training
from pixelwizard.training.checkpointing import determined, read_checkpoint
from pixelwizard.training.train import make_module, train

LORA = AdapterSettings("lora", rank=2)
LOADERS = {"anchor": load_anchor, "detail": load_detail}
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "anchor": ("anchor", {}),
    "detail, flow": ("detail", {"shortcut": ShortcutSettings(probability=0.0)}),
    "detail, shortcuts": ("detail", {"shortcut": ShortcutSettings(probability=1.0)}),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the trainings of this file share."""
    return tmp_path_factory.mktemp("latents")


def config_of(
    backbone: BackboneSettings, folder: Path, latents: Path, part: str, **objective: Any
) -> TrainConfig:
    config = small_training(backbone, folder, latents, part, **{"init_from": None, **objective})
    return replace(config, adapter=LORA)


def test_a_new_lora_changes_nothing_and_stands_beside_its_targets(backbone: BackboneSettings):
    network, plain = load_anchor(backbone), load_anchor(backbone)
    add_adapter(
        network, AdapterSettings("lora", rank=3, targets=["self_attn.q", "ffn.2"]), torch.float32
    )
    trained = [name for name, weight in network.named_parameters() if weight.requires_grad]
    ends = ("self_attn.q.lora_A", "self_attn.q.lora_B", "ffn.2.lora_A", "ffn.2.lora_B")
    assert trained == [f"blocks.{n}.{end}.weight" for n in range(2) for end in ends]
    latent, time = torch.ones(1, 4, 1, 4, 4), torch.tensor([500.0])
    with torch.no_grad():
        found = [
            one(latent, time, one.encode_text([torch.ones(2, 16)])) for one in (network, plain)
        ]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", OBJECTIVES)
def test_every_objective_trains_it_and_nothing_else(case, backbone, tmp_path):
    part, objective = OBJECTIVES[case]
    torch.manual_seed(0)
    module = make_module(config_of(backbone, tmp_path, tmp_path, part, **objective))
    before = {name: weight.clone() for name, weight in module.network.state_dict().items()}
    optimizer, batch, losses = module.configure_optimizers(), fixed_batch(), []
    assert len(optimizer.param_groups) == 1, "AdamW alone"
    for _ in range(12):
        loss = module.loss(module.network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for name, weight in module.network.state_dict().items():
        assert torch.equal(weight, before[name]) is not is_adapter(name), name


@pytest.mark.parametrize("name", FEW_STEP)
def test_few_step_objectives_have_further_loras_on_the_same_weights(name, backbone, tmp_path):
    """A teacher and a score are LoRAs too."""
    torch.manual_seed(0)
    module = make_module(config_of(backbone, tmp_path, tmp_path, "detail", **few_step(name)))
    for further in module.further.values():
        pairs = zip(module.network.named_parameters(), further.named_parameters(), strict=True)
        for (own, weight), (other, copied) in pairs:
            assert own == other and (weight is copied) is not is_adapter(own)
    module.loss(module.network, fixed_batch()).backward()
    assert any(p.grad is not None for p in module.parameters())
    for own, weight in module.named_parameters():
        assert is_adapter(own) or weight.grad is None, own
    networks = ("network.", "average.", "further.")
    kept = [key for key in module.state_dict() if key.startswith(networks)]
    assert kept and all(map(is_adapter, kept)), "besides what an objective itself remembers"


@pytest.mark.parametrize("name", ["progressive", "dmd"])
def test_a_lora_with_a_teacher_continues_to_the_bit(name, backbone, latents, tmp_path):
    config = config_of(backbone, tmp_path / "whole", latents, "detail", **few_step(name))
    assert train(config) == 0
    last = "checkpoints/step-00000006.ckpt"
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    (tmp_path / "halves" / last).unlink()
    assert train(replace(config, run_dir=str(tmp_path / "halves"))) == 0
    whole, again = (read_checkpoint(tmp_path / n / last)["state_dict"] for n in ("whole", "halves"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_step_size_that_the_anchor_never_learnt_is_no_base_of_a_lora(backbone, tmp_path):
    config = config_of(backbone, tmp_path, tmp_path, "anchor", **few_step("flow_map"))
    with pytest.raises(ValueError, match="trains no other weights, and .* lacks dt_embedding"):
        make_module(replace(config, stage="anchor"))


def test_the_average_shares_the_frozen_weights(backbone, tmp_path):
    module = make_module(config_of(backbone, tmp_path, tmp_path, "anchor"))
    pairs = zip(module.network.named_parameters(), module.average.parameters(), strict=True)
    for (name, own), mean in pairs:
        assert (own is mean) is not is_adapter(name), name
    size = sum(p.numel() for p in module.parameters())
    lora = sum(p.numel() for p in module.parameters() if p.requires_grad)
    plain = sum(p.numel() for p in WanDiT(BACKBONE.dit).parameters())
    assert size == plain + 2 * lora


def test_the_network_is_kept_in_the_type_of_the_backbone(backbone, tmp_path):
    half = replace(backbone, dtype="bfloat16")
    module = make_module(config_of(half, tmp_path, tmp_path, "detail"))
    for name, weight in module.network.named_parameters():
        assert weight.dtype is (torch.float32 if is_adapter(name) else torch.bfloat16)
    loss = module.loss(module.network, fixed_batch())
    loss.backward()
    assert all(p.grad is not None for p in module.network.parameters() if p.requires_grad)


@pytest.mark.parametrize("part", LOADERS)
def test_a_stopped_training_continues_to_the_bit_and_its_files_hold_the_lora_alone(
    part, backbone, latents, tmp_path
):
    whole = config_of(backbone, tmp_path / "whole", latents, part)
    assert train(whole) == 0
    halves = replace(whole, run_dir=str(tmp_path / "halves"))
    assert train(replace(halves, trainer=replace(halves.trainer, max_steps=3))) == 0
    assert train(halves) == 0
    export = "export/lora.safetensors"
    found, expected = (load_file(tmp_path / name / export) for name in ("halves", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [p.name for p in (tmp_path / "whole/export").iterdir()] == ["lora.safetensors"]
    state = read_checkpoint(tmp_path / "whole/checkpoints/step-00000006.ckpt")["state_dict"]
    assert all(is_adapter(name) for name in state if name != "averaged")
    assert {name.split(".")[0] for name in state} == {"network", "average", "averaged"}


def test_the_export_is_what_the_training_has(backbone, latents, tmp_path):
    """Merged by ``backbone.lora``, at an alpha that is not the rank, it is the same function."""
    config = config_of(backbone, tmp_path, latents, "detail")
    config = replace(config, adapter=replace(LORA, alpha=5.0, targets=["q", "ffn.0"]))
    assert train(config) == 0
    path = tmp_path / "export/lora.safetensors"
    state = read_checkpoint(tmp_path / "checkpoints/step-00000006.ckpt")["state_dict"]
    module = make_module(config)
    module.load_state_dict(state, strict=False)
    lora = [LoRASettings(str(path), stage="detail")]
    merged, plain = load_detail(replace(backbone, lora=lora)), load_detail(backbone)
    latent, anchor = torch.ones(1, 4, 1, 4, 4), torch.ones(1, 4, 1, 2, 2)

    def output(network: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            text = network.encode_text([torch.ones(2, 16)])
            features = network.encode_anchor(anchor, (1, 2, 2))
            return network(latent, torch.tensor([500.0]), text, torch.tensor([100.0]), features)

    assert torch.allclose(output(module.average), output(merged), atol=1e-5)
    assert not torch.allclose(output(plain), output(merged), atol=1e-5)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["pixelwizard.stage"] == "detail" and metadata["rank"] == "2"
    assert len(metadata["pixelwizard.base"]) == 64
    with pytest.raises(ValueError, match="stage: detail"):
        load_anchor(replace(backbone, lora=[LoRASettings(str(path))]))


def test_diffusers_reads_the_export_to_the_same_velocity(backbone, latents, tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    from diffusers import WanPipeline
    from test_diffusers import their_dit

    config = config_of(backbone, tmp_path, latents, "anchor")
    config = replace(config, adapter=replace(LORA, alpha=5.0))
    assert train(config) == 0
    path = tmp_path / "export/lora.safetensors"
    theirs = their_dit(BACKBONE.dit)
    theirs.load_state_dict(stand_ins.diffusers_dit(load_anchor(backbone).state_dict()))
    read = WanPipeline.lora_state_dict(path.parent, weight_name=path.name)
    WanPipeline.load_lora_into_transformer(read, theirs)
    ours = load_anchor(replace(backbone, lora=[LoRASettings(str(path))]))
    draw = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, 2, 4, 4, generator=draw)
    text = torch.randn(1, 8, 16, generator=draw)
    with torch.no_grad():
        expected = theirs(latent, torch.tensor([500]), text, return_dict=False)[0]
        found = ours(latent, torch.tensor([500.0]), ours.encode_text([text[0]]))
        plain = load_anchor(backbone)
        without = plain(latent, torch.tensor([500.0]), plain.encode_text([text[0]]))
    error = (found - expected).norm() / expected.norm()
    assert error < 1e-5 < (found - without).norm() / without.norm()


def test_other_base_weights_do_not_continue_a_training(backbone, latents, tmp_path):
    config = config_of(backbone, tmp_path / "run", latents, "anchor")
    short = replace(config, trainer=replace(config.trainer, max_steps=3))
    state = load_file(Path(backbone.folder) / "diffusion_pytorch_model.safetensors")
    base = tmp_path / "base.safetensors"
    save_file(state, base)
    own = replace(short, objective=replace(short.objective, init_from=str(base)))
    assert train(own) == 0
    save_file({name: 2 * weight for name, weight in state.items()}, base)
    longer = replace(own, trainer=config.trainer)
    with pytest.raises(ValueError, match="base was .*, now "):
        train(longer)


def test_a_training_without_a_lora_is_determined_as_before(backbone, tmp_path):
    plain = small_training(backbone, tmp_path, tmp_path, "anchor")
    assert not {"adapter", "base"} & determined(plain).keys()


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "autoencoder": ("vae", {}, "is for the anchor and the detail network, not for vae"),
    "random": ("anchor", {"init_from": "random"}, "objective.init_from=random has none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_lora_of_nothing_is_refused(case, backbone, tmp_path):
    part, objective, sentence = WRONG[case]
    with pytest.raises(ConfigError, match=sentence):
        check(config_of(backbone, tmp_path, tmp_path, part, **objective))


def test_settings_that_cannot_work_together_are_refused(backbone, tmp_path):
    config = config_of(backbone, tmp_path, tmp_path, "anchor")
    with pytest.raises(ConfigError, match="adapter.targets=.. leaves nothing to train"):
        check(replace(config, adapter=replace(LORA, targets=[])))
    with pytest.raises(ConfigError, match="adapter.rank=2 is for adapter=lora; leave it out"):
        check(replace(config, adapter=AdapterSettings(rank=2)))
    with pytest.raises(ConfigError, match="checkpoint.container=true exports whole networks"):
        check(replace(config, checkpoint=CheckpointSettings(container=True)))
    with pytest.raises(ConfigError, match=r"adapter.targets has 'z', .* they are self_attn.q, "):
        make_module(replace(config, adapter=replace(LORA, targets=["q", "z"])))
    anchor = str(Path(backbone.folder) / "diffusion_pytorch_model.safetensors")
    detail = config_of(backbone, tmp_path, tmp_path, "detail", init_from=anchor)
    with pytest.raises(ValueError, match="trains no other weights, and .* lacks dt_embedding"):
        make_module(detail)
    plan = PlanConfig(run_dir="", backbone=BACKBONE, resolution=SIZE, adapter=LORA)
    with pytest.raises(ConfigError, match="adapter=lora is for train=anchor"):
        check(plan)


def test_a_training_on_top_of_another_lora_starts_from_the_sum(backbone, tmp_path):
    pair = {
        "diffusion_model.blocks.0.ffn.0.lora_A.weight": torch.ones(1, 64),
        "diffusion_model.blocks.0.ffn.0.lora_B.weight": torch.ones(64, 1),
    }
    save_file(pair, tmp_path / "first.safetensors")
    chosen = replace(backbone, lora=[LoRASettings(str(tmp_path / "first.safetensors"))])
    module = make_module(config_of(chosen, tmp_path, tmp_path, "anchor"))
    expected = load_anchor(backbone).blocks[0].ffn[0].weight + 1
    assert torch.allclose(module.network.blocks[0].ffn[0].weight, expected)


def test_the_plan_of_a_lora_counts_the_frozen_weights_once_on_one_gpu():
    half = replace(BACKBONE, dtype="bfloat16")
    base = PlanConfig(run_dir="", backbone=half, resolution=SIZE, train="anchor", gpus=[1, 4])
    full, (one, four) = plan_training(base)[0], plan_training(replace(base, adapter=LORA))
    network = WanDiT(BACKBONE.dit)
    frozen = sum(p.numel() for p in network.parameters())
    add_adapter(network, LORA, torch.float32)
    lora = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert one.weights_gb == pytest.approx((2 * frozen + 4 * lora) / 1e9)
    assert one.gradients_gb == pytest.approx(4 * lora / 1e9)
    assert one.optimizer_gb == pytest.approx(8 * lora / 1e9)
    assert one.average_gb == pytest.approx(4 * lora / 1e9)
    assert four.average_gb == four.weights_gb == pytest.approx(one.weights_gb / 4)
    assert one.peak_gb < full.peak_gb and one.activations_gb > 0


def test_it_trains_in_bfloat16_with_checkpointed_blocks(backbone, latents, tmp_path):
    config = config_of(replace(backbone, dtype="bfloat16"), tmp_path, latents, "detail")
    trainer = TrainerSettings(
        max_steps=2, log_every_n_steps=1, precision="bf16-mixed", gradient_checkpointing=True
    )
    assert train(replace(config, trainer=trainer)) == 0
    state = load_file(tmp_path / "export/lora.safetensors")
    assert any(weight.any() for name, weight in state.items() if "lora_B" in name)
