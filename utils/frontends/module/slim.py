"""Prune any network in one call and compare the result with the zeroed network: the API of `slim.py`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...errors import PruningError
from ...profiling import count_parameters
from ...pruning.costs import costs_of
from ...pruning.layers import CONVOLUTIONS
from ...pruning.policies import GlobalThreshold, GroupRatios, Policy, candidate_channels
from ...pruning.scores import Scorer, gamma_scores, named_scorer, random_scores
from ...pruning.sparsity import GammaPenalty
from ...pruning.subject import BlockPlan, ChannelPlan, LayerScores, Subject
from ...pruning.surgery import Folding, PruningResult, prune
from .options import Interface, Parts, Scheme, SlimOptions, Verify, pinned_layers, ratios_of, words
from .plan import Plan, unwrapped
from .proof import proven
from .subject import ModuleSubject, prune_settled


@dataclass(frozen=True)
class LayerChange:
    """A layer: its type, its output channels before and after pruning, and how many of them are pinned."""

    name: str
    kind: str
    before: int
    after: int
    pinned: int


@dataclass(frozen=True)
class SlimReport:
    """Result of a pruning run in figures; prints itself.

    Attributes:
        layers: in the order of the network.
        parameters: parameters before and after, frozen ones included.
        macs: multiply-adds of one example before and after, in convolutions and linear layers.
        difference: largest difference between the outputs of the zeroed and the pruned network, over the
            largest output, in float64.
        not_followed: operations that are not supported, whose input channels are therefore kept.
        pins: reasons why channels are kept.
        unfolded: layers that lost the constants of removed channels.
        limits: restrictions of the pruned network that the given one does not have.
        seconds: what took how long.
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
        return "\n".join(lines)


@dataclass(frozen=True)
class SlimResult:
    """A pruned network.

    Attributes:
        model: of the given class, or the traced network where the code of that class contains channel counts.
        plan: the channels that are left, to narrow a freshly built network with.
        report: figures, and operations that are not supported.
    """

    model: nn.Module
    plan: Plan
    report: SlimReport


def slim(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    ratio: float = 0.5,
    score: str | Scorer = "l1",
    scope: str | Sequence[str] | None = None,
    exclude: Iterable[str | type[nn.Module]] = (),
    align: int = 8,
    *,
    scheme: Scheme = "uniform",
    config: Sequence[Mapping[str, Any]] | None = None,
    interface: Interface = "follow",
    layer_keep: float = 0.1,
    min_channels: int = 1,
    folding: Folding = "interior",
    values: Mapping[str, Any] | None = None,
    seed: int = 0,
    verify: Verify = "full",
    least: int | None = None,
) -> SlimResult:
    """Remove channels from a copy of `model`; slim.py has a manual.

    Args:
        model: takes one tensor; other arguments of its `forward` are given in `values`.
        example_inputs: (1, ...) one input, or a sequence of one.
        ratio: share of the channels to remove, 0 <= ratio < 1.
        score: name of a score, a product such as "gamma_x_l1", or a scorer.
        scope: names of the modules to prune; None for the whole network.
        exclude: names or types of modules whose layers keep their width.
        align: kept widths are multiples of it.
        scheme: "uniform": each group of layers with one width loses `ratio`; "global": one threshold;
            "guarded": one threshold below every layer's highest score.
        config: instead of `ratio`, a list of dicts with sparsity (or ratio), exclude, op_types, op_names.
        interface: layers outside of `scope` that read pruned channels are narrowed ("follow"), or those
            channels are kept ("keep").
        layer_keep: the smallest share of its channels that a layer keeps under "global" and "guarded".
        min_channels: the fewest channels that a layer keeps.
        folding: constants of removed channels move into biases and means ("interior"), exactly, which keeps
            a few dead channels ("borders"), or are dropped ("off").
        values: other arguments of `forward`, fixed.
        seed: seed of random scores.
        verify: comparison of the result: "full", in batches of 1, 2 and 3, at three sizes and in a training
            step; "quick", in batches of 1 and 2 of the example's size.
        least: older name of `min_channels`.

    Raises:
        PruningError: the network cannot be traced, an option is invalid, or the result is not equal to the
            zeroed network.
    """
    options = SlimOptions(
        ratio=ratio, score=score, scope=scope, exclude=exclude, align=align, scheme=scheme, config=config,
        interface=interface, layer_keep=layer_keep, min_channels=min_channels if least is None else least,
        folding=folding, values=values, seed=seed, verify=verify,
    )  # fmt: skip
    return _slimmed(unwrapped(model), _only(example_inputs), options)


def _slimmed(model: nn.Module, example: Tensor, options: SlimOptions) -> SlimResult:
    fixed = options.values or {}
    started = time.perf_counter()
    whole = ModuleSubject.of(model, example, fixed)
    ratios = ratios_of(Parts(model, list(whole.graph.layers)), options)
    subject = whole.pinning(pinned_layers(whole.graph, ratios, options.interface))

    def cut(subject: ModuleSubject) -> PruningResult[ModuleSubject]:
        return prune(
            subject,
            [_policy(ratios, options.scheme, options.layer_keep)],
            _scorer(options.score, options.seed),
            folding=options.folding,
            align=options.align,
            min_channels=options.min_channels,
            may_keep_all=True,
        )

    subject, result = prune_settled(subject, cut)
    cut_at = time.perf_counter()
    report = _report(model, subject, result, options.verify)
    seconds = {"trace, plan and cut": cut_at - started, "proof": time.perf_counter() - cut_at}
    plan = Plan.of(subject, result.keep, fixed)
    return SlimResult(result.compact.model, plan, replace(report, seconds=seconds))


def gamma_penalty(
    model: nn.Module,
    example: Tensor,
    s: float,
    scope: str | Sequence[str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> GammaPenalty:
    """The sparsity penalty for training, on exactly the gammas that `slim(score="gamma")` scores.

    In every step, between `loss.backward()` and `optimizer.step()`: `penalty.add_to_gradients()`.

    Args:
        model: the network in training.
        example: (1, ...) an input.
        s: weight of the penalty, 1e-4 .. 1e-3, not below 0.
        scope: names of the parts to prune; None for all.
        values: other arguments of `forward`, fixed.
    """
    model = unwrapped(model)
    if not s >= 0:
        raise PruningError(f"s {s}", "out of range", "give a penalty weight of at least 0")
    subject = ModuleSubject.of(model, example, values)
    parts = Parts(model, list(subject.graph.layers))
    names = parts.layers if scope is None else parts.named(words(scope))
    channels = candidate_channels(subject.graph, gamma_scores(subject), "all")
    judged = {name: mask for name, mask in channels.items() if name in names}
    norms = {name: model.get_submodule(str(subject.graph.layers[name].norm)) for name in judged}
    return GammaPenalty(norms, s, judged)  # type: ignore[arg-type]  # batch norms of any dimension


def _only(example_inputs: Tensor | Sequence[Tensor]) -> Tensor:
    given = list(example_inputs) if isinstance(example_inputs, Sequence) else [example_inputs]
    if len(given) != 1 or not isinstance(given[0], Tensor):
        kinds = ", ".join(type(each).__name__ for each in given) or "nothing"
        fact = f"got {kinds}, expected one tensor"
        raise PruningError(
            "example_inputs", fact, "wrap the network so that forward takes one, or fix others with values"
        )
    if not given[0].ndim or not len(given[0]):
        fact = f"shape {tuple(given[0].shape)} has no batch"
        raise PruningError("example_inputs", fact, "give a batch of one, with the batch as the first axis")
    return given[0]


def _scorer(score: str | Scorer, seed: int) -> Scorer:
    if not isinstance(score, str):
        return score
    named = named_scorer(score, {"random": random_scores(seed)})

    def judged(subject: Subject) -> LayerScores:
        found = named(subject)
        if not found:
            raise PruningError(f"score {score}", "no layer is followed by a batch norm", "use l1")
        return found

    return judged


def _policy(ratios: Mapping[str, float], scheme: Scheme, layer_keep: float) -> Policy:
    if scheme == "uniform":
        return GroupRatios(ratios)
    asked = sorted({ratio for ratio in ratios.values() if ratio})
    if len(asked) > 1:
        fact = f"takes one ratio, but config has {', '.join(map(str, asked))}"
        raise PruningError(f"scheme {scheme!r}", fact, "give one ratio, or use scheme 'uniform'")
    if not asked:  # nothing to remove
        return GroupRatios(ratios)
    threshold = GlobalThreshold(asked[0], layer_keep=layer_keep, guarded=scheme == "guarded")

    def policy(seen: Subject, scores: LayerScores) -> ChannelPlan | BlockPlan:
        judged = {name: scores[name] for name in scores if ratios.get(name)}
        if not candidate_channels(seen.graph, judged, "all"):  # all pinned; the report says why
            return GroupRatios(ratios)(seen, scores)
        return threshold(seen, judged)

    return policy


def _not_run(model: nn.Module, subject: ModuleSubject) -> tuple[str, ...]:
    """A text for each layer of the module that its code does not run."""
    return tuple(
        f"{name} ({type(module).__name__}) does not run on the example, so it is not pruned; "
        "if training runs it, exclude the layers that it reads"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
        and not any(f"{name}.{own}" in subject.trace.read for own, _ in module.named_parameters())
    )


def _report(
    model: nn.Module, subject: ModuleSubject, result: PruningResult[ModuleSubject], verify: Verify
) -> SlimReport:
    """The report, with the comparison of both networks; PruningError if they differ."""
    graph, pruned = subject.graph, result.compact.model
    costs = costs_of(subject.model, graph, subject.example, subject.cells())
    whole = np.ones(graph.unit_count, dtype=np.bool_)
    layers = [
        LayerChange(
            name,
            type(subject.model.get_submodule(name)).__name__,
            len(layer.outputs),
            int(result.keep[layer.outputs].sum()),
            int(graph.pinned[layer.outputs].sum()),
        )
        for name, layer in graph.layers.items()
    ]
    proof = proven(result.folded.model, pruned, subject, verify)
    return SlimReport(
        layers=tuple(layers),
        parameters=(count_parameters(model), count_parameters(pruned)),
        macs=(int(costs.macs(whole)), int(costs.macs(result.keep))),
        difference=proof.difference,
        not_followed=(*subject.trace.not_followed, *_not_run(model, subject)),
        pins=tuple(dict.fromkeys(graph.pin_reasons.values())),
        unfolded=result.unfolded,
        limits=proof.limits,
    )
