"""What `slim` returns: the pruned network with its report."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...extras import package
from ...pruning.costs import costs_of, count_parameters
from ...pruning.layers import LAYERS
from ...pruning.surgery import PruningResult
from .proof import Verify, cost_of_norms, proven, proven_awake
from .run import PARAMETRIZED
from .steps import vector
from .subject import ModuleSubject, Plan
from .trace import Zeroed

_MOST_REASONS, _LEAST_SHARE = 8, 0.0005  # that a report prints
_ROUNDED = "numbers of channels are rounded up, and are equal where the code needs it"
_UNSEEN = "they do not run on the example"


@dataclass(frozen=True)
class LayerChange:
    """A layer before and after pruning.

    Attributes:
        kind: its type.
        before, after: number of its output channels.
        pinned: how many of them are pinned.
        parameters: of the layer, before and after.
        macs: its multiply-adds for one example, before and after.
    """

    name: str
    kind: str
    before: int
    after: int
    pinned: int
    parameters: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Rest:
    """Parameters that stay, though a share of their channels was asked for, and the reason."""

    reason: str
    parameters: int


@dataclass(frozen=True)
class SlimReport:
    """Result of a pruning run in figures; prints itself.

    Attributes:
        layers: those that were followed in the order of the network, then all others with weights.
        parameters: parameters before and after, frozen ones included.
        macs: multiply-adds of one example before and after, in convolutions and linear layers.
        difference: largest difference between the outputs of the zeroed and the pruned network, over the
            largest output, in float64.
        not_followed: operations that are not supported, whose input channels are therefore kept.
        pins: reasons why channels are kept.
        unfolded: layers that lost the constants of removed channels.
        limits: restrictions of the pruned network that the given one does not have.
        seconds: what took how long.
        asked: share of the channels to remove, 0..1; the largest of a config; 0 with limits.
        rest: parameters beyond those that are left where each layer loses that share, most first.
    """

    layers: tuple[LayerChange, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    difference: float
    not_followed: tuple[str, ...]
    pins: tuple[str, ...]
    unfolded: tuple[str, ...]
    limits: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    asked: float = 0.0
    rest: tuple[Rest, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [
            f"{layer.name:<{width}}  {layer.before:>5} -> {layer.after:<5} {layer.kind}"
            + (f", {layer.pinned} pinned" if layer.pinned else "")
            for layer in self.layers
        ]
        for name, (before, after) in (("parameters", self.parameters), ("multiply-adds", self.macs)):
            lines.append(f"{name}: {before:,} -> {after:,} ({after / max(1, before):.1%})")
        lines.append(f"zeroed / pruned: {self.difference:.1e} of the largest output, float64")
        lines += [f"not followed: {text}" for text in self.not_followed]
        lines += [f"constants lost at: {', '.join(self.unfolded)}"] if self.unfolded else []
        lines += [f"limit: {text}" for text in self.limits]
        removed = [1 - after / max(1, before) for before, after in (self.parameters, self.macs)]
        asked = f"asked for {self.asked:.0%} of the channels: " if self.asked else ""
        lines.append(
            f"{asked}{removed[0]:.1%} of the parameters are removed, {removed[1]:.1%} of the multiply-adds"
        )
        whole = max(1, self.parameters[0])
        shown = [each for each in self.rest[:_MOST_REASONS] if each.parameters >= _LEAST_SHARE * whole]
        lines += ["kept beyond what was asked for:"] if shown else []
        lines += [f"  {each.parameters / whole:6.1%} of the parameters: {each.reason}" for each in shown]
        hidden = sum(each.parameters for each in self.rest[len(shown) :])
        lines += [f"  {hidden / whole:6.1%} of the parameters: other reasons"] if hidden and shown else []
        return "\n".join(lines)


@dataclass(frozen=True)
class SlimResult:
    """A pruned network.

    Attributes:
        model: of the given class.
        plan: the channels that are left, to narrow a freshly built network with.
        report: figures, and operations that are not supported.
        score: name of the score.
        scores, kept: (channels,) of all channels that could be removed, and which of these are left.
    """

    model: nn.Module
    plan: Plan
    report: SlimReport
    score: str = ""
    scores: NDArray[np.floating] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_), repr=False, compare=False)

    def page(self, path: str | Path, title: str | None = None) -> None:
        """Write the report as a self-contained HTML file, with charts of the layers, scores and costs.

        Raises:
            MissingPackageError: jinja2 is not installed.
        """
        package("SlimResult.page", "jinja2")  # the library itself runs without it
        from .page import write

        write(Path(path), self, title or type(self.model).__name__)


def _not_run(model: nn.Module, subject: ModuleSubject) -> tuple[str, ...]:
    """A text for each layer of the module that its code does not run."""
    return tuple(
        f"{name} ({type(module).__name__}) does not run on the example, so it is not pruned; "
        "if training runs it, exclude the layers that it reads"
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
        and not any(f"{name}.{own}" in subject.trace.read for own, _ in module.named_parameters())
    )


def report_of(
    model: nn.Module,
    subject: ModuleSubject,
    result: PruningResult[ModuleSubject],
    verify: Verify,
    asked: float,
) -> SlimReport:
    """The report, with the comparison of both networks.

    Args:
        model: as given.
        subject: the network that was pruned.
        result: of the engine.
        verify: see `proof.proven`.
        asked: share of the channels to remove.

    Raises:
        PruningError: the pruned network differs from the zeroed one.
    """
    graph, pruned = subject.graph, result.compact.model
    costs = costs_of(subject.model, graph, subject.example, subject.cells())
    whole = np.ones(graph.unit_count, dtype=np.bool_)
    layers = []
    for name, layer in graph.layers.items():
        widths = [(len(side), int(result.keep[side].sum())) for side in (layer.inputs, layer.outputs)]
        (reads, still_reads), (writes, still_writes) = widths
        parameters, macs = (
            (int(of(name, reads, writes)), int(of(name, still_reads, still_writes)))
            for of in (costs.layer_parameters, costs.layer_macs)
        )
        kind, pinned = (
            type(subject.model.get_submodule(name)).__name__,
            int(graph.pinned[layer.outputs].sum()),
        )
        layers.append(LayerChange(name, kind, *widths[1], pinned, parameters, macs))
    proof = proven(result.folded.model, result.compact, subject, verify)
    awake = proven_awake(result.folded.model, result.keep, subject)
    return SlimReport(
        layers=(*layers, *_other_layers(subject, pruned)),
        parameters=(count_parameters(model), count_parameters(pruned)),
        macs=(int(costs.macs(whole)), int(costs.macs(result.keep))),
        difference=max(proof.difference, awake),
        not_followed=(*subject.trace.not_followed, *_not_run(model, subject)),
        pins=tuple(dict.fromkeys(graph.pin_reasons.values())),
        unfolded=result.unfolded,
        limits=(*_cost_of_norms(subject, result), *proof.limits),
        asked=asked,
        rest=_rest(subject, pruned, asked),
    )


def _cost_of_norms(subject: ModuleSubject, result: PruningResult[ModuleSubject]) -> tuple[str, ...]:
    """A sentence on norms that are approximate, none if there are no such."""
    products = [step.product for step in subject.trace.steps if step.product and step.product.is_norm]
    kept = result.keep[subject.trace.units]
    over = (vector(label, axis).numpy() for each in products for axis, label in each.operands.values())
    count = sum(not kept[ids].all() for ids in over)
    if not count:
        return ()
    assert isinstance(result.folded.model, Zeroed)
    cost = cost_of_norms(result.folded.model, subject.inputs)
    return (
        f"{count} norms are over the kept channels alone (norms='approximate'), which changes the outputs "
        f"for a random input by {cost:.1%} of the largest, before any training",
    )


def _other_layers(subject: ModuleSubject, pruned: nn.Module) -> list[LayerChange]:
    """A line for each weight that belongs to no layer of the graph, by its name, with its first axis."""
    after = dict(pruned.named_parameters())
    found = []
    for name, tensor in subject.model.named_parameters():
        module = name.rpartition(".")[0]
        if tensor.ndim < 2 or PARAMETRIZED in name or module in subject.graph.layers:
            continue
        units = subject.trace.tensors.get(name, {}).get(0)
        pinned = len(tensor)
        if units is not None and name in subject.trace.read:
            pinned = int(subject.graph.pinned[units.numpy()].sum())
        kind = type(subject.model.get_submodule(module)).__name__
        sizes = (tensor.numel(), after[name].numel())
        found.append(LayerChange(name, kind, len(tensor), len(after[name]), min(pinned, len(tensor)), sizes))
    return found


def _rest(subject: ModuleSubject, pruned: nn.Module, asked: float) -> tuple[Rest, ...]:
    """What is left of each parameter beyond the asked share, by the reasons why its channels are kept."""
    if not asked:
        return ()
    graph, after = subject.graph, dict(pruned.named_parameters())
    kinds = {reason: _kind_of(reason) for reason in dict.fromkeys(graph.pin_reasons.values())}
    texts = [*dict.fromkeys(kinds.values()), _ROUNDED, _UNSEEN]
    number = {text: place for place, text in enumerate(texts)}
    codes = np.full(graph.unit_count, -1)
    for unit, reason in graph.pin_reasons.items():
        codes[unit] = number[kinds[reason]]
    total = np.zeros(len(texts))
    for name, tensor in subject.model.named_parameters():
        axes = [units.numpy().reshape(-1) for units in subject.trace.tensors.get(name, {}).values()]
        excess = after[name].numel() - tensor.numel() * (1 - asked) ** min(2, max(1, len(axes)))
        if excess <= 0:
            continue
        votes = np.zeros(len(texts))
        if name not in subject.trace.read:
            votes[number[_UNSEEN]] = 1
            axes = []
        for units in axes:
            found = codes[units]
            votes += np.bincount(found[found >= 0], minlength=len(texts)) / len(units)
        if not votes.any():
            votes[number[_ROUNDED]] = 1
        total += excess * votes / votes.sum()
    rest = [Rest(text, round(count)) for text, count in zip(texts, total.tolist(), strict=True) if count >= 1]
    return tuple(sorted(rest, key=lambda each: -each.parameters))


def _kind_of(reason: str) -> str:
    """A reason without the names of layers.

    >>> _kind_of("LayerNorm blocks.0.norm (native_layer_norm) computes statistics over channels")
    'LayerNorm (native_layer_norm) computes statistics over channels'
    """
    reason = re.sub(r"^(\w+) \S+ (\(\w+\)) ", r"\1 \2 ", reason)
    reason = re.sub(r"^no layer reads the output of \S+$", "no layer reads them", reason)
    return re.sub(r"^the code of \S+ has their number \d+$", "the code has their number", reason)
