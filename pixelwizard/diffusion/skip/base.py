"""The base class of skip rules. As for solvers, nothing here imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Kept = tuple["Tensor", ...]
"""What a rule remembers of earlier steps."""


@dataclass(frozen=True)
class Moment:
    """The start of step ``index``: its ``latent``, and the sigmas of the whole run.

    ``probe()`` returns the first block's change of a sample of the tokens; it costs a block.
    """

    sigmas: Sequence[float]
    index: int
    latent: Tensor
    probe: Callable[[], Tensor]

    @property
    def sigma(self) -> float:
        """Where the step starts."""
        return self.sigmas[self.index]


class Skip(ABC):
    """Decides which steps evaluate the network, and gives the velocity of the others.

    An instance has no state: the history that it needs is the tensors that ``remember`` returns, so
    an interrupted run resumes to the same bits. Velocities are those after guidance, float32,
    shaped like the latent.
    """

    @abstractmethod
    def planned(self, steps: int) -> Sequence[bool | None]:
        """Whether each of ``steps`` steps evaluates the network; None where ``asks`` decides later.

        The first step must evaluate it. Raises ValueError for a number of steps that does not fit.
        """

    def at(
        self, sigmas: Sequence[float], index: int, latent: Tensor, probe: Callable[[], Tensor]
    ) -> Moment:
        """The moment that the other methods get for a step."""
        return Moment(sigmas, index, latent, probe)

    def asks(self, moment: Moment, kept: Kept) -> bool:
        """Whether a step that ``planned`` leaves open evaluates the network."""
        return True

    def remember(self, moment: Moment, velocity: Tensor, kept: Kept) -> Kept:
        """What to remember after a computed step: ``velocity`` is the network's at its start."""
        return (velocity,)

    def velocity(self, moment: Moment, sigma: float, kept: Kept) -> Tensor:
        """The velocity of a skipped step at ``sigma``, by default the network's last one."""
        return kept[0]
