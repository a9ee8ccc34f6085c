"""The whole way from any network to a smaller one, proven: what `slim.py` offers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.costs import costs_of
from ...pruning.equality import outputs_in_float64, relative_difference
from ...pruning.layers import CONVOLUTIONS
from ...pruning.policies import GlobalThreshold, GroupRatios, Policy, candidate_channels
from ...pruning.scores import Scorer, gamma_scores, named_scorer, random_scores
from ...pruning.sparsity import GammaPenalty
from ...pruning.subject import BlockPlan, ChannelPlan, LayerScores, Subject
from ...pruning.surgery import Folding, PruningResult, prune
from .plan import Plan, finished, unwrapped
from .report import LayerChange, SlimReport
from .selection import Parts, pinned_layers, shares_of, words
from .subject import FxSubject
from .trace import WAY, said

_CHOICES = {
    "scheme": ("uniform", "global", "guarded"),
    "interface": ("follow", "keep"),
    "folding": get_args(Folding),
}
# of the largest output; float64 rounding stays below 1e-12
EQUAL = 1e-9


@dataclass(frozen=True)
class SlimResult:
    """A pruned network.

    Attributes:
        model: of the class that was given, or, where its code holds numbers of channels, the traced one.
        plan: what is left, to narrow a freshly built network with.
        report: figures, and what could not be followed.
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
    scheme: Literal["uniform", "global", "guarded"] = "uniform",
    config: Sequence[Mapping[str, Any]] | None = None,
    interface: Literal["follow", "keep"] = "follow",
    layer_keep: float = 0.1,
    least: int = 1,
    folding: Folding = "interior",
    values: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SlimResult:
    """Remove channels of `model`, which is left as it is; `slim.py` has a longer manual.

    Args:
        model: takes one tensor; other arguments of its `forward` go into `values`.
        example_inputs: (1, ...) one input, or a sequence of one.
        ratio: share of the channels that goes, 0 <= ratio < 1.
        score: name of the importance of a channel, products such as "gamma_x_l1", or a scorer.
        scope: names of the parts to prune; None for all.
        exclude: names of modules, or types, whose layers stay as wide as they are.
        align: kept widths are multiples of it.
        scheme: each group of layers loses `ratio`; or one threshold, also one that is kept from emptying any.
        config: instead of `ratio`, a list of dicts.
        interface: whether what lies outside of `scope` is narrowed with it.
        layer_keep: share that a layer keeps at least under the last two.
        least: channels that a layer keeps at least.
        folding: whether constants of removed channels move into the layers behind.
        values: other arguments of `forward`, fixed.
        seed: of random scores.

    Raises:
        PruningError: it cannot be traced, an option names nothing, or the result fails its proof.
    """
    _require_options({"scheme": scheme, "interface": interface, "folding": folding}, align, least, layer_keep)
    model, fixed = unwrapped(model), values or {}
    whole = FxSubject.of(model, _only(example_inputs), fixed)
    shares = shares_of(Parts(model, list(whole.graph.layers)), ratio, scope, exclude, config)
    subject = whole.pinning(pinned_layers(whole.graph, shares, interface))
    policies, scorer = [_policy(shares, scheme, layer_keep)], _scorer(score, seed)
    result = prune(subject, policies, scorer, folding=folding, align=align, least=least, may_keep_all=True)
    small = finished(model, subject, result.keep, result.compact, fixed)
    return SlimResult(small, Plan.of(subject, result.keep, fixed), _report(model, whole, result, small))


def gamma_penalty(
    model: nn.Module,
    example: Tensor,
    s: float,
    scope: str | Sequence[str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> GammaPenalty:
    """The sparsity penalty on the gammas that `slim(score="gamma")` will judge, for training.

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
        raise PruningError(f"s {s}", "give a weight of the penalty from 0")
    subject = FxSubject.of(model, example, values)
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
        fact = f"{kinds}, but one tensor is taken"
        raise PruningError(
            "example_inputs", fact, "wrap the network so that forward takes one, or fix others with values"
        )
    if not given[0].ndim or not len(given[0]):
        fact = f"of shape {tuple(given[0].shape)}"
        raise PruningError("example_inputs", fact, "give a batch of one, with the batch as the first axis")
    return given[0]


def _require_options(chosen: Mapping[str, str], align: int, least: int, layer_keep: float) -> None:
    for name, given in chosen.items():
        if given not in _CHOICES[name]:
            raise PruningError(f"{name} {given!r}", "is not known", f"use {', '.join(_CHOICES[name])}")
    for name, count in (("align", align), ("least", least)):
        if not isinstance(count, int) or count < 1:
            raise PruningError(f"{name} {count}", "give a whole number of channels from 1")
    if not 0 <= layer_keep <= 1:
        raise PruningError(f"layer_keep {layer_keep}", "give a share from 0 to 1")


def _scorer(score: str | Scorer, seed: int) -> Scorer:
    if not isinstance(score, str):
        return score
    named = named_scorer(score, {"random": random_scores(seed)})

    def judged(subject: Subject) -> LayerScores:
        found = named(subject)
        if not found:
            raise PruningError(f"score {score}", "judges no layer, as no batch norm follows any", "use l1")
        return found

    return judged


def _policy(shares: Mapping[str, float], scheme: str, layer_keep: float) -> Policy:
    if scheme == "uniform":
        return GroupRatios(shares)
    asked = sorted({share for share in shares.values() if share})
    if len(asked) > 1:
        fact = f"has one threshold, but config asks for {', '.join(map(str, asked))}"
        raise PruningError(f"scheme {scheme!r}", fact, "ask for one, or use scheme 'uniform'")
    if not asked:  # nothing is to go
        return GroupRatios(shares)
    threshold = GlobalThreshold(asked[0], layer_keep=layer_keep, guarded=scheme == "guarded")

    def policy(seen: Subject, scores: LayerScores) -> ChannelPlan | BlockPlan:
        judged = {name: scores[name] for name in scores if shares.get(name)}
        if not candidate_channels(seen.graph, judged, "all"):  # the report says what pins them
            return GroupRatios(shares)(seen, scores)
        return threshold(seen, judged)

    return policy


def _proven(model: nn.Module, result: PruningResult[FxSubject], example: Tensor) -> float:
    """Difference of the compact network from the zeroed one on a random input, over the largest output."""
    images = example
    if example.is_floating_point():
        images = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    try:
        found, expected = (outputs_in_float64(each.model, images) for each in (result.compact, result.folded))
    except Exception as error:  # the user's own code may raise anything
        fact = f"cannot be proven, as a copy does not run in float64 ({said(error)})"
        raise PruningError(f"{type(model).__name__}", fact, "compute in the type of the input") from error
    # Of a network without training little may come out at all: that must not hide a fault.
    found, expected = ([each.double() for each in outputs] for outputs in (found, expected))
    largest = max((float(each.abs().max()) for each in expected if each.numel()), default=0.0) or 1.0
    difference = relative_difference(
        [each / largest for each in found], [each / largest for each in expected]
    )
    if not difference <= EQUAL:
        fact = f"the pruned network differs from the zeroed one by {difference:.1e} of the largest output"
        raise PruningError(f"{type(model).__name__}", fact, "exclude the layers around it, and report it")
    return difference


def _not_run(model: nn.Module, subject: FxSubject) -> tuple[str, ...]:
    """Layers of the module that its code does not reach, a text each."""
    nodes = subject.model.graph.nodes
    called = {str(node.target) for node in nodes if node.op == "call_module"}
    reached = called | {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    inside = tuple(f"{name}." for name in called)  # a module that is called as it is uses its own parts
    return tuple(
        f"{name} ({type(module).__name__}) is not run on the example, so it stays as it is; "
        "if training runs it, exclude what it reads"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
        and name not in reached
        and not name.startswith(inside)
    )


def _limits(model: nn.Module, subject: FxSubject, pruned: nn.Module) -> tuple[str, ...]:
    """What is lost where the traced network is returned, a text each."""
    if type(pruned) is type(model):
        return ()
    found = ["its code counts channels, so it is the traced one: in training it runs the code of evaluation"]
    if subject.model.meta.get(WAY) == "torch.export":
        size = "x".join(map(str, subject.example.shape[1:]))
        found.append(f"it was traced by torch.export, so it takes inputs of {size} alone, in any number")
    return tuple(found)


def _parameter_count(model: nn.Module) -> int:
    """Values of all parameters, frozen ones too; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _report(
    model: nn.Module, subject: FxSubject, result: PruningResult[FxSubject], pruned: nn.Module
) -> SlimReport:
    """Also the proof: PruningError where it fails."""
    graph = subject.graph
    costs = costs_of(subject.model, graph, subject.example)
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
    return SlimReport(
        layers=tuple(layers),
        parameters=(_parameter_count(model), _parameter_count(pruned)),
        macs=(int(costs.macs(whole)), int(costs.macs(result.keep))),
        difference=_proven(model, result, subject.example),
        not_followed=(*subject.not_followed, *_not_run(model, subject)),
        pins=tuple(dict.fromkeys(graph.pin_reasons.values())),
        unfolded=result.unfolded,
        limits=_limits(model, subject, pruned),
    )
