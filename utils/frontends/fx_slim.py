"""The whole way from any network to a smaller one, proven: what `slim.py` offers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import PruningError
from utils.frontends.fx import FxSubject
from utils.frontends.fx_parts import Parts, pinned_layers, shares_of, words
from utils.frontends.fx_plan import Plan, finished
from utils.frontends.fx_report import LayerChange, SlimReport
from utils.pruning.costs import costs_of
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.layers import CONVOLUTIONS
from utils.pruning.policies import GlobalThreshold, GroupShares, Policy, candidate_channels
from utils.pruning.scores import Scorer, gamma_scores, named_scorer, random_scores
from utils.pruning.sparsity import GammaPenalty
from utils.pruning.surgery import Folding, PruningResult, prune

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
    example = _only(example_inputs)
    whole = FxSubject.of(model, example, values)
    shares = shares_of(Parts(model, list(whole.graph.layers)), ratio, scope, exclude, config)
    subject = whole.pinning(pinned_layers(whole.graph, shares, interface))
    scorer = named_scorer(score, {"random": random_scores(seed)}) if isinstance(score, str) else score
    policy = _policy(shares, scheme, ratio, layer_keep)
    result = prune(subject, [policy], scorer, folding=folding, align=align, least=least, may_keep_all=True)
    pruned = finished(model, subject, result.keep, result.compact, values or {})
    report = _report(whole, result, _proven(model, result, example), _not_run(model, whole))
    return SlimResult(pruned, Plan.of(subject, result.keep, values or {}), report)


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
        s: weight of the penalty, 1e-4 .. 1e-3.
        scope: names of the parts to prune; None for all.
        values: other arguments of `forward`, fixed.
    """
    subject = FxSubject.of(model, example, values)
    parts = Parts(model, list(subject.graph.layers))
    names = parts.named(words(scope)) if scope else parts.layers
    channels = candidate_channels(subject.graph, gamma_scores(subject), "all")
    judged = {name: mask for name, mask in channels.items() if name in names}
    norms = {name: model.get_submodule(str(subject.graph.layers[name].norm)) for name in judged}
    return GammaPenalty(norms, s, judged)  # type: ignore[arg-type]  # batch norms of any dimension


def _only(example_inputs: Tensor | Sequence[Tensor]) -> Tensor:
    given = [example_inputs] if isinstance(example_inputs, Tensor) else list(example_inputs)
    if len(given) != 1:
        fact = f"example_inputs: {len(given)} tensors, but one is taken"
        raise PruningError(f"{fact}; wrap the network so that forward takes one tensor")
    return given[0][:1]


def _policy(shares: Mapping[str, float], scheme: str, ratio: float, layer_keep: float) -> Policy:
    if scheme == "uniform":
        return GroupShares(shares)
    threshold = GlobalThreshold(ratio, layer_keep=layer_keep, guarded=scheme == "guarded")
    return lambda seen, scores: threshold(seen, {name: scores[name] for name in scores if shares.get(name)})


def _proven(model: nn.Module, result: PruningResult[FxSubject], example: Tensor) -> float:
    """Difference of the compact network from the zeroed one on a random input, over the largest output."""
    images = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    found, expected = (outputs_in_float64(each.model, images) for each in (result.compact, result.folded))
    # Of a network without training little may come out at all: that must not hide a fault.
    largest = max((float(each.abs().max()) for each in expected if each.numel()), default=0.0) or 1.0
    difference = relative_difference(
        [each / largest for each in found], [each / largest for each in expected]
    )
    if not difference <= EQUAL:
        fact = f"the pruned network differs from the zeroed one by {difference:.1e} of the largest output"
        raise PruningError(f"{type(model).__name__}: {fact}; exclude the layers around it, and report it")
    return difference


def _not_run(model: nn.Module, subject: FxSubject) -> tuple[str, ...]:
    """Layers of the module that its code does not reach, a text each."""
    named = [str(node.target) for node in subject.model.graph.nodes if node.op in ("call_module", "get_attr")]
    reached = {name for target in named for name in (target, target.rpartition(".")[0])}
    return tuple(
        f"{name} ({type(module).__name__}) is not run on the example, so it stays as it is"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and name not in reached
    )


def _report(
    subject: FxSubject, result: PruningResult[FxSubject], difference: float, more: tuple[str, ...]
) -> SlimReport:
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
        parameters=(int(costs.parameters(whole)), int(costs.parameters(result.keep))),
        macs=(int(costs.macs(whole)), int(costs.macs(result.keep))),
        difference=difference,
        not_followed=(*subject.not_followed, *more),
        pins=tuple(dict.fromkeys(graph.pin_reasons.values())),
        unfolded=result.unfolded,
    )
