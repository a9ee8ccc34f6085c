"""A network as the engine sees it, and the plans of policies: what to remove from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .channels import ChannelGraph, UnitMask

if TYPE_CHECKING:
    from .fold import Constant

Candidates = Literal["uncoupled", "all"]
Merge = Literal["union", "leader", "mean", "max", "norm"]
LayerScores = Mapping[str, NDArray[np.float32]]  # layer name -> (output channels,)


@dataclass(frozen=True)
class Block:
    """A residual block: an identity, a branch with no other reader, and the shortcut that adds them.

    Attributes:
        name: name of the shortcut, the module that adds.
        layers: names of the branch's layers, in order; the score of the last one is the block's.
        output: name of the module whose output the shortcut adds to the identity.
        travels: whether a constant added to the block's output reaches linear readers only, so that it can
            be folded when the block is removed.
    """

    name: str
    layers: tuple[str, ...]
    output: str
    travels: bool = True


class Subject(Protocol):
    """A network, its channels and its blocks. Nothing is edited in place: every change is a new subject."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def graph(self) -> ChannelGraph:
        """Its channels."""

    @property
    def blocks(self) -> Sequence[Block]:
        """Removable blocks, in the order of the network."""

    @property
    def example(self) -> Tensor:
        """(B, ...) a small input; folding runs the network on constants of this shape."""

    def constants(self, alive: UnitMask, blocks: "Sequence[Block]") -> "Mapping[str, Constant]":
        """Layer name -> the constant at its input, for layers that have one; see `fold.constants`.

        Args:
            alive: (units,) those whose gammas are not masked in `model`.
            blocks: removed blocks.
        """

    def zeroed(self, keep: UnitMask, blocks: "Sequence[Block]") -> Self:
        """The same network with removed channels and blocks multiplied by 0, to be evaluated."""

    def with_model(self, model: nn.Module) -> Self:
        """The same structure with the tensors of another model."""

    def narrowed(self, keep: UnitMask) -> Self:
        """A compact copy with the kept channels, retraced. `keep` must be legal."""

    def shortened(self, blocks: Sequence[Block]) -> Self:
        """A copy without these blocks."""


@dataclass(frozen=True)
class ChannelPlan:
    """A policy's request to remove channels, before the engine makes it legal.

    Attributes:
        keep: (units,) False where the policy asks for removal.
        threshold: the score at or below which channels are removed; None without a threshold.
        emptied: names of layers in which no candidate passes, so that only their floor is kept.
        candidates: the units that could be removed: "all", or the "uncoupled" ones, which no shortcut ties.
        passes: (chains,) those that passed by their own score; None without a threshold.
        merge: whose score decides for a unit with several writers, see `GlobalThreshold`.
    """

    keep: UnitMask
    threshold: float | None = None
    emptied: tuple[str, ...] = ()
    passes: NDArray[np.bool_] | None = None
    candidates: Candidates = "all"
    merge: Merge = "union"

    def itself(self, _subject: Subject, _scores: LayerScores) -> "ChannelPlan":
        """A policy: this plan, found already."""
        return self


@dataclass(frozen=True)
class BlockPlan:
    """A policy's request to remove blocks, with the score of every block of the network."""

    blocks: tuple[Block, ...]
    scores: tuple[tuple[str, float], ...] = ()


PolicyPlan = ChannelPlan | BlockPlan  # what to remove; the `Plan` of a front end says what is left
Policy = Callable[[Subject, LayerScores], PolicyPlan]
