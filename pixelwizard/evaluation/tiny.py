"""The feature networks of the procedural shapes: a small CLIP and a small video network.

Both see frames stretched to SIDE x SIDE. B samples, T frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pixelwizard.data import shapes
from pixelwizard.models.wan.files import read_tensors, save
from pixelwizard.models.wan.umt5 import write_word_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPModel

SIDE = 64
FRAMES = 16
FEATURES = 64
DAMAGES = ("blur", "noise", "shuffle", "freeze")
SLOTS = (len(shapes.COLOURS), len(shapes.SHAPES), len(shapes.MOTIONS), len(shapes.BACKGROUNDS))
PLACES = 6
"""Numbers that place an object: radius, x and y at the first and at the last moment."""
WEIGHTS = "model.safetensors"
TEXT_LENGTH = 16


class VideoEncoder(nn.Module):
    """Frames through 2-D convolutions, then time through two strided ones; 64 linear features.

    ``answers`` maps the features to what the training asks: logits of the four slots of a caption,
    the six numbers of the placement, the strength of each damage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            _convolution(3, 16, 5),
            _convolution(16, 32, 3),
            _convolution(32, 48, 3),
            _convolution(48, 64, 3),
            nn.Flatten(),
            nn.Linear(64 * (SIDE // 16) ** 2, 64),
        )
        self.time = nn.Sequential(
            nn.GELU(),
            nn.Conv1d(64, 96, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv1d(96, 96, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(96 * FRAMES // 4, FEATURES),
        )
        self.answers = nn.Sequential(
            nn.GELU(), nn.Linear(FEATURES, sum(SLOTS) + PLACES + len(DAMAGES))
        )

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """[B, 3, 16, 64, 64] in [-1, 1] -> [B, 64]."""
        batch = len(video_BCTHW)
        frames = self.frames(video_BCTHW.transpose(1, 2).flatten(0, 1))
        return self.time(frames.view(batch, FRAMES, -1).transpose(1, 2))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """[B, 3, 16, 64, 64] in [-1, 1] -> all answers [B, 32]."""
        return self.answers(self.features(video_BCTHW))


def _convolution(channels: int, out: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride=2, padding=size // 2),
        nn.GroupNorm(8, out),
        nn.GELU(),
    )


def save_video_encoder(network: VideoEncoder, folder: Path) -> None:
    """Write the network's weights into ``folder``, in bfloat16."""
    save(network.state_dict(), folder / WEIGHTS, torch.bfloat16)


def load_video_encoder(folder: Path) -> VideoEncoder:
    """The network of a folder, in float32. Raises ValueError where names or shapes differ."""
    network = VideoEncoder()
    state = {name: value.float() for name, value in read_tensors(folder / WEIGHTS).items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} is not the video network of tiny") from error
    return network.eval()


def new_clip() -> CLIPModel:
    """An untrained CLIP of transformers' own class, small, for the words of the shapes."""
    from transformers import CLIPConfig, CLIPModel

    text = dict(
        vocab_size=len(shapes.WORDS) + 3,  # <pad>, </s> and <unk>
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    vision = dict(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=8,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=FEATURES))


def save_clip(network: CLIPModel, folder: Path) -> None:
    """Write a folder as the hub has it: network in bfloat16, word tokenizer, preprocessing."""
    from transformers import CLIPImageProcessor

    save(network.state_dict(), folder / WEIGHTS, torch.bfloat16)
    network.config.save_pretrained(folder)
    write_word_tokenizer(folder, shapes.WORDS)
    side = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessor(size=side, do_center_crop=False, crop_size=side)
    processor.save_pretrained(folder)
