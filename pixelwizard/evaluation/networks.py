"""The feature networks, loaded: for clips, for patches of frames, CLIPs for texts and frames.

B clips, T frames, P patches, K images, S the side of the network's input, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from pixelwizard.evaluation import dover
from pixelwizard.evaluation.efficientnet import load_efficientnet
from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.musiq import load_musiq
from pixelwizard.evaluation.names import FeatureNetwork, network_label
from pixelwizard.evaluation.tiny import load_video_encoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LoadedNetwork:
    """A network from its ``folder``. Raises ConfigError for a file that is not the pinned one."""

    def __init__(self, facts: FeatureNetwork, folder: Path, device: torch.device) -> None:
        self.facts, self.device, self.label = facts, device, network_label(facts, folder)

    @property
    def convention(self) -> str:
        """How recipes call what it sees."""
        return f"{self.label}/{self.facts.resize}"


class VideoNetwork(LoadedNetwork):
    """A video network by name: frames are brought to its size one by one, clips to features."""

    def __init__(self, facts: FeatureNetwork, folder: Path, device: torch.device) -> None:
        super().__init__(facts, folder, device)
        self._features = _LOADERS[facts.name](folder, device)

    def fit(self, frame_HWC: Tensor, before: Tensor | None = None) -> Tensor:
        """One uint8 frame -> uint8 [3, S, S], stretched: areas averaged, or bilinear if smaller."""
        frame = frame_HWC.permute(2, 0, 1)[None].float()
        mode = "area" if self.facts.name == "tiny-video" else "bilinear"
        frame = interpolate(frame, (self.facts.side, self.facts.side), mode=mode)
        return frame[0].round().to(torch.uint8)

    def sample(self, frames_TCSS: Tensor) -> Tensor:
        """One sample [1, D] from the fitted frames uint8 [16, 3, S, S] of a video."""
        return self.features(frames_TCSS.transpose(0, 1)[None])

    @torch.no_grad()
    def features(self, clips_BCTHW: Tensor) -> Tensor:
        """uint8 [B, 3, 16, S, S] -> float32 [B, D]; independent of the strides."""
        clips = clips_BCTHW.contiguous().to(self.device).float()
        return self._features(clips).float().cpu()


def _tiny(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    network = load_video_encoder(folder).to(device)
    return lambda clips: network.features(_signed(clips))


def _i3d(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """StyleGAN-V's TorchScript: 400 logits before the softmax; its own scaling is left off."""
    network = torch.jit.load(str(folder / "i3d_torchscript.pt"), map_location=device).eval()
    options = dict(rescale=False, resize=False, return_features=True)
    return lambda clips: network(_signed(clips), **options)


def _signed(clips: Tensor) -> Tensor:
    """Floats of 0..255 -> [-1, 1], in their own memory."""
    return clips.div_(127.5).sub_(1)


def _standard(clips: Tensor) -> Tensor:
    """Floats of 0..255, [B, 3, T, S, S] -> [B, T, 3, S, S] in ImageNet's mean and deviation."""
    mean, std = (
        torch.tensor(values, device=clips.device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (clips.transpose(1, 2) / 255 - mean) / std


def _videomae(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """VideoMAE before its classifier: the tokens' mean under the last norm."""
    from transformers import VideoMAEForVideoClassification

    network: Any = VideoMAEForVideoClassification.from_pretrained(folder, local_files_only=True)
    network = network.to(device).eval()

    def features(clips: Tensor) -> Tensor:
        tokens = network.videomae(_standard(clips)).last_hidden_state
        return network.fc_norm(tokens.mean(1)) if network.fc_norm else tokens[:, 0]

    return features


def _vjepa(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """V-JEPA 2's encoder: the mean of its tokens."""
    from transformers import VJEPA2Model

    network: Any = VJEPA2Model.from_pretrained(folder, local_files_only=True)
    network = network.to(device).eval()

    def features(clips: Tensor) -> Tensor:
        tokens = network(_standard(clips), skip_predictor=True).last_hidden_state
        return tokens.mean(1)

    return features


_LOADERS = {"tiny-video": _tiny, "i3d-k400": _i3d, "videomae": _videomae, "vjepa2-l": _vjepa}


class ImageNetwork(LoadedNetwork):
    """A network of images at full resolution: patches of a frame -> features."""

    patches = 8
    """Of a frame, at most: so a core looks at four 4K frames a second."""

    def __init__(self, facts: FeatureNetwork, folder: Path, device: torch.device) -> None:
        super().__init__(facts, folder, device)
        network: Any = load_efficientnet(folder / facts.weights).to(device)
        self.network = network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def embed(self, patches_PSSC: Tensor, before: Tensor | None = None) -> Tensor:
        """uint8 [P, S, S, 3] -> float32 [P, D]."""
        images = patches_PSSC.to(self.device).float().sub_(127).div_(128).permute(0, 3, 1, 2)
        found: Tensor = self.network.features(images)
        return found.cpu()


class MUSIQNetwork(LoadedNetwork):
    """MUSIQ: a frame at its own size -> its quality."""

    def __init__(self, facts: FeatureNetwork, folder: Path, device: torch.device) -> None:
        super().__init__(facts, folder, device)
        self.network = load_musiq(folder / facts.weights).to(device)

    @torch.no_grad()
    def rate(self, frame_HWC: Tensor, before: Tensor | None = None) -> float:
        """The quality of one uint8 frame, about 0..100."""
        return float(self.network(_signed(frame_HWC.to(self.device).float().permute(2, 0, 1))))


class DOVERNetwork(LoadedNetwork):
    """DOVER: two views of a video's frames -> its qualities."""

    def __init__(self, facts: FeatureNetwork, folder: Path, device: torch.device) -> None:
        super().__init__(facts, folder, device)
        self.network = dover.load_dover(folder / facts.weights).to(device)
        self.known: dict[Clip, dict[str, float]] = {}

    def views(self, frame_HWC: Tensor, before: Tensor | None = None) -> Tensor:
        """One uint8 frame -> uint8 [2, S, S, 3]: its fragments, and small."""
        return torch.stack([dover.fragments(frame_HWC), dover.small(frame_HWC)])

    @torch.no_grad()
    def rate(self, views_T2SSC: Tensor, clip: Clip) -> dict[str, float]:
        """The qualities of a video, by part; computed once."""
        if clip not in self.known:
            chosen = dover.technical_frames(clip.frames), dover.aesthetic_frames(clip.frames)
            places = {number: p for p, number in enumerate(sorted({*chosen[0], *chosen[1]}))}
            fragments, small = (
                views_T2SSC[[places[number] for number in numbers], view].to(self.device)
                for view, numbers in enumerate(chosen)
            )
            outputs = self.network.technical(fragments), self.network.aesthetic(small)
            self.known[clip] = dover.quality(*outputs)
        return self.known[clip]


class CLIPNetwork(LoadedNetwork):
    """A CLIP of a local folder: images and texts -> unit vectors."""

    def __init__(self, facts: FeatureNetwork, folder: Path, device: torch.device) -> None:
        import transformers
        from transformers import AutoTokenizer, CLIPConfig, CLIPModel

        transformers.utils.logging.disable_progress_bar()
        super().__init__(facts, folder, device)
        config: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
        config.text_config.max_position_embeddings = facts.tokens
        network: Any = CLIPModel.from_pretrained(
            folder, config=config, local_files_only=True, dtype=torch.float32
        )
        self.network = network.to(device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # One way of resizing, whether torchvision is installed or not: Pillow's.
        name = "CLIPImageProcessorPil" if hasattr(transformers, "CLIPImageProcessorPil") else ""
        processor = getattr(transformers, name or "CLIPImageProcessor")
        self.processor = processor.from_pretrained(folder, local_files_only=True)

    def fit(self, frame_HWC: Tensor) -> Tensor:
        """One uint8 frame -> float32 [1, 3, S, S], as the network's folder says."""
        images = self.processor(images=frame_HWC.numpy(), return_tensors="pt")
        return images["pixel_values"]

    def embed(self, frame_HWC: Tensor, before: Tensor | None = None) -> Tensor:
        """One uint8 frame -> [D] of length 1."""
        return self.images(self.fit(frame_HWC))[0]

    @torch.no_grad()
    def images(self, pixels_KCSS: Tensor) -> Tensor:
        """K fitted frames -> [K, D], each of length 1."""
        return _unit(self.network.get_image_features(pixels_KCSS.to(self.device)))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """K texts -> [K, D], each of length 1; what is longer than ``facts.tokens`` is cut."""
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.facts.tokens,
            return_tensors="pt",
        ).to(self.device)
        return _unit(self.network.get_text_features(tokens["input_ids"], tokens["attention_mask"]))

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than the network reads."""
        return len(self.tokenizer(text)["input_ids"]) > self.facts.tokens


def _unit(features: Any) -> Tensor:
    """transformers 5 wraps the features of CLIP; earlier versions give the tensor."""
    tensor = features if torch.is_tensor(features) else features.pooler_output
    return normalize(tensor.float(), dim=-1).cpu()


LOADED: dict[str, type[LoadedNetwork]] = {
    "clip": CLIPNetwork,
    "video": VideoNetwork,
    "image": ImageNetwork,
    "musiq": MUSIQNetwork,
    "dover": DOVERNetwork,
}
"""The classes of networks, by kind."""
