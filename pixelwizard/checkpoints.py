"""Which files a backbone consists of, where they are, and what is missing. Imports no torch.

A folder is laid out as Wan2.2-TI2V-5B is published, plus the detail network::

    config.json  diffusion_pytorch_model[-*].safetensors[.index.json]      the anchor network
    detail/model.safetensors or detail/model.pt                           the detail network
    Wan2.2_VAE.safetensors or .pth
    models_t5_umt5-enc.safetensors or models_t5_umt5-xxl-enc-bf16.pth     the text encoder
    google/umt5-xxl/                                                      its tokenizer

``backbone.anchor`` and ``backbone.detail`` name a file that takes the place of the folder's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pixelwizard.settings import BackboneSettings

PARTS = ("text_encoder", "anchor", "detail", "vae")
CONFIG = "config.json"
TOKENIZER = "google/umt5-xxl"
INDEX = "diffusion_pytorch_model.safetensors.index.json"

# The first name of each part is the one that is written.
NAMES = {
    "anchor": ("diffusion_pytorch_model.safetensors", INDEX),
    "detail": ("detail/model.safetensors", "detail/model.pt"),
    "vae": ("Wan2.2_VAE.safetensors", "Wan2.2_VAE.pth"),
    "text_encoder": ("models_t5_umt5-enc.safetensors", "models_t5_umt5-xxl-enc-bf16.pth"),
}
_COMPANIONS = {"anchor": (CONFIG,), "text_encoder": (f"{TOKENIZER}/tokenizer_config.json",)}


class MissingWeights(ValueError):
    """Files of a backbone are not where they should be; the text is one sentence."""


def weights_folder(backbone: BackboneSettings) -> Path:
    """The folder of a backbone: the one in the settings, else the one inside the package."""
    if backbone.folder:
        return Path(backbone.folder).expanduser()
    return Path(__file__).parent / "assets" / backbone.name


def find_weights(backbone: BackboneSettings, part: str) -> Path:
    """The file that holds (or, for shards, lists) the weights of a part; MissingWeights if none."""
    require_weights(backbone, [part])
    return next(path for path in _candidates(backbone, part) if path.is_file())


def require_weights(backbone: BackboneSettings, parts: Iterable[str] = PARTS) -> None:
    """Raise MissingWeights, naming the folder and every missing file, unless all are there."""
    folder = weights_folder(backbone)
    missing = [name for part in parts for name in _missing(backbone, part)]
    if missing:
        where = f"{folder}" if folder.is_dir() else f"{folder}, which is no folder"
        raise MissingWeights(
            f"backbone={backbone.name} needs files that are not in {where}: {', '.join(missing)};"
            " put them there, or name their place with backbone.folder, .anchor and .detail"
        )


def weight_files(path: Path) -> list[Path]:
    """The files that hold tensors: the shards of an index, else the file itself.

    Raises ValueError if the index cannot be read.
    """
    if not path.name.endswith(".index.json"):
        return [path]
    try:
        names = set(json.loads(path.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an index of safetensors shards: {error!r}") from error
    return [path.parent / name for name in sorted(names)]


def weights_digest(backbone: BackboneSettings, part: str) -> str:
    """sha256 over the files that determine a part: its weights and, for text, its tokenizer."""
    files = weight_files(find_weights(backbone, part))
    if part == "text_encoder":
        tokenizer = weights_folder(backbone) / TOKENIZER
        files += sorted(path for path in tokenizer.iterdir() if path.is_file())
    digests = [_digest_of(path) for path in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _candidates(backbone: BackboneSettings, part: str) -> list[Path]:
    """Where the weights of a part may be, best first."""
    chosen = {"anchor": backbone.anchor, "detail": backbone.detail}.get(part)
    if chosen:
        return [Path(chosen).expanduser()]
    return [weights_folder(backbone) / name for name in NAMES[part]]


def _missing(backbone: BackboneSettings, part: str) -> list[str]:
    """The files of a part that are not there, as an error names them."""
    candidates = _candidates(backbone, part)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        names = [str(candidates[0])] if len(candidates) == 1 else NAMES[part]
        missing = [f"{' or '.join(names)} ({part})"]
    else:
        shards = [path for path in weight_files(found) if not path.is_file()]
        missing = [f"{path.name} ({part}, named by {found.name})" for path in shards]
    if len(candidates) > 1:
        folder = weights_folder(backbone)
        companions = [name for name in _COMPANIONS.get(part, ()) if not (folder / name).is_file()]
        missing += [f"{name} ({part})" for name in companions]
    return missing


def _digest_of(path: Path) -> str:
    state = path.stat()
    return _digest(str(path.resolve()), state.st_size, state.st_mtime_ns)


@cache
def _digest(path: str, size: int, modified_ns: int) -> str:
    """sha256 of a file; size and time are only part of the key, so that a changed file counts."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
