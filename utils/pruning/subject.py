"""A network as the engine sees it, and what a policy says should be removed from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .channels import ChannelGraph, UnitMask

Candidates = Literal["uncoupled", "all"]
Merge = Literal["union", "leader", "mean", "max", "norm"]
LayerScores = Mapping[str, NDArray[np.float32]]  # layer name -> (output channels,)


@dataclass(frozen=True)
class Block:
    """An identity, a branch that nobody else reads, and the shortcut that adds them.

    Attributes:
        name: of the module that adds.
        layers: names of the branch's layers, in order; the last one's score is the block's.
        output: name of the module whose output the shortcut adds to the identity.
        travels: whether a constant added to the block's output reaches linear readers only, so that it can
            be folded when the block goes.
    """

    name: str
    layers: tuple[str, ...]
    output: str
    travels: bool = True


class Subject(Protocol):
    """A network, its channels and its blocks. Nothing is edited in place: cutting returns a new subject."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def graph(self) -> ChannelGraph:
        """Its channels."""

    @property
    def blocks(self) -> Sequence[Block]:
        """What `shortened` can remove, in the order of the network."""

    @property
    def example(self) -> Tensor:
        """(B, ...) a small input: to run the network on constants of its shape when folding."""

    def with_model(self, model: nn.Module) -> Self:
        """The same structure with other numbers."""

    def narrowed(self, keep: UnitMask) -> Self:
        """A compact copy with the kept channels, traced anew. `keep` must be legal."""

    def shortened(self, blocks: Sequence[Block]) -> Self:
        """A copy without these blocks."""


@dataclass(frozen=True)
class ChannelPlan:
    """Units to keep.

    Attributes:
        keep: (units,) the wish, before `ChannelGraph.legal`.
        threshold: the score below which channels go.
        emptied: names of layers that would keep nothing but for the floor of one channel a layer.
        candidates: "all" units could go, or the "uncoupled" ones that no shortcut ties.
        passes: (chains,) which of them passed by their scores alone; None where no threshold decides.
        merge: whose score decides over a unit that several layers write, see `GlobalThreshold`.
    """

    keep: UnitMask
    threshold: float | None = None
    emptied: tuple[str, ...] = ()
    passes: NDArray[np.bool_] | None = None
    candidates: Candidates = "all"
    merge: Merge = "union"


@dataclass(frozen=True)
class BlockPlan:
    """Blocks to remove, with the score of every block that there is."""

    blocks: tuple[Block, ...]
    scores: tuple[tuple[str, float], ...] = ()


Plan = ChannelPlan | BlockPlan
Policy = Callable[[Subject, LayerScores], Plan]
