"""The files people have load to the weights that they hold, or say what they are."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stand_ins
import torch
from safetensors.torch import load_file, save_file
from small import BACKBONE, official_state, small_config, write_backbone
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.generation import run
from pixelwizard.models.checkpoints import available_parts, require_weights, weights_digest
from pixelwizard.models.wan.files import VALUES, LazyTensor, open_weights, read, read_gguf
from pixelwizard.models.wan.layouts import (
    diffusers_module,
    official_dit,
    official_module,
    official_text,
    official_vae,
)
from pixelwizard.models.weights import (
    check_weights,
    convert,
    load_anchor,
    load_detail,
    load_text_encoder,
    load_vae,
)

LAYERS, BLOCKS = BACKBONE.text.num_layers, BACKBONE.vae.num_res_blocks
KEYS = {"anchor": "anchor", "detail": "detail", "vae": "vae_file", "text_encoder": "text_encoder"}
LOADERS = {
    "anchor": load_anchor,
    "detail": load_detail,
    "vae": load_vae,
    "text_encoder": load_text_encoder,
}
FILES = {
    "anchor": "diffusion_pytorch_model.safetensors",
    "detail": "detail/model.safetensors",
    "vae": "Wan2.2_VAE.safetensors",
    "text_encoder": "models_t5_umt5-enc.safetensors",
}
PREFIXES = {
    "anchor": ("", "model.diffusion_model.", "diffusion_model.", "model.", "net.", "module."),
    "detail": ("", "model.", "model._fsdp_wrapped_module."),
    "vae": ("", "vae.", "first_stage_model."),
    "text_encoder": ("", "text_encoders.umt5xxl.transformer.", "text_encoder."),
}
LAYOUTS: dict[str, dict[str, Callable]] = {
    "anchor": {"official": dict, "diffusers": stand_ins.diffusers_dit},
    "detail": {"official": dict},
    "vae": {"official": dict, "diffusers": lambda state: stand_ins.diffusers_vae(state, BLOCKS)},
    "text_encoder": {
        "official": dict,
        "transformers": lambda state: stand_ins.transformers_text(state, LAYERS),
        "llama.cpp": stand_ins.llama_text,
    },
}
NETWORKS = {**dict.fromkeys(LOADERS, "transformer"), "vae": "vae", "text_encoder": "text_encoder"}
OFFICIAL: dict[str, Callable] = {
    "anchor": official_dit,
    "detail": official_dit,
    "vae": lambda names: official_vae(names, BLOCKS),
    "text_encoder": lambda names: official_text(names, LAYERS),
}
FLOATS = {
    "float64": stand_ins.cast(torch.float64),
    "float32": stand_ins.cast(torch.float32),
    "float16": stand_ins.cast(torch.float16),
    "bfloat16": stand_ins.cast(torch.bfloat16),
}
QUANTISED = {
    "fp8 cast": stand_ins.fp8_cast,
    "fp8 scaled, old": stand_ins.fp8_scaled(new=False),
    "fp8 scaled, new": stand_ins.fp8_scaled(new=True),
    "gguf Q8_0": stand_ins.gguf_file("Q8_0"),
    "gguf Q4_0": stand_ins.gguf_file("Q4_0"),
    "gguf BF16": stand_ins.gguf_file("BF16"),
}
KINDS = {part: {**FLOATS, **QUANTISED} for part in LOADERS}
KINDS["vae"] = FLOATS
KINDS["text_encoder"] = {**FLOATS, **QUANTISED, "gguf Q8_0": stand_ins.gguf_file("Q8_0", "t5")}
MATRIX = [
    (part, layout, kind) for part in LOADERS for layout in LAYOUTS[part] for kind in KINDS[part]
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def folder(backbone: BackboneSettings) -> Path:
    return Path(backbone.folder or "")


def state_of(backbone: BackboneSettings, part: str) -> dict[str, Tensor]:
    return load_file(Path(backbone.folder or "") / FILES[part])


def loaded(backbone: BackboneSettings, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
    network = LOADERS[part](backbone, "cpu", dtype)
    return official_state(network) if part == "text_encoder" else network.state_dict()


@pytest.mark.parametrize(("part", "layout", "kind"), MATRIX)
def test_any_layout_in_any_type_behind_any_prefix(part, layout, kind, backbone, tmp_path):
    """Every weight is what the file holds, in the run's type, rounded once."""
    ours = state_of(backbone, part)
    theirs = LAYOUTS[part][layout](ours)
    for number, prefix in enumerate(PREFIXES[part]):
        path = tmp_path / f"any name {number}"
        held = KINDS[part][kind]({prefix + name: one for name, one in theirs.items()}, path)
        opened = OFFICIAL[part](open_weights(path, NETWORKS[part]))
        assert opened.keys() == ours.keys()
        for name, other in zip(ours, held, strict=False):
            found = read(opened[name], "cpu", torch.bfloat16)
            assert torch.equal(found, held[other].bfloat16()), (prefix, name)
    found = loaded(replace(backbone, **{KEYS[part]: str(path)}), part, torch.float32)
    assert all(torch.equal(found[name], read(opened[name], "cpu", torch.float32)) for name in ours)


def test_a_merged_file_gives_each_part_its_own(backbone, tmp_path):
    """ComfyUI's ``Save Checkpoint``: transformer, autoencoder and text encoder in one file."""
    prefixes = ("model.diffusion_model.", "vae.", "text_encoders.umt5xxl.transformer.")
    merged = {}
    for part, prefix in zip(("anchor", "vae", "text_encoder"), prefixes, strict=True):
        merged |= {prefix + name: tensor for name, tensor in state_of(backbone, part).items()}
    path = tmp_path / "merged.safetensors"
    save_file(merged, path)
    one = replace(backbone, anchor=str(path), vae_file=str(path), text_encoder=str(path))
    for part in ("anchor", "vae", "text_encoder"):
        found, expected = loaded(one, part, torch.float32), state_of(backbone, part)
        assert all(torch.equal(found[name], tensor.float()) for name, tensor in expected.items())


def test_a_text_encoder_of_comfyui_holds_its_tokenizer_too(backbone, tmp_path):
    path = tmp_path / "umt5.safetensors"
    state = stand_ins.transformers_text(state_of(backbone, "text_encoder"), LAYERS)
    save_file({**state, "spiece_model": torch.zeros(9, dtype=torch.uint8)}, path)
    load_text_encoder(replace(backbone, text_encoder=str(path)))


def test_shards_need_no_index_and_names_may_say_a_precision(backbone, tmp_path):
    source = Path(backbone.folder)
    state = state_of(backbone, "anchor")
    halves = [list(state)[::2], list(state)[1::2]]
    for stem in ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"):
        folder = tmp_path / stem
        folder.mkdir()
        (folder / "config.json").write_text((source / "config.json").read_text())
        for number, names in enumerate(halves, 1):
            file = folder / f"{stem}-{number:05d}-of-00002.safetensors"
            save_file({name: state[name] for name in names}, file)
        sharded = replace(backbone, folder=str(folder))
        found = loaded(sharded, "anchor", torch.float32)
        assert all(torch.equal(found[name], state[name].float()) for name in state)
        shard = str(folder / f"{stem}-00002-of-00002.safetensors")
        load_anchor(replace(backbone, anchor=shard))
        (folder / f"{stem}-00002-of-00002.safetensors").unlink()
        with pytest.raises(ValueError, match=r"00002-of-00002.safetensors \(anchor, named by"):
            load_anchor(sharded)
    save_file(state, folder / "diffusion_pytorch_model.fp16.safetensors")
    load_anchor(sharded)


def test_convert_writes_any_file_once_as_it_loads(backbone, tmp_path):
    for part, kind in (("anchor", "gguf Q8_0"), ("text_encoder", "fp8 scaled, old")):
        KINDS[part][kind](state_of(backbone, part), tmp_path / part)
    odd = replace(
        backbone, anchor=str(tmp_path / "anchor"), text_encoder=str(tmp_path / "text_encoder")
    )
    assert len(list(convert(odd, tmp_path / "out", "float32"))) == 4
    written = replace(backbone, folder=str(tmp_path / "out"))
    for part in ("anchor", "text_encoder"):
        found, before = (loaded(b, part, torch.float32) for b in (written, odd))
        assert all(torch.equal(found[name], before[name]) for name in before)


def test_files_are_named_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (job,) = compose("generate", ["backbone.vae=v.gguf", "backbone.text_encoder=t.gguf"])
    backbone = job.config.backbone
    assert backbone.vae_file == str(tmp_path / "v.gguf")
    assert backbone.text_encoder == str(tmp_path / "t.gguf")
    assert backbone.vae.z_dim == 32, "the sizes stay"
    assert available_parts(backbone) == ["anchor", "detail"]
    with pytest.raises(ValueError, match=r"v.gguf \(vae\)"):
        require_weights(backbone)


def test_single_files_need_no_folder_but_a_tokenizer(tmp_path):
    names = ("anchor", "detail", "vae_file", "text_encoder")
    for name in names:
        (tmp_path / name).write_bytes(bytes(9))
    files = {name: str(tmp_path / name) for name in names}
    alone = BackboneSettings(name="wan2_2_ti2v_5b", folder=str(tmp_path / "none"), **files)
    require_weights(alone, ["anchor", "detail", "vae"])
    with pytest.raises(ValueError, match="the tokenizer with: pixelwizard fetch umt5-tokenizer$"):
        require_weights(alone)


def test_the_digest_of_a_container_follows_ema_whatever_its_name(backbone, tmp_path):
    path = tmp_path / "turbo.pth"
    torch.save({"generator": state_of(backbone, "anchor")}, path)
    digests = {
        weights_digest(replace(backbone, anchor=str(path), ema=ema), "anchor")
        for ema in ("auto", "false")
    }
    assert len(digests) == 2


def test_rows_are_the_same_bits_whatever_is_asked_for():
    whole = torch.randn(7, VALUES // 2 - 3)
    calls = []

    def rows(some: slice) -> Tensor:
        calls.append(len(whole[some]))
        return whole[some]

    lazy = LazyTensor(whole.shape, rows)
    assert torch.equal(lazy.to("cpu", torch.bfloat16), whole.bfloat16())
    assert torch.equal(lazy[3:5], whole[3:5]) and torch.equal(lazy[6:9], whole[6:9])
    assert lazy[9:11].shape == (0, whole.shape[1])
    assert max(calls) == 2, "never more than two rows of this size together"


def test_names_of_modules_lead_there_and_back(backbone):
    modules = {name.rpartition(".")[0] for name in state_of(backbone, "anchor")}
    for module in modules:
        assert official_module(diffusers_module(module)) == module


# Files that cannot be used.


def with_extra(**extra: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, **{n.replace("__", "."): t for n, t in extra.items()}}


def wide(width: int, channels: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """A transformer of another size, by the two weights that tell it."""
    changed = {
        "head.modulation": torch.zeros(1, 2, width),
        "patch_embedding.weight": torch.zeros(width, channels, 1, 2, 2),
    }
    return lambda state: {**state, **changed}


def old_vae(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda _: {f"decoder.{name}": torch.zeros(1) for name in names}


ONE = torch.zeros(1)
OTHERS = {
    "lora": ("anchor", lambda _: {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": ONE},
             "is a LoRA, not a network; add it with backbone.lora"),
    "14B": ("anchor", wide(5120, 16), "width 5120, that of the 14B"),
    "14B image": ("anchor", wide(5120, 36), "image to video of 14B"),
    "1.3B": ("anchor", wide(1536, 16), "that of Wan2.1-1.3B"),
    "5B": ("anchor", wide(3072, 48), "use backbone=wan2_2_ti2v_5b backbone.anchor=FILE"),
    "VSA": ("anchor", with_extra(blocks__0__to_gate_compress__weight=ONE), "is FastWan"),
    "VACE": ("anchor", with_extra(vace_blocks__0__x=ONE), "is Wan VACE"),
    "I2V": ("anchor", with_extra(img_emb__proj__0__bias=ONE), "is Wan2.1-I2V"),
    "FAR": ("anchor", with_extra(far_patch_embedding__bias=ONE), "is AnyFlow's causal network"),
    "bnb": ("anchor", with_extra(x__absmax=ONE), "is quantised in a way that cannot be read"),
    "detail": ("anchor", "detail", "is a detail network"),
    "anchor as detail": ("detail", "anchor", "is an anchor, not a detail network"),
    "lora as detail": ("detail", lambda _: {"blocks.0.self_attn.q.lora_down.weight": ONE},
                       "is a LoRA, not a network"),
    "vae as anchor": ("anchor", "vae", "is a video autoencoder; name it with backbone.vae=FILE"),
    "text as anchor": ("anchor", "text_encoder", "name it with backbone.text_encoder=FILE"),
    "anchor as vae": ("vae", "anchor", "is a transformer of width 64; name it with"),
    "T5 of Flux": ("text_encoder", lambda _: {"shared.weight": torch.zeros(32128, 2)},
                   "is T5 v1.1"),
    "VAE 2.1": ("vae", old_vae("middle.0.residual.0.gamma", "upsamples.0.residual.2.weight"),
                "is the autoencoder of Wan2.1"),
    "VAE 2.1 of diffusers": ("vae", old_vae("mid_block.resnets.0.x", "up_blocks.0.upsamplers.0.x"),
                             "is the autoencoder of Wan2.1"),
    "Qwen": ("vae", with_extra(decoder__head__2__weight=torch.zeros(3, 4, 1, 3, 3)),
             "is the autoencoder of Qwen-Image"),
    "TAEHV": ("vae", lambda _: {"decoder.22.bias": ONE}, "is the preview decoder TAEHV"),
    "other": ("anchor", lambda _: {"double_blocks.0.img_attn.qkv.weight": ONE}, "is Flux"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_something_else_is_recognised(case, backbone, tmp_path):
    part, change, sentence = OTHERS[case]
    state = state_of(backbone, change if isinstance(change, str) else part)
    save_file(state if isinstance(change, str) else change(state), tmp_path / "odd.safetensors")
    odd = replace(backbone, **{KEYS[part]: str(tmp_path / "odd.safetensors")})
    with pytest.raises(ValueError, match=sentence) as error:
        LOADERS[part](odd)
    assert "\n" not in str(error.value) and "odd.safetensors" in str(error.value)


def test_weights_that_need_another_attention_are_refused_by_their_name(tmp_path):
    config = small_config(replace(BACKBONE, anchor="/x/T3-Video-Wan2.2-T2V-5B.pt"), tmp_path)
    with pytest.raises(ValueError, match="is T3-Video by its name, .*; use attention=t3"):
        run._check_published(config)
    run._check_published(replace(config, attention="t3"))


@pytest.mark.parametrize(
    ("name", "steps"),
    [("Wan2.2-TI2V-5B-Turbo.pt", "1000,750,500,250"), ("FastWan2.2-FullAttn", "1000,757,522")],
)
def test_a_distilled_network_is_told_how_to_be_sampled(name, steps, tmp_path, capsys):
    config = small_config(replace(BACKBONE, anchor=f"/x/{name}"), tmp_path)
    run._check_published(replace(config, anchor=replace(config.anchor, guidance=5.0)))
    said = capsys.readouterr().err
    assert f"anchor.timesteps=[{steps}] anchor.guidance=1" in said and said.count("\n") == 1
    run._check_published(replace(config, anchor=replace(config.anchor, guidance=1.0)))
    run._check_published(replace(config, backbone=BACKBONE))
    assert not capsys.readouterr().err


BROKEN = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    "page": (b"<!DOCTYPE html><html>", "is a web page"),
    "gguf, empty": (b"GGUF\x03\0\0\0" + bytes(4096), "is a GGUF file without tensors"),
    "gguf, cut": (b"GGUF\x03\0\0\0\x07\0\0\0\0\0\0\0\x01", "cannot be read, it may be truncated"),
    "noise": (bytes(range(256)), "cannot be read, it may be truncated"),
    "nothing": (b"", "is an empty file, not weights"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "is a PNG picture, not weights; name a"),
    "video": (b"\0\0\0 ftypisom" + bytes(64), "is an MP4 or MOV video, not weights"),
    "text": ("a red circle, größer ".encode() * 40, "is a text file, not weights"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence(case, backbone, tmp_path):
    content, sentence = BROKEN[case]
    if case.startswith("gguf"):
        pytest.importorskip("gguf")
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        load_anchor(replace(backbone, anchor=str(path)))
    assert "\n" not in str(error.value)


def changed_fp8(backbone: BackboneSettings, path: Path, edit: Callable) -> BackboneSettings:
    stand_ins.fp8_scaled(new=True)(state_of(backbone, "anchor"), path)
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    return replace(backbone, anchor=str(path))


Q = "blocks.0.self_attn.q."
WRONG_SCALES = {
    "other format": (
        lambda t: t.update({f"{Q}comfy_quant": stand_ins.as_bytes({"format": "nvfp4"})}),
        r"is quantised as nvfp4 \(blocks.0.self_attn.q\), which cannot be read",
    ),
    "no format": (
        lambda t: t.update({f"{Q}comfy_quant": stand_ins.as_bytes([])}),
        "does not say how it is quantised",
    ),
    "no scale": (lambda t: t.pop(f"{Q}weight_scale"), f"but no scale for {Q}weight"),
    "many scales": (
        lambda t: t.update({f"{Q}weight_scale": torch.ones(7, 1)}),
        f"has 7 scales for {Q}weight",
    ),
    "no weight": (lambda t: t.pop(f"{Q}weight"), "has a scale for .*q.weight, but not that weight"),
}


@pytest.mark.parametrize("case", WRONG_SCALES)
def test_a_scale_that_is_ignored_would_make_noise_so_it_is_an_error(case, backbone, tmp_path):
    edit, sentence = WRONG_SCALES[case]
    odd = changed_fp8(backbone, tmp_path / "fp8.safetensors", edit)
    with pytest.raises(ValueError, match=sentence):
        load_anchor(odd)


def test_formats_in_the_metadata_are_read_too(backbone, tmp_path):
    layers = {"layers": {"blocks.0.ffn.0": {"format": "mxfp8"}}}
    path = tmp_path / "odd.safetensors"
    metadata = {"_quantization_metadata": json.dumps(layers)}
    save_file(state_of(backbone, "anchor"), path, metadata)
    with pytest.raises(ValueError, match="is quantised as mxfp8"):
        load_anchor(replace(backbone, anchor=str(path)))


@pytest.mark.parametrize(
    ("kind", "scales"),
    [("Q2_K", (80, 84)), ("Q3_K", (108, 110)), ("Q4_K", (0, 4)), ("Q5_K", (0, 4)),
     ("Q6_K", (208, 210))],
)  # fmt: skip
def test_rows_of_k_quants_are_those_of_the_package(kind, scales, tmp_path):
    """Any bytes are a block of 256 values; its float16 scales, at ``scales``, are made small."""
    gguf = pytest.importorskip("gguf")
    of = gguf.GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[of]
    data = np.random.default_rng(0).integers(0, 256, (6, 2, size), np.uint8)
    data[..., slice(*scales)] = np.frombuffer(np.float16([0.01, 0.02]).tobytes(), np.uint8)[
        : scales[1] - scales[0]
    ]
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "wan")
    writer.add_tensor("blocks.0.ffn.0.weight", data.reshape(6, -1), raw_dtype=of)
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    weight = read_gguf(tmp_path / "k.gguf")["blocks.0.ffn.0.weight"]
    whole = torch.from_numpy(gguf.quants.dequantize(data.reshape(6, -1), of))
    assert whole.shape == weight.shape == (6, 512) and whole.std() > 0.01
    assert torch.equal(weight[2:5], whole[2:5])


def test_gguf_of_another_network_and_without_its_package(backbone, tmp_path, monkeypatch):
    path = tmp_path / "llama.gguf"
    stand_ins.gguf_file("Q8_0", "llama")(state_of(backbone, "anchor"), path)
    odd = replace(backbone, anchor=str(path))
    with pytest.raises(ValueError, match="of the architecture llama, not of Wan"):
        load_anchor(odd)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs the package gguf: pip install 'pixelwizard\[fi"):
        load_anchor(odd)


def test_a_name_with_and_without_a_prefix_is_refused(backbone, tmp_path):
    state = state_of(backbone, "anchor")
    state["diffusion_model.head.head.bias"] = torch.ones(16)
    save_file(state, tmp_path / "twice.safetensors")
    sentence = "head.head.bias appears twice, with and without the prefix diffusion_model."
    with pytest.raises(ValueError, match=sentence):
        load_anchor(replace(backbone, anchor=str(tmp_path / "twice.safetensors")))


def without(folder: Path, out: Path, *names: str) -> Path:
    """The tokenizer's folder of a copy, without some files."""
    shutil.copytree(folder, out)
    for name in names:
        (out / "google/umt5-xxl" / name).unlink()
    return out / "google/umt5-xxl"


def test_a_tokenizer_without_its_vocabulary_is_a_sentence(backbone, folder, tmp_path, capsys):
    tokenizer = without(folder, tmp_path / "copy", "tokenizer.json")
    odd = replace(backbone, folder=str(tmp_path / "copy"))
    with pytest.raises(ValueError, match="neither tokenizer.json nor spiece.model; put"):
        require_weights(odd)
    (tokenizer / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer in .* cannot be read"):
        check_weights(odd, SamplerSettings())
        load_text_encoder(odd)


def test_a_tokenizer_of_sentencepiece_is_read(backbone, folder, tmp_path, monkeypatch):
    """As T5 publishes it: ``spiece.model`` and the configuration."""
    spm = pytest.importorskip("sentencepiece")
    tokenizer = without(folder, tmp_path / "copy", "tokenizer.json")
    texts = ["a red circle moves left", "a blue square"] * 20
    with open(tokenizer / "spiece.model", "wb") as model:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, vocab_size=40, minloglevel=2,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
        )  # fmt: skip
    (tokenizer / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}'
    )
    text = replace(backbone.text, vocab_size=64)
    state = state_of(backbone, "text_encoder")
    state["token_embedding.weight"] = torch.randn(64, text.dim)
    save_file(state, tmp_path / "text.safetensors")
    odd = replace(
        backbone, folder=str(tmp_path / "copy"), text=text,
        text_encoder=str(tmp_path / "text.safetensors"),
    )  # fmt: skip
    require_weights(odd, ["text_encoder"])
    (tokens,) = load_text_encoder(odd).tokenize(["a red circle"])
    assert tokens[-1] == 1 and len(tokens) > 3
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"reading it needs: pip install 'pixelwizard\[files\]'"):
        require_weights(odd, ["text_encoder"])


@pytest.mark.parametrize("key", ["anchor", "detail", "vae", "text_encoder"])
def test_convert_leaves_out_no_file_that_was_named(key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", f"backbone.{key}=none.safetensors", "out=out"]) == 2
    assert f"backbone.{key}={tmp_path / 'none.safetensors'} does not exist" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
