"""The files of a backbone, where they lie, and which are missing. Imports no torch.

A folder is laid out as Wan2.2-TI2V-5B is published, plus the detail network::

    config.json  diffusion_pytorch_model[-*].safetensors[.index.json]      the anchor network
    few_step/diffusion_pytorch_model.safetensors                  the anchor network of few steps
    detail/model.safetensors or detail/model.pt                           the detail network
    Wan2.2_VAE.safetensors or .pth
    models_t5_umt5-enc.safetensors or models_t5_umt5-xxl-enc-bf16.pth     the text encoder
    google/umt5-xxl/                                                      its tokenizer
    latent_statistics.yaml                           of its latents, if this program wrote them

or like its Diffusers version, with ``transformer/``, ``vae/``, ``text_encoder/`` and
``tokenizer/``. A name may also end in ``.fp16.safetensors`` or ``.bf16.safetensors``, or be that
of shards without an index. ``backbone.anchor``, ``.detail``, ``.vae_file`` and ``.text_encoder``
name files, in any format, that replace the folder's own; ``backbone.lora`` names what is added.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixelwizard.config import tasks
from pixelwizard.config.backbone import BackboneSettings, DiTSizes, LoRASettings
from pixelwizard.config.schema import ConfigError, listed
from pixelwizard.config.tasks import read_yaml
from pixelwizard.io.files import file_digest, kind_of, read_json, text_digest

PARTS = ("text_encoder", "anchor", "detail", "vae")
CONFIG = "config.json"
TOKENIZER, TOKENIZER_CONFIG = "google/umt5-xxl", "tokenizer_config.json"
STATISTICS = "latent_statistics.yaml"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")

# The first name of each part is the one that is written.
NAMES: dict[str, tuple[str, ...]] = {
    "anchor": ("diffusion_pytorch_model.safetensors", INDEX),
    "detail": ("detail/model.safetensors", "detail/model.pt"),
    "vae": ("Wan2.2_VAE.safetensors", "Wan2.2_VAE.pth"),
    "text_encoder": ("models_t5_umt5-enc.safetensors", "models_t5_umt5-xxl-enc-bf16.pth"),
}
DIFFUSERS_NAMES: dict[str, tuple[str, ...]] = {
    "anchor": ("transformer/diffusion_pytorch_model.safetensors", f"transformer/{INDEX}"),
    "detail": NAMES["detail"],
    "vae": ("vae/diffusion_pytorch_model.safetensors", f"vae/{INDEX}"),
    "text_encoder": (
        "text_encoder/model.safetensors",
        "text_encoder/model.safetensors.index.json",
    ),
}
FEW_STEP = "few_step/diffusion_pytorch_model.safetensors"
DETAIL_SOURCE = "pixelwizard-4k"
LORA_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""The files of a folder that PEFT or diffusers wrote a LoRA into."""
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")
_SHOWN = 6  # how many entries of a folder an error lists
_OTHERS = {
    "high_noise_model": "Wan2.2-A14B, a pair of networks",
    "transformer_2": "Wan2.2-A14B, a pair of networks",
    "Wan2.1_VAE.pth": "Wan2.1",
}
"""Files that another model's folder has, and what that model is."""
_BEGINNINGS = {
    b"version https://git-lfs": "is a pointer of Git LFS in place of the file; run: git lfs pull",
    b"<!DOCTYPE": "is a web page in place of the file; fetch it again",
    b"<html": "is a web page in place of the file; fetch it again",
}
"""What a failed download begins with, and what it is."""


class MissingWeights(ValueError):
    """Files of a backbone are not where they should be; the text is one sentence."""


def weights_folder(backbone: BackboneSettings) -> Path:
    """The folder of a backbone: the one in the settings, else the one inside the package."""
    if backbone.folder:
        return Path(backbone.folder).expanduser()
    return Path(__file__).parents[1] / "assets" / backbone.name


def own_statistics(folder: Path) -> dict[str, list[float]]:
    """``latent_mean`` and ``latent_std`` of a folder's autoencoder, if the folder has them.

    Raises ValueError if the file has anything else.
    """
    path = folder / STATISTICS
    if not path.is_file():
        return {}
    try:
        found = read_yaml(path)
        return {name: [float(v) for v in found[name]] for name in ("latent_mean", "latent_std")}
    except (OSError, ValueError, TypeError, KeyError):
        raise ValueError(
            f"{path} must hold latent_mean and latent_std, a number for each channel;"
            " export the autoencoder again, or set backbone.vae.latent_mean and latent_std"
        ) from None


def take_statistics(values: dict[str, Any], words: Sequence[str]) -> None:
    """Use the statistics in the autoencoder's folder, if any, unless ``words`` set others."""
    backbone = values.get("backbone")
    if not isinstance(backbone, dict) or not isinstance(backbone.get("folder"), str):
        return
    named = {word.split("=", 1)[0].lstrip("+") for word in words}
    if {f"backbone.vae.{name}" for name in ("latent_mean", "latent_std")} <= named:
        return
    try:
        found = own_statistics(Path(backbone["folder"]))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name, numbers in found.items():
        if f"backbone.vae.{name}" not in named:
            backbone["vae"][name] = numbers


def take_few_steps(values: dict[str, Any], words: Sequence[str]) -> None:
    """An anchor with step sizes uses the few-step network, unless ``words`` say otherwise."""
    backbone, anchor = values.get("backbone"), values.get("anchor")
    named = any(word.lstrip("+").startswith("backbone.few_step=") for word in words)
    if isinstance(backbone, dict) and isinstance(anchor, dict) and not named:
        backbone["few_step"] = anchor.get("step_sizes", "none") != "none"


def tokenizer_folder(backbone: BackboneSettings) -> Path:
    """Where the tokenizer of a backbone is, in either layout."""
    return weights_folder(backbone) / ("tokenizer" if _is_diffusers(backbone) else TOKENIZER)


def find_weights(backbone: BackboneSettings, part: str) -> Path:
    """The file that holds (or, for shards, lists) the weights of a part; MissingWeights if none."""
    require_weights(backbone, [part])
    return next(path for path in _candidates(backbone, part) if path.is_file())


def available_parts(backbone: BackboneSettings) -> list[str]:
    """The parts of a backbone that have a file with weights, complete or not."""
    return [part for part in PARTS if any(path.is_file() for path in _candidates(backbone, part))]


def require_weights(backbone: BackboneSettings, parts: Iterable[str] = PARTS) -> None:
    """Raise a ValueError unless the files of all ``parts`` exist, for a network of this size.

    MissingWeights names the folder, what it has, every missing file and how to fetch them.
    """
    parts = list(parts)
    if "anchor" in parts and not backbone.anchor:
        check_config(backbone)
    for lora in backbone.lora:
        lora_files(lora)
    if "text_encoder" in parts:
        check_tokenizer(tokenizer_folder(backbone))
    missing = {part: names for part in parts if (names := _missing(backbone, part))}
    if not missing:
        _refuse_other_files(backbone, parts)
        return
    folder = weights_folder(backbone)
    where = (
        f"{folder} ({_content(folder)})" if folder.is_dir() else f"{folder}, which is not a folder"
    )
    files = ", ".join(name for names in missing.values() for name in names)
    raise MissingWeights(
        f"backbone={backbone.name} needs files that are not in {where}: {files};"
        f" {_remedy(backbone, set(missing))}"
    )


def not_weights(path: Path) -> str | None:
    """What a file is that cannot be weights by its first bytes, and what to do; else None."""
    with open(path, "rb") as file:
        beginning = file.read(32)
    for letters, what in _BEGINNINGS.items():
        if beginning.startswith(letters):
            return what
    other = kind_of(path)
    return other and f"is {other}, not weights; name a safetensors, .pt or GGUF file"


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer's folder without its vocabulary, in either form; raises ValueError."""
    if not (folder / TOKENIZER_CONFIG).is_file() or (folder / "tokenizer.json").is_file():
        return
    if not (folder / "spiece.model").is_file():
        raise MissingWeights(
            f"{folder} has {TOKENIZER_CONFIG}, but neither tokenizer.json nor spiece.model; put one"
            " of them there, for Wan2.2 with: pixelwizard fetch umt5-tokenizer"
        )
    if not importlib.util.find_spec("sentencepiece"):
        raise MissingWeights(
            f"{folder} has spiece.model and no tokenizer.json; reading it needs: pip install"
            " 'pixelwizard[files]'"
        )


def check_config(backbone: BackboneSettings) -> None:
    """Refuse a folder whose ``config.json`` describes another network; a missing file is accepted.

    Raises ValueError with the first sizes that differ.
    """
    path = _config_file(backbone)
    if not path.is_file():
        return
    try:
        found = _official_config(read_json(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as a network's configuration: {error}") from error
    sizes = asdict(backbone.dit)
    wrong = [
        f"{key} is {found[key]}, not {sizes[key]}"
        for key in sizes
        if key in found and found[key] != sizes[key]
    ]
    if wrong:
        raise ValueError(
            f"{path} is another network than backbone={backbone.name} describes: {listed(wrong, 3)}"
        )


def weight_files(path: Path) -> list[Path]:
    """The files that hold tensors: all shards of an index or of a shard's name, else the file.

    Raises ValueError if the index cannot be read.
    """
    if shard := _SHARD.fullmatch(path.name):
        stem, count, suffix = shard.groups()
        numbers = range(1, int(count) + 1)
        return [path.with_name(f"{stem}-{n:05d}-of-{count}{suffix}") for n in numbers]
    if not path.name.endswith(".json"):
        return [path]
    try:
        names = set(read_json(path)["weight_map"].values())
        return [path.parent / name for name in sorted(names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of safetensors shards: {error!r}") from error


def lora_files(lora: LoRASettings) -> list[Path]:
    """The file of a LoRA, and PEFT's configuration if that lies next to it.

    A folder that PEFT or diffusers wrote stands for its file. Raises MissingWeights, and ValueError
    for a file that is something else.
    """
    path = Path(lora.file)
    if path.is_dir():
        path = next((path / name for name in LORA_NAMES if (path / name).is_file()), path)
    if not path.is_file():
        what = f"has none of {', '.join(LORA_NAMES)}" if path.is_dir() else "does not exist"
        raise MissingWeights(f"backbone.lora: {path} {what}; name a file with a LoRA")
    if other := not_weights(path):
        raise ValueError(f"backbone.lora: {path} {other}")
    config = path.with_name("adapter_config.json")
    return [path, config] if path.name in LORA_NAMES and config.is_file() else [path]


def weights_digest(backbone: BackboneSettings, part: str) -> str:
    """sha256 over what determines a part.

    Its files, for text its tokenizer, the choice of EMA, the LoRAs added to it and their scales.
    """
    path = find_weights(backbone, part)
    digests = [file_digest(file) for file in weight_files(path)]
    if part == "text_encoder":
        files = tokenizer_folder(backbone).iterdir()
        digests += [file_digest(file) for file in sorted(files) if file.is_file()]
    if part in ("anchor", "detail") and path.suffix in PICKLES and backbone.ema == "false":
        digests.append("without EMA")
    for lora in backbone.lora:
        if lora.stage == part:
            digests += [file_digest(file) for file in lora_files(lora)]
            digests.append(f"times {lora.scale}")
    if len(digests) == 1:
        return digests[0]
    return text_digest("".join(digests))


def weights_digests(backbone: BackboneSettings) -> dict[str, str]:
    """``weights_digest`` of every part of a generation."""
    return {part: weights_digest(backbone, part) for part in PARTS}


def _is_diffusers(backbone: BackboneSettings) -> bool:
    folder = weights_folder(backbone)
    return (folder / "transformer").is_dir() or (folder / "model_index.json").is_file()


def _layout(backbone: BackboneSettings) -> dict[str, tuple[str, ...]]:
    return DIFFUSERS_NAMES if _is_diffusers(backbone) else NAMES


def _config_file(backbone: BackboneSettings) -> Path:
    folder = weights_folder(backbone)
    return folder / "transformer" / CONFIG if _is_diffusers(backbone) else folder / CONFIG


def _official_config(found: dict[str, Any]) -> dict[str, Any]:
    """A network's configuration under the official keys, whichever layout it is from."""
    if "attention_head_dim" not in found:
        return found
    heads = found["num_attention_heads"]
    names = {key: key for key in DiTSizes.__dataclass_fields__}
    names |= {"in_channels": "in_dim", "out_channels": "out_dim"}
    known = {names[key]: value for key, value in found.items() if key in names}
    return {**known, "num_heads": heads, "dim": heads * found["attention_head_dim"]}


def chosen_files(backbone: BackboneSettings) -> dict[str, str | None]:
    """The files that the settings name, by part."""
    return {
        "anchor": backbone.anchor,
        "detail": backbone.detail,
        "vae": backbone.vae_file,
        "text_encoder": backbone.text_encoder,
    }


def _candidates(backbone: BackboneSettings, part: str) -> list[Path]:
    """Where the weights of a part may be, best first."""
    if chosen := chosen_files(backbone)[part]:
        return [Path(chosen).expanduser()]
    folder, names = weights_folder(backbone), _layout(backbone)[part]
    variants = [path for name in names for path in _variants(folder / name)]
    first = [FEW_STEP] if part == "anchor" and backbone.few_step else []
    return [*(folder / name for name in (*first, *names)), *variants]


def _variants(path: Path) -> Iterator[Path]:
    """Other names of a safetensors file: a precision in it, its index, shards without one."""
    if path.suffix != ".safetensors":
        return
    for stem in (path.stem, f"{path.stem}.fp16", f"{path.stem}.bf16"):
        yield path.with_name(f"{stem}.safetensors")
        yield path.with_name(f"{stem}.safetensors.index.json")
        yield from sorted(path.parent.glob(f"{stem}-00001-of-*.safetensors"))


def _missing(backbone: BackboneSettings, part: str) -> list[str]:
    """The files of a part that are not there, as an error names them."""
    candidates = _candidates(backbone, part)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        chosen = chosen_files(backbone)[part]
        if chosen and Path(chosen).expanduser().is_dir():
            chosen += ", which is a folder; name a file in it,"
        missing = [f"{chosen or _layout(backbone)[part][-1]} ({part})"]
    else:
        shards = [path for path in weight_files(found) if not path.is_file()]
        missing = [f"{path.name} ({part}, named by {found.name})" for path in shards]
    folder = weights_folder(backbone)
    companions = []
    if part == "anchor" and not backbone.anchor:
        companions.append(_config_file(backbone))
    if part == "text_encoder":
        companions.append(tokenizer_folder(backbone) / TOKENIZER_CONFIG)
    missing += [f"{p.relative_to(folder)} ({part})" for p in companions if not p.is_file()]
    return missing


def _refuse_other_files(backbone: BackboneSettings, parts: Iterable[str]) -> None:
    """Raise ValueError for a file of a part that is no weights; all of them exist."""
    for part in parts:
        key = f"backbone.{part}: " if chosen_files(backbone)[part] else ""
        found = next(path for path in _candidates(backbone, part) if path.is_file())
        for file in weight_files(found):
            if what := not_weights(file):
                raise ValueError(f"{key}{file} {what}")


def _content(folder: Path) -> str:
    """What a folder has, for an error."""
    names = sorted(path.name for path in folder.iterdir())
    other = next((model for name, model in _OTHERS.items() if name in names), None)
    content = f"it has {listed(names, _SHOWN)}" if names else "it is empty"
    return f"{content}; it looks like {other}" if other else content


def _remedy(backbone: BackboneSettings, missing: set[str]) -> str:
    """What to type to get the missing parts."""
    steps = []
    if backbone.name in tasks.options("source"):
        if missing - {"detail"} == {"text_encoder"} and backbone.text_encoder:
            steps.append("fetch the tokenizer with: pixelwizard fetch umt5-tokenizer")
        elif missing - {"detail"}:
            steps.append(f"fetch them with: pixelwizard fetch {backbone.name}")
        if "detail" in missing:
            steps.append(
                f"fetch a detail network with: pixelwizard fetch {DETAIL_SOURCE},"
                " and name it with backbone.detail=FILE"
            )
    return "; ".join(steps) or (
        "put them there, or name their place with backbone.folder, .anchor, .detail, .vae and"
        " .text_encoder"
    )
