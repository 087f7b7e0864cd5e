"""Step-size conditioning: the embedding of the next step's size, added to that of the time."""

from __future__ import annotations

from torch import Tensor, nn

from pixelwizard.models.wan.dit import in_float32, sinusoid, time_mlp


class StepEmbedding(nn.Sequential):
    """Sinusoid of dt -> Linear, SiLU, Linear; the last layer starts at zero.

    Its output is added to the time embedding before the projection, so blocks and head see it.
    dt is in timesteps (1000 = the whole path).
    """

    def __init__(self, freq_dim: int, dim: int) -> None:
        super().__init__(*time_mlp(freq_dim, dim))

    def reset_parameters(self) -> None:
        """As the time embedding, with a last layer of zero."""
        nn.init.normal_(self[0].weight, std=0.02)
        nn.init.zeros_(self[0].bias)
        nn.init.zeros_(self[2].weight)
        nn.init.zeros_(self[2].bias)

    def forward(self, step_size_B: Tensor) -> Tensor:
        """Step sizes [B] -> float32 [B, E]."""
        return in_float32(self, sinusoid(step_size_B, self[0].in_features))
