"""The whole way from policies to the smaller network.

`prune` makes three networks out of one, and they are what gets evaluated:

    gamma_masked  full size, the gammas of removed channels are 0: they still put out a constant
    folded        full size, those constants moved downstream, removed channels multiplied by 0
    compact       the small network; equal to `folded` up to rounding

Invariant: `compact(x) == folded(x)` in float64 to 1e-12, for every subject, policy and input.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from utils.pruning.channels import ChannelGraph, UnitMask
from utils.pruning.fold import fold, mask_gammas, zero_removed
from utils.pruning.scores import gamma_scores, unit_scores
from utils.pruning.subject import Block, BlockPlan, LayerScores, Plan, Policy, Subject

S = TypeVar("S", bound=Subject)


@dataclass(frozen=True)
class PruningResult(Generic[S]):
    """The three networks that get evaluated and the plans that made them.

    Attributes:
        keep: the legal mask over the units of the full-size network.
        restored: names of layers that a plan would have emptied or left unequal.
        unfolded: names of layers and blocks whose constant could not be folded.
    """

    masked: S
    folded: S
    compact: S
    plans: tuple[Plan, ...]
    keep: UnitMask
    restored: tuple[str, ...] = ()
    unfolded: tuple[str, ...] = ()


def prune(
    subject: S,
    policies: Sequence[Policy],
    score: Callable[[S], LayerScores] = gamma_scores,
    *,
    move_constants: bool = True,
    rescore: bool = False,
    align: int = 1,
) -> PruningResult[S]:
    """Apply `policies` to `subject`, channels before blocks.

    Args:
        subject: the full-size network; unchanged.
        policies: each makes a plan; a policy that removes channels must come before one that removes blocks.
        score: importance of every channel.
        move_constants: fold the constants that removed channels put out.
        rescore: score blocks on the narrowed network, as the published layer_channel_prune does, instead of
            on the full one.
        align: keep multiples of so many channels.

    Raises:
        PruningError: from a policy that cannot be fulfilled.
        ValueError: on policies in the wrong order.
    """
    cut = _planned(subject, policies, score, rescore, align)
    graph = subject.graph
    masked = subject.with_model(mask_gammas(deepcopy(subject.model), graph, cut.keep, cut.blocks))
    full = deepcopy(masked.model)
    unfolded = fold(full, graph, cut.keep, cut.blocks, subject.example) if move_constants else ()
    narrowed = subject.with_model(full).narrowed(cut.keep)
    # A removed block is named by its module, and narrowing keeps the names.
    gone = {block.name for block in cut.blocks}
    compact = narrowed.shortened([block for block in narrowed.blocks if block.name in gone])
    return PruningResult(
        masked=masked,
        folded=subject.with_model(zero_removed(full, graph, cut.keep, cut.blocks)),
        compact=compact,
        plans=cut.plans,
        keep=cut.keep,
        restored=_restored(graph, cut.wish | graph.pinned, cut.keep),
        unfolded=unfolded,
    )


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
    rescore: bool,
    align: int,
) -> _Cut:
    scores = score(subject)
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
            keep = subject.graph.legal(wish, unit_scores(subject.graph, scores), align)
    return _Cut(tuple(plans), wish, keep, blocks)


def _restored(graph: ChannelGraph, wish: UnitMask, keep: UnitMask) -> tuple[str, ...]:
    added = keep & ~wish
    return tuple(name for name, layer in graph.layers.items() if added[layer.outputs].any())
