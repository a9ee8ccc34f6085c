"""The whole way from policies to the smaller network.

`prune` makes three networks out of one, and they are what gets evaluated:

    gamma_masked  full size, the gammas of removed channels are 0: they still put out a constant
    folded        full size, those constants moved downstream, removed channels multiplied by 0
    compact       the small network; equal to `folded` up to rounding

Invariant: `compact(x) == folded(x)` in float64 to 1e-12, for every subject, policy and input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

from ..errors import PruningError
from ..profiling import torch_threads
from .channels import ChannelGraph, UnitMask, UnitScores
from .fold import Constant, carriers, constants, fold, written_tensors
from .masking import mask_gammas, masked_tensors, zero_removed
from .scores import gamma_scores, unit_scores
from .shared_copies import shared_copy
from .subject import Block, BlockPlan, LayerScores, Plan, Policy, Subject

S = TypeVar("S", bound=Subject)
Folding = Literal["off", "interior", "borders"]


@dataclass(frozen=True)
class PruningResult(Generic[S]):
    """The three networks that get evaluated and the plans that made them.

    The two full-size ones share what they do not change with the network they come from: evaluate them, but
    do not train them.

    Attributes:
        scores: of the channels of the full-size network.
        keep: the legal mask over its units.
        carried: (units,) dead channels that are kept to carry the others' constants.
        restored: names of layers that a plan would have emptied or left unequal.
        unfolded: names of layers and blocks whose constant could not be folded.
        bordered: names of layers that a carrier was wanted for and has not reached: their constant is folded,
            but missing where zero padding meets it.
    """

    masked: S
    folded: S
    compact: S
    plans: tuple[Plan, ...]
    scores: LayerScores
    keep: UnitMask
    carried: UnitMask
    restored: tuple[str, ...] = ()
    unfolded: tuple[str, ...] = ()
    bordered: tuple[str, ...] = ()

    @property
    def removed_blocks(self) -> tuple[Block, ...]:
        """Of all plans."""
        return tuple(block for plan in self.plans if isinstance(plan, BlockPlan) for block in plan.blocks)


def prune(
    subject: S,
    policies: Sequence[Policy],
    score: Callable[[S], LayerScores] = gamma_scores,
    *,
    folding: Folding = "interior",
    rescore: bool = False,
    align: int = 1,
    least: int = 1,
    may_keep_all: bool = False,
) -> PruningResult[S]:
    """Apply `policies` to `subject`, channels before blocks.

    Args:
        subject: the full-size network; unchanged.
        policies: each makes a plan; a policy that removes channels must come before one that removes blocks.
        score: importance of every channel.
        folding: what becomes of the constants that removed channels put out: dropped ("off"), moved into
            biases and means ("interior", wrong where zero padding meets them), or exactly, which keeps a
            dead channel here and there ("borders").
        rescore: score blocks on the narrowed network, as the published layer_channel_prune does, instead of
            on the full one.
        align: keep multiples of so many channels.
        least: keep at least so many channels of every tensor.
        may_keep_all: whether `align` and `least` may leave nothing to remove, as on the way of a search.

    Raises:
        PruningError: from a policy that cannot be fulfilled, or whose whole plan `align` and `least` undo.
        ValueError: on policies in the wrong order.
    """
    scores = score(subject)
    cut = _planned(subject, policies, score, scores, rescore, _Widths(align, least))
    if not may_keep_all:
        _require_removal(subject.graph, cut, unit_scores(subject.graph, scores), _Widths(align, least))
    # Hundreds of small steps: threads that wait for one another cost more than they save.
    with torch_threads(1):
        return _cut_out(subject, cut, scores, folding, _Widths(align, least))


def _cut_out(
    subject: S, cut: "_Cut", scores: LayerScores, folding: Folding, widths: "_Widths"
) -> PruningResult[S]:
    """Everything that happens to weights."""
    graph = subject.graph
    masked, found, carried, keep = _emptied(subject, cut, scores, folding, widths)
    full = shared_copy(masked.model, written_tensors(masked.model, graph, carried))
    dropped, bordered = ((), ()) if folding == "off" else fold(full, graph, found, carried)
    stuck = tuple(block.name for block in cut.blocks if not block.travels and folding != "off")
    narrowed = subject.with_model(full).narrowed(keep)
    # A removed block is named by its module, and narrowing keeps the names.
    gone = {block.name for block in cut.blocks}
    return PruningResult(
        masked=masked,
        folded=subject.with_model(zero_removed(full, graph, keep, cut.blocks)),
        compact=narrowed.shortened([block for block in narrowed.blocks if block.name in gone]),
        plans=cut.plans,
        scores=scores,
        keep=keep,
        carried=carried,
        restored=_restored(graph, cut.wish | graph.pinned | carried, keep),
        unfolded=(*stuck, *dropped),
        bordered=bordered if folding == "borders" else (),
    )


def _emptied(
    subject: S, cut: "_Cut", scores: LayerScores, folding: Folding, widths: "_Widths"
) -> tuple[S, Mapping[str, Constant], UnitMask, UnitMask]:
    """The gamma_masked network, the constants in it, the carriers, and the mask with these."""
    graph, keep = subject.graph, cut.keep
    masked, found = _masked(subject, cut, keep)
    if folding != "borders":
        return masked, found, np.zeros_like(keep), keep
    carried = carriers(masked.model, graph, found)
    kept = graph.legal(keep | carried, unit_scores(graph, scores), widths.align, widths.least)
    if (kept & ~keep & ~carried).any():  # more came back with the carriers, so fewer constants are left
        masked, found = _masked(subject, cut, kept & ~carried)
    return masked, found, carried, kept


def _masked(subject: S, cut: "_Cut", alive: UnitMask) -> tuple[S, Mapping[str, Constant]]:
    """The network with the gammas of all but `alive` masked, and the constants that are left in it."""
    tensors = [tensor for tensor, *_ in masked_tensors(subject.model, subject.graph, alive, cut.blocks)]
    model = mask_gammas(shared_copy(subject.model, tensors), subject.graph, alive, cut.blocks)
    return subject.with_model(model), constants(model, subject.graph, alive, cut.blocks, subject.example)


@dataclass(frozen=True)
class _Widths:
    """What `ChannelGraph.legal` is asked for."""

    align: int
    least: int


@dataclass(frozen=True)
class _Cut:
    """What all plans together remove."""

    plans: tuple[Plan, ...]
    wish: UnitMask
    keep: UnitMask
    blocks: tuple[Block, ...]


def _planned(
    subject: S,
    policies: Sequence[Policy],
    score: Callable[[S], LayerScores],
    scores: LayerScores,
    rescore: bool,
    widths: _Widths,
) -> _Cut:
    wish = keep = np.ones(subject.graph.unit_count, dtype=np.bool_)
    blocks: tuple[Block, ...] = ()
    plans: list[Plan] = []
    for policy in policies:
        seen, seen_scores = subject, scores
        if rescore and not keep.all():
            seen = subject.narrowed(keep)
            seen_scores = score(seen)
        plan = policy(seen, seen_scores)
        plans.append(plan)
        if isinstance(plan, BlockPlan):
            blocks += plan.blocks
        elif blocks or not keep.all():
            raise ValueError("one policy for channels, before the one for blocks")
        else:
            wish = plan.keep
            keep = subject.graph.legal(wish, unit_scores(subject.graph, scores), widths.align, widths.least)
    return _Cut(tuple(plans), wish, keep, blocks)


def _require_removal(graph: ChannelGraph, cut: _Cut, values: UnitScores, widths: _Widths) -> None:
    """Refuse widths that bring every channel back; a plan that removes none by itself is fine."""
    if cut.blocks or not cut.keep.all() or graph.legal(cut.wish, values).all():
        return
    given = {"--align": widths.align, "--min-channels": widths.least}
    options = " ".join(f"{name} {value}" for name, value in given.items() if value > 1)
    fact = f"brings all {int((~cut.wish).sum())} channels back that were to go, so nothing is removed"
    raise PruningError(options, fact, "ask for less of it, or remove a larger share")


def _restored(graph: ChannelGraph, wish: UnitMask, keep: UnitMask) -> tuple[str, ...]:
    added = keep & ~wish
    return tuple(name for name, layer in graph.layers.items() if added[layer.outputs].any())
