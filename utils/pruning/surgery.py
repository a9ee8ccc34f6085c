"""Pruning: from policies to the compact network.

`prune` makes three networks out of one, which are the ones to evaluate:

    gamma_masked  full size, gammas of removed channels set to 0: these channels still output a constant
    folded        full size, those constants moved downstream, removed channels multiplied by 0
    compact       the small network; equal to `folded` up to rounding

Invariant: `compact(x) == folded(x)` in float64 to 1e-12, for every subject, policy and input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import PruningError
from .channels import ChannelGraph, UnitMask, UnitScores, WidthLimits
from .fold import Constant, carriers, fold, written_tensors
from .layers import channel_axis, output_axis, shared_copy, torch_threads, weight_of
from .scores import gamma_scores, unit_scores
from .subject import Block, BlockPlan, LayerScores, Policy, PolicyPlan, Subject

S = TypeVar("S", bound=Subject)
Folding = Literal["off", "interior", "borders"]


@dataclass(frozen=True)
class PruningResult(Generic[S]):
    """The three networks to evaluate and the plans that made them.

    The two full-size networks share their unchanged tensors with the original: evaluate them, but do not
    train them.

    Attributes:
        scores: scores of the channels of the full-size network.
        keep: (units,) the legal mask.
        carried: (units,) dead channels kept to carry the constants of the others.
        restored: names of layers that get channels back, as a plan would leave them empty or unequal.
        unfolded: names of layers and blocks whose constant could not be folded.
        bordered: names of layers without a carrier although one was needed: their constant is folded, but
            wrong where zero padding meets it.
    """

    masked: S
    folded: S
    compact: S
    plans: tuple[PolicyPlan, ...]
    scores: LayerScores
    keep: UnitMask
    carried: UnitMask
    restored: tuple[str, ...] = ()
    unfolded: tuple[str, ...] = ()
    bordered: tuple[str, ...] = ()

    @property
    def removed_blocks(self) -> tuple[Block, ...]:
        """Blocks removed by all plans together."""
        return tuple(block for plan in self.plans if isinstance(plan, BlockPlan) for block in plan.blocks)


def prune(
    subject: S,
    policies: Sequence[Policy],
    score: Callable[[S], LayerScores] = gamma_scores,
    *,
    folding: Folding = "interior",
    rescore: bool = False,
    align: int = 1,
    min_channels: int = 1,
    may_keep_all: bool = False,
) -> PruningResult[S]:
    """Apply `policies` to `subject`, channels before blocks.

    Args:
        subject: the full-size network; unchanged.
        policies: each makes a plan; one that removes channels must come before one that removes blocks.
        score: importance of every channel.
        folding: what happens to the constants that removed channels output: dropped ("off"), moved into
            biases and running means ("interior", inexact where zero padding meets them), or moved exactly,
            which keeps a few dead channels ("borders").
        rescore: score blocks on the narrowed network, as the published layer_channel_prune does, not on the
            full one.
        align: kept widths are multiples of it.
        min_channels: the fewest channels that every tensor keeps.
        may_keep_all: whether `align` and `min_channels` may undo the whole plan, as in a search.

    Raises:
        PruningError: a policy cannot be fulfilled, or `align` and `min_channels` undo its whole plan.
        ValueError: the policies are in the wrong order.
    """
    scores = score(subject)
    widths = WidthLimits(align, min_channels)
    cut = _planned(subject, policies, score, scores, rescore, widths)
    if not may_keep_all:
        _require_removal(subject.graph, cut, unit_scores(subject.graph, scores), widths)
    # Hundreds of small operations: several threads cost more in waiting than they save.
    with torch_threads(1):
        return _cut_out(subject, cut, scores, folding, widths)


def _cut_out(
    subject: S, cut: "_Cut", scores: LayerScores, folding: Folding, widths: WidthLimits
) -> PruningResult[S]:
    """Everything that changes weights."""
    graph = subject.graph
    masked, found, carried, keep = _emptied(subject, cut, scores, folding, widths)
    full = shared_copy(masked.model, written_tensors(masked.model, graph, carried))
    dropped, bordered = ((), ()) if folding == "off" else fold(full, graph, found, carried)
    stuck = tuple(block.name for block in cut.blocks if not block.travels and folding != "off")
    narrowed = subject.with_model(full).narrowed(keep)
    # A removed block is named by its module, and narrowing keeps the names.
    gone = {block.name for block in cut.blocks}
    zeroed = subject.with_model(full).zeroed(keep, cut.blocks)
    return PruningResult(
        masked=masked,
        folded=zeroed,
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
    subject: S, cut: "_Cut", scores: LayerScores, folding: Folding, widths: WidthLimits
) -> tuple[S, Mapping[str, Constant], UnitMask, UnitMask]:
    """The gamma_masked network, its constants, the carriers, and the mask including them."""
    graph, keep = subject.graph, cut.keep
    masked, found = _masked(subject, cut, keep)
    if folding != "borders":
        return masked, found, np.zeros_like(keep), keep
    carried = carriers(masked.model, graph, found)
    kept = graph.legal(keep | carried, unit_scores(graph, scores), widths.align, widths.min_channels)
    if (kept & ~keep & ~carried).any():  # `legal` restored more than the carriers: fewer constants are left
        masked, found = _masked(subject, cut, kept & ~carried)
    return masked, found, carried, kept


def _masked(subject: S, cut: "_Cut", alive: UnitMask) -> tuple[S, Mapping[str, Constant]]:
    """The network with the gammas of all units but `alive` masked, and its constants."""
    tensors = [tensor for tensor, *_ in masked_tensors(subject.model, subject.graph, alive, cut.blocks)]
    model = mask_gammas(shared_copy(subject.model, tensors), subject.graph, alive, cut.blocks)
    masked = subject.with_model(model)
    return masked, masked.constants(alive, cut.blocks)


@dataclass(frozen=True)
class _Cut:
    """What all plans together remove."""

    plans: tuple[PolicyPlan, ...]
    wish: UnitMask
    keep: UnitMask
    blocks: tuple[Block, ...]


def _planned(
    subject: S,
    policies: Sequence[Policy],
    score: Callable[[S], LayerScores],
    scores: LayerScores,
    rescore: bool,
    widths: WidthLimits,
) -> _Cut:
    wish = keep = np.ones(subject.graph.unit_count, dtype=np.bool_)
    blocks: tuple[Block, ...] = ()
    plans: list[PolicyPlan] = []
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
            raise ValueError("give one policy for channels, before the one for blocks")
        else:
            wish = plan.keep
            keep = subject.graph.legal(
                wish, unit_scores(subject.graph, scores), widths.align, widths.min_channels
            )
    return _Cut(tuple(plans), wish, keep, blocks)


def _require_removal(graph: ChannelGraph, cut: _Cut, values: UnitScores, widths: WidthLimits) -> None:
    """Refuse width limits that restore every channel; a plan that removes none is accepted."""
    if cut.blocks or not cut.keep.all() or graph.legal(cut.wish, values).all():
        return
    given = {"--align": widths.align, "--min-channels": widths.min_channels}
    options = " ".join(f"{name} {value}" for name, value in given.items() if value > 1)
    fact = f"all {int((~cut.wish).sum())} channels to remove are restored, so nothing is removed"
    raise PruningError(options, fact, "give a smaller value, or remove a larger share")


def _restored(graph: ChannelGraph, wish: UnitMask, keep: UnitMask) -> tuple[str, ...]:
    added = keep & ~wish
    return tuple(name for name, layer in graph.layers.items() if added[layer.outputs].any())


def masked_tensors(
    model: nn.Module, graph: ChannelGraph, keep: UnitMask, blocks: Sequence[Block] = ()
) -> list[tuple[Tensor, Tensor, int]]:
    """Targets of `mask_gammas`: gammas, or weights of layers without norm; (out,) dead channels; the axis."""
    gone = {name for block in blocks for name in block.layers}
    found = []
    for name, layer in graph.layers.items():
        dead = torch.from_numpy(~keep[layer.outputs]) | (name in gone)
        module = model.get_submodule(layer.norm or name)
        if not isinstance(weight_of(module), Tensor):  # a norm without gammas
            module = model.get_submodule(name)
        weight = weight_of(module)
        assert isinstance(weight, Tensor)
        if bool(dead.any()):
            found.append((weight, dead, output_axis(module)))
    return found


def mask_gammas(
    model: nn.Module, graph: ChannelGraph, keep: UnitMask, blocks: Sequence[Block] = ()
) -> nn.Module:
    """Set the gammas of removed channels to 0, in place; a layer without norm keeps only its bias.

    All channels of the layers of removed blocks count as removed.
    """
    with torch.no_grad():
        for gamma, dead, axis in masked_tensors(model, graph, keep, blocks):
            gamma.index_fill_(axis, dead.nonzero().flatten().to(gamma.device), 0)
    return model


def zero_removed(
    model: nn.Module, graph: ChannelGraph, keep: UnitMask, blocks: Sequence[Block] = ()
) -> nn.Module:
    """Multiply by 0, with hooks, every removed channel that a layer reads and every removed block's output.

    Between two layers a channel meets only itself, so masking the inputs of layers equals multiplying the
    activations by 0, and is right even after activations with act(0) != 0.
    """
    for name, layer in graph.layers.items():
        mask = torch.from_numpy(keep[layer.inputs])
        if not mask.all():
            model.get_submodule(name).register_forward_pre_hook(_masking(mask))
    for block in blocks:
        model.get_submodule(block.output).register_forward_hook(_times_zero)
    return model


def _times_zero(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output * 0


def _masking(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (value,) = inputs
        behind = value.ndim - 1 - channel_axis(module, value)
        return (value * mask.to(value).view(-1, *[1] * behind),)

    return hook
