"""LoRA files of every dialect add to a network what their makers meant, once, in float32."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import stand_ins
import torch
from safetensors.torch import load_file, save_file
from small import BACKBONE, small_config, write_backbone, write_config
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.config.backbone import BackboneSettings, LoRASettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.tasks import load
from pixelwizard.models.checkpoints import require_weights, weights_digest
from pixelwizard.models.wan.layouts import diffusers_module
from pixelwizard.models.weights import convert, load_anchor, load_detail
from pixelwizard.records.provenance import Provenance

ANCHOR = "diffusion_pytorch_model.safetensors"
RANK = 2
MODULES = {
    "blocks.0.self_attn.q": (64, 64),
    "blocks.1.cross_attn.o": (64, 64),
    "blocks.0.ffn.0": (64, 64),
    "blocks.1.ffn.2": (64, 64),
    "time_projection.1": (384, 64),
    "text_embedding.0": (64, 16),
}
Pairs = dict[str, tuple[Tensor, Tensor]]
Given = Callable[[Pairs], dict[str, Tensor]]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def weights(backbone: BackboneSettings) -> dict[str, Tensor]:
    return load_anchor(backbone).state_dict()


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """up [out, r] and down [r, in] by module."""
    draw = torch.Generator().manual_seed(1)
    return {
        name: (torch.randn(out, RANK, generator=draw), torch.randn(RANK, inner, generator=draw))
        for name, (out, inner) in MODULES.items()
    }


def named(template: str, path: Callable[[str], str] = str, ends: str = "AB") -> Given:
    """Both factors of each module under names like ``template``."""
    down, up = {"AB": ("A", "B"), "down": ("down", "up")}[ends]

    def given(pairs: Pairs) -> dict[str, Tensor]:
        made = {}
        for module, (up_weight, down_weight) in pairs.items():
            made[template.format(path(module), down)] = down_weight
            made[template.format(path(module), up)] = up_weight
        return made

    return given


def underscored(path: str) -> str:
    return path.replace(".", "_")


def underscored_diffusers(path: str) -> str:
    return diffusers_module(path).replace(".", "_")


FAMILIES: dict[str, Given] = {
    "diffusers": named("transformer.{}.lora_{}.weight", diffusers_module),
    "diffusers, bare": named("{}.lora_{}.weight", diffusers_module),
    "PEFT": named("base_model.model.{}.lora_{}.weight"),
    "PEFT, named": named("base_model.model.{}.lora_{}.default.weight"),
    "ComfyUI": named("diffusion_model.{}.lora_{}.weight"),
    "ComfyUI, down": named("diffusion_model.{}.lora_{}.weight", ends="down"),
    "DiffSynth": named("{}.lora_{}.default.weight"),
    "DiffSynth, pipe": named("pipe.dit.{}.lora_{}.default.weight"),
    "musubi": named("lora_unet_{}.lora_{}.weight", underscored, "down"),
    "Wan-Fun": named("lora_unet__{}.lora_{}.weight", underscored, "down"),
    "SimpleTuner": named("lora_unet_{}.lora_{}.weight", underscored_diffusers, "down"),
    "lycoris": named("lycoris_{}.lora_{}.weight", underscored, "down"),
    "old diffusers": named("{}_lora.{}.weight", ends="down"),
    "old diffusers, dotted": named("{}.lora.{}.weight", ends="down"),
    "without an end": named("diffusion_model.{}.lora_{}"),
}


def with_lora(backbone: BackboneSettings, *files: Path, **settings: object) -> BackboneSettings:
    return replace(backbone, lora=[LoRASettings(str(file), **settings) for file in files])  # type: ignore[arg-type]


def saved(tensors: dict[str, Tensor], path: Path, **metadata: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def check_sum(
    found: dict[str, Tensor], weights: dict[str, Tensor], pairs: Pairs, factor: float
) -> None:
    """Each weight is the old one plus its product, and every other one is the old one."""
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        expected = weight
        if module in pairs:
            up, down = pairs[module]
            expected = weight + factor * (up @ down)
        assert torch.allclose(found[name], expected, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_dialect_names_the_same_weights(family, backbone, weights, pairs, tmp_path):
    path = saved(FAMILIES[family](pairs), tmp_path / "lora.safetensors")
    found = load_anchor(with_lora(backbone, path, scale=0.5)).state_dict()
    check_sum(found, weights, pairs, 0.5)


def peft(**values: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in values.items()})}


@pytest.mark.parametrize(
    ("alpha", "metadata", "factor"),
    [
        (None, {}, 1.0),
        (1.0, {}, 1 / RANK),
        (0.0, {}, 1.0),
        (None, peft(r=RANK, lora_alpha=8), 8 / RANK),
        (None, peft(r=RANK, lora_alpha=8, use_rslora=True), 8 / math.sqrt(RANK)),
        (1.0, peft(lora_alpha=8), 1 / RANK),
    ],
)
def test_alpha_scales_as_its_maker_meant(
    alpha, metadata, factor, backbone, weights, pairs, tmp_path
):
    tensors = FAMILIES["ComfyUI"](pairs)
    if alpha is not None:
        tensors |= {f"diffusion_model.{name}.alpha": torch.tensor(alpha) for name in pairs}
    path = saved(tensors, tmp_path / "lora.safetensors", **metadata)
    check_sum(load_anchor(with_lora(backbone, path)).state_dict(), weights, pairs, factor)


def test_a_folder_of_peft_has_its_configuration_beside_it(backbone, weights, pairs, tmp_path):
    saved(FAMILIES["PEFT"](pairs), tmp_path / "adapter_model.safetensors")
    config = tmp_path / "adapter_config.json"
    patterns = {"alpha_pattern": {"ffn.0": 2.0}}
    config.write_text(json.dumps({"r": RANK, "lora_alpha": 8, **patterns}))
    chosen = with_lora(backbone, tmp_path)
    found = load_anchor(chosen).state_dict()
    first = {name: pair for name, pair in pairs.items() if name.endswith("ffn.0")}
    rest = {name: pair for name, pair in pairs.items() if name not in first}
    middle = {n: w for n, w in weights.items() if n.removesuffix(".weight") not in first}
    check_sum({n: found[n] for n in middle}, middle, rest, 4.0)
    of_first = {n: w for n, w in weights.items() if n.removesuffix(".weight") in first}
    check_sum({n: found[n] for n in of_first}, of_first, first, 1.0)
    before = weights_digest(chosen, "anchor")
    config.write_text(json.dumps({"r": RANK, "lora_alpha": 4, **patterns}))
    assert weights_digest(chosen, "anchor") != before
    config.write_text("{")
    with pytest.raises(ValueError, match="configuration of a LoRA by PEFT cannot be read"):
        load_anchor(chosen)


def test_whole_differences_of_weights_biases_norms_and_modulation(backbone, weights, tmp_path):
    """As LightX2V, CausVid and AccVideo ship them."""
    draw = torch.Generator().manual_seed(2)
    names = {
        "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.self_attn.q.bias",
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm3.weight",
        "diffusion_model.blocks.1.self_attn.norm_q.diff": "blocks.1.self_attn.norm_q.weight",
        "diffusion_model.blocks.1.diff_m": "blocks.1.modulation",
        "diffusion_model.head.diff_m": "head.modulation",
        "diffusion_model.head.head.diff": "head.head.weight",
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
        "diffusion_model.patch_embedding.diff_b": "patch_embedding.bias",
    }
    tensors = {name: torch.randn(weights[of].shape, generator=draw) for name, of in names.items()}
    path = saved(tensors, tmp_path / "lora.safetensors")
    found = load_anchor(with_lora(backbone, path, scale=2.0)).state_dict()
    for name, of in names.items():
        assert torch.equal(found[of], weights[of] + 2.0 * tensors[name]), name
    changed = [name for name in weights if not torch.equal(found[name], weights[name])]
    assert sorted(changed) == sorted(names.values())


def test_a_bias_and_a_convolution_have_low_rank_parts_too(backbone, weights, tmp_path):
    draw = torch.Generator().manual_seed(3)
    bias = torch.randn(64, generator=draw)
    kernel = (torch.randn(64, 2, 1, 1, 1, generator=draw), torch.randn(2, 4, 1, 2, 2))
    tensors = {
        "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(RANK, 64),
        "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.zeros(64, RANK),
        "transformer.blocks.0.attn1.to_q.lora_B.bias": bias,
        "transformer.patch_embedding.lora_up.weight": kernel[0],
        "transformer.patch_embedding.lora_down.weight": kernel[1],
        "transformer.blocks.0.attn1.to_q.alpha": torch.tensor(1.0),
    }
    path = saved(tensors, tmp_path / "lora.safetensors")
    found = load_anchor(with_lora(backbone, path)).state_dict()
    q = "blocks.0.self_attn.q.bias"
    assert torch.equal(found[q], weights[q] + bias / RANK)
    product = torch.einsum("orxyz,richw->oichw", *kernel)
    expected = weights["patch_embedding.weight"] + product
    assert torch.allclose(found["patch_embedding.weight"], expected, atol=1e-6)


def test_several_are_summed_in_float32_and_rounded_once(backbone, weights, pairs, tmp_path):
    """Also on quantised weights, which are not rounded before."""
    one = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "one.safetensors")
    two = saved(FAMILIES["musubi"](pairs), tmp_path / "two.safetensors")
    base = tmp_path / "base.gguf"
    held = stand_ins.gguf_file("Q8_0")({n: w.float() for n, w in weights.items()}, base)
    chosen = replace(with_lora(backbone, one, two), anchor=str(base))
    found = load_anchor(chosen, "cpu", torch.bfloat16).state_dict()
    for name, (up, down) in pairs.items():
        expected = held[f"{name}.weight"] + up @ down + up @ down
        assert torch.equal(found[f"{name}.weight"], expected.bfloat16()), name


def test_a_scale_of_zero_and_no_lora_are_the_network(backbone, weights, pairs, tmp_path):
    path = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "lora.safetensors")
    found = load_anchor(with_lora(backbone, path, scale=0.0)).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


def test_each_stage_has_its_own(backbone, pairs, tmp_path):
    """The detail network of the small backbone has one block."""
    fitting = {name: pair for name, pair in pairs.items() if not name.startswith("blocks.1.")}
    path = saved(FAMILIES["ComfyUI"](fitting), tmp_path / "lora.safetensors")
    chosen = with_lora(backbone, path, stage="detail")
    assert weights_digest(chosen, "anchor") == weights_digest(backbone, "anchor")
    assert weights_digest(chosen, "detail") != weights_digest(backbone, "detail")
    weights = load_detail(backbone).state_dict()
    check_sum(load_detail(chosen).state_dict(), weights, fitting, 1.0)


def test_digests_follow_file_and_scale(backbone, pairs, tmp_path):
    path = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "lora.safetensors")
    half = with_lora(backbone, path, scale=0.5)
    digests = [weights_digest(b, "anchor") for b in (backbone, with_lora(backbone, path), half)]
    assert len(set(digests)) == 3
    copy = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "copy.safetensors")
    assert weights_digest(with_lora(backbone, copy, scale=0.5), "anchor") == digests[2]


def test_convert_writes_the_sum(backbone, weights, pairs, tmp_path):
    path = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "lora.safetensors")
    list(convert(with_lora(backbone, path), tmp_path / "out", "float32"))
    check_sum(load_file(tmp_path / "out" / ANCHOR), weights, pairs, 1.0)


def test_streamed_weights_are_the_same_bits(backbone, pairs, tmp_path):
    """Slices on several ranks: ``tests/test_parallel.py``."""
    path = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "lora.safetensors")
    base = tmp_path / "base.gguf"
    stand_ins.gguf_file("Q8_0")(load_file(Path(backbone.folder) / ANCHOR), base)
    chosen = replace(with_lora(backbone, path), anchor=str(base))
    whole, streamed = load_anchor(chosen), load_anchor(chosen)
    streamed.stream_from_host(torch.device("cpu"), asynchronous=False)
    text = [torch.ones(2, 16)]
    latent, time = torch.ones(1, 4, 1, 4, 4), torch.tensor([500.0])
    with torch.no_grad():
        found = [one(latent, time, one.encode_text(text)) for one in (whole, streamed)]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_network_of_8_bits_is_that_of_the_sum(kind, backbone, pairs, tmp_path):
    path = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "lora.safetensors")
    list(convert(with_lora(backbone, path), tmp_path / "out", "float32"))
    merged = replace(backbone, anchor=str(tmp_path / "out" / ANCHOR), quantize=kind)
    networks = load_anchor(replace(with_lora(backbone, path), quantize=kind)), load_anchor(merged)
    found, expected = (network.state_dict() for network in networks)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].float(), expected[name].float()) for name in expected)


# Files that cannot be used.

X = "diffusion_model.blocks.0.self_attn.q."
FACTORS = {f"{X}lora_A.weight": torch.ones(2, 64), f"{X}lora_B.weight": torch.ones(64, 2)}
WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "DoRA": ({**FACTORS, f"{X}dora_scale": torch.ones(64)}, "is DoRA, which is not read"),
    "DoRA of PEFT": (
        {**FACTORS, f"{X}lora_magnitude_vector": torch.ones(64)}, "is DoRA, which is not read"),
    "LoHa": ({f"{X}hada_w1_a": torch.ones(2, 2)}, "is LoHa, which is not read"),
    "LoKr": ({f"{X}lokr_w1": torch.ones(2, 2)}, "is LoKr, which is not read"),
    "OFT": ({f"{X}oft_blocks": torch.ones(2, 2)}, "is OFT, which is not read"),
    "Tucker": ({**FACTORS, f"{X}lora_mid.weight": torch.ones(2)}, "is LoCon with a Tucker core"),
    "network": ({"blocks.0.self_attn.q.weight": torch.ones(2)}, "is not a LoRA: no name like"),
    "half": ({f"{X}lora_A.weight": torch.ones(2, 64)}, "has the down weight .* but not the up"),
    "ranks": (
        {**FACTORS, f"{X}lora_B.weight": torch.ones(64, 3)}, "factors of .* do not fit each other"),
    "layer": (
        {f"diffusion_model.blocks.{n}.self_attn.q.{end}": FACTORS[f"{X}{end}"].clone()
         for n in range(7) for end in ("lora_A.weight", "lora_B.weight")},
        r"blocks.2.self_attn.q.weight \[64, 64\], .* and 2 more"),
    "14B": (
        {f"{X}lora_A.weight": torch.ones(2, 5120), f"{X}lora_B.weight": torch.ones(5120, 2)},
        r"\[5120, 5120\] of \[64, 64\]; it seems to be of Wan 14B"),
    "text encoder": (
        {**FACTORS, "lora_te_encoder_q.lora_down.weight": torch.ones(2, 4),
         "lora_te_encoder_q.lora_up.weight": torch.ones(4, 2)}, "lora_te_encoder_q.weight"),
    "unknown": ({**FACTORS, f"{X}surprise": torch.ones(1)}, "surprise"),
    "twice": (
        {**FACTORS, "blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 64)},
        "has two down weights of blocks.0.self_attn.q"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named_in_one_sentence(case, backbone, tmp_path):
    tensors, sentence = WRONG[case]
    path = saved(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=sentence) as error:
        load_anchor(with_lora(backbone, path))
    assert "\n" not in str(error.value) and "lora.safetensors" in str(error.value)


def test_a_lora_of_the_other_stage_is_refused(backbone, pairs, tmp_path):
    path = tmp_path / "lora.safetensors"
    saved(FAMILIES["ComfyUI"](pairs), path, **{"pixelwizard.stage": "detail"})
    with pytest.raises(ValueError, match="give it as {file: lora.safetensors, stage: detail}"):
        load_anchor(with_lora(backbone, path))


def test_the_command_line_takes_files_and_nodes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "backbone.lora=[my/one.safetensors, {file: two.safetensors, scale: 0.8, stage: detail}]"
    ]
    (job,) = compose("generate", [*words, "run_dir=run"])
    one, two = job.config.backbone.lora
    assert one == LoRASettings(str(tmp_path / "my/one.safetensors"))
    assert two == LoRASettings(str(tmp_path / "two.safetensors"), 0.8, "detail")
    write_config(job.config)
    assert load(tmp_path / "run/config.yaml").backbone == job.config.backbone
    with pytest.raises(ValueError, match="one.safetensors does not exist; name a file with a LoRA"):
        require_weights(job.config.backbone)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("one.safetensors", "backbone.lora=one.safetensors must be a list"),
        ("[{scale: 2}]", r"backbone.lora\[0\].file is missing"),
        ("[{file: a, scale: big}]", r"backbone.lora\[0\].scale=big must be a number"),
        ("[{file: a, scale: .inf}]", "scale"),
        (
            "[{file: a, stage: both}]",
            r"backbone.lora\[0\].stage=both must be one of anchor, detail",
        ),
        ("[{file: a, strength: 1}]", "unknown key"),
        ("['']", r"backbone.lora\[0\].file is empty"),
    ],
)
def test_a_wrong_setting_is_one_sentence(value, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        compose("generate", [f"backbone.lora={value}"])


def test_a_run_with_a_missing_lora_ends_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["backbone.lora=[no.safetensors]", "run_dir=run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_picture_given_as_a_lora_is_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("style.safetensors").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    assert main(["backbone.lora=[style.safetensors]"]) == 2
    said = capsys.readouterr().err
    assert "backbone.lora: " in said and "style.safetensors is a PNG picture, not weights" in said
    assert said.count("\n") == 1 and not Path("outputs").exists()


def test_the_record_of_a_video_names_its_loras(backbone, pairs, tmp_path):
    path = saved(FAMILIES["ComfyUI"](pairs), tmp_path / "mine.safetensors")
    plain = Provenance(small_config(backbone, tmp_path), {}, "cpu")
    assert "lora" not in plain._run
    config = small_config(with_lora(backbone, path, scale=0.5), tmp_path)
    (entry,) = Provenance(config, {}, "cpu")._run["lora"]
    assert entry["file"] == "mine.safetensors" and entry["stage"] == "anchor"
    assert entry["scale"] == 0.5 and len(entry["sha256"]) == 64
    assert BACKBONE.lora == []
