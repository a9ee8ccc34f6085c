"""Prune any PyTorch network: one call, and a plan that narrows a freshly built one.

    import torch
    from slim import Plan, apply_plan, load, slim

    result = slim(model, torch.zeros(1, 3, 224, 224), ratio=0.5, score="l1", align=8)
    print(result.report)                          # layers, sizes, what could not be followed
    fine_tune(result.model)
    torch.save({"plan": result.plan.to_json(), "model": result.model.state_dict()}, "slim.pt")

    saved = torch.load("slim.pt", weights_only=True)
    model = apply_plan(MyNetwork(), Plan.from_json(saved["plan"]))
    load(model, saved["model"])

Layers are traced by torch.fx; what it or the rules cannot follow stays as it is and is listed. Every result
is proven: it computes what the network does with the removed channels at zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import PruningError
from utils.frontends.fx import FxSubject
from utils.frontends.fx_plan import Plan, apply_plan, finished, load
from utils.frontends.fx_report import LayerChange, SlimReport
from utils.pruning.costs import costs_of
from utils.pruning.equality import outputs_in_float64, relative_difference
from utils.pruning.policies import GlobalThreshold, GroupShares, Policy, candidate_channels
from utils.pruning.scores import Scorer, gamma_scores, named_scorer, random_scores
from utils.pruning.sparsity import GammaPenalty
from utils.pruning.surgery import Folding, PruningResult, prune

__all__ = ["Plan", "SlimReport", "SlimResult", "apply_plan", "gamma_penalty", "load", "slim"]

# of the largest output; float64 rounding stays below 1e-12
EQUAL = 1e-9


@dataclass(frozen=True)
class SlimResult:
    """A pruned network.

    Attributes:
        model: of the class that was given, or, where its code counts channels, the traced one.
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
    scheme: Literal["uniform", "global"] = "uniform",
    config: Sequence[Mapping[str, Any]] | None = None,
    interface: Literal["follow", "keep"] = "follow",
    layer_keep: float = 0.1,
    least: int = 1,
    folding: Folding = "interior",
    values: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SlimResult:
    """Remove channels of `model`, which is left as it is.

    Args:
        model: takes one tensor; other arguments of its `forward` go into `values`.
        example_inputs: (1, ...) one input, or a sequence of one.
        ratio: share of the channels that goes, 0 <= ratio < 1.
        score: importance of a channel: "gamma" (batch-norm scale, after sparse training), "l1", "l2", "fpgm",
            "random", products such as "gamma_x_l1", or a scorer such as `taylor_scores(...)`.
        scope: names of the parts to prune, such as "backbone"; None for all.
        exclude: names of modules, or types, whose layers stay as wide as they are.
        align: kept widths are multiples of it.
        scheme: "uniform": each group of layers loses `ratio`; "global": one threshold over all scores.
        config: instead of `ratio`, as pruners' users know it: a list of dicts with "sparsity" (or "ratio")
            and "op_types" or "op_names", later ones count, {"exclude": True, ...} leaves layers alone.
        interface: whether layers outside of `scope` that read what goes are narrowed with it ("follow") or
            what they read stays ("keep").
        layer_keep: for "global", the share of its channels that a layer keeps at least.
        least: channels that a layer keeps at least.
        folding: "interior": constants of removed channels move into the layers behind; "off": they are lost.
        values: other arguments of `forward`, fixed.
        seed: of random scores.

    Returns:
        The pruned network, its plan and a report.

    Raises:
        PruningError: it cannot be traced, an option names nothing, or the result fails its proof.
    """
    example = _only(example_inputs)
    whole = FxSubject.of(model, example, values)
    parts = _Parts(model, list(whole.graph.layers))
    shares = _shares(parts, ratio, scope, exclude, config)
    pinned = _outside(whole, shares, interface)
    subject = FxSubject.of(whole.model, example, pinned=pinned)
    scorer = named_scorer(score, {"random": random_scores(seed)}) if isinstance(score, str) else score
    policy = _policy(shares, scheme, ratio, layer_keep)
    result = prune(subject, [policy], scorer, folding=folding, align=align, least=least, may_keep_all=True)
    difference = _difference(result, example)
    if not difference <= EQUAL:
        fact = f"the pruned network differs from the zeroed one by {difference:.1e} of the largest output"
        raise PruningError(f"{type(model).__name__}: {fact}; exclude the layers around it, and report it")
    pruned = finished(model, subject, result.keep, result.compact)
    plan = Plan.of(subject, result.keep, values or {})
    return SlimResult(pruned, plan, _report(whole, result, difference))


def gamma_penalty(
    model: nn.Module, example: Tensor, s: float, scope: str | Sequence[str] | None = None
) -> GammaPenalty:
    """The sparsity penalty on the gammas that `slim(score="gamma")` will judge, for training.

    In every step, between `loss.backward()` and `optimizer.step()`: `penalty.add_to_gradients()`.

    Args:
        model: the network in training.
        example: (1, ...) an input.
        s: weight of the penalty, 1e-4 .. 1e-3.
        scope: names of the parts to prune; None for all.
    """
    subject = FxSubject.of(model, example)
    parts = _Parts(model, list(subject.graph.layers))
    names = parts.named(_words(scope)) if scope else parts.layers
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


def _words(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


@dataclass(frozen=True)
class _Parts:
    """Layers by what users call them: names or types of modules that they are or lie in."""

    model: nn.Module
    layers: list[str]

    def named(self, names: Iterable[str]) -> list[str]:
        """Layers of these names, or inside of modules of these names."""
        found = []
        for wanted in names:
            inside = [name for name in self.layers if name == wanted or name.startswith(f"{wanted}.")]
            if not inside:
                fact = f"{wanted!r}: is or holds no layer"
                raise PruningError(f"{fact}; the layers are {', '.join(self.layers)}")
            found += inside
        return found

    def of_types(self, kinds: Iterable[str | type[nn.Module]]) -> list[str]:
        """Layers that are, or lie in, modules of one of these types."""
        wanted, modules = set(kinds), dict(self.model.named_modules())

        def is_one(name: str) -> bool:
            parts = name.split(".")
            chain = (type(modules[".".join(parts[:count])]) for count in range(1, len(parts) + 1))
            return any(kind in wanted or kind.__name__ in wanted for kind in chain)

        return [name for name in self.layers if is_one(name)]


def _shares(
    parts: _Parts,
    ratio: float,
    scope: str | Sequence[str] | None,
    exclude: Iterable[str | type[nn.Module]],
    config: Sequence[Mapping[str, Any]] | None,
) -> dict[str, float]:
    """Share of each layer's channels that goes: an excluded one has 0, one outside of `scope` none at all."""
    if not 0 <= ratio < 1:
        raise PruningError(f"ratio {ratio}: give a share from 0 to below 1")
    inside = set(parts.named(_words(scope)) if scope else parts.layers)
    shares = dict.fromkeys(
        (name for name in parts.layers if name in inside), ratio if config is None else 0.0
    )
    for entry in config or ():
        shares |= {name: _entry_share(entry) for name in _entry_layers(parts, entry) if name in inside}
    for wanted in exclude:
        gone = parts.of_types([wanted]) if isinstance(wanted, type) else parts.named([wanted])
        shares |= dict.fromkeys((name for name in gone if name in inside), 0.0)
    return shares


def _entry_share(entry: Mapping[str, Any]) -> float:
    if entry.get("exclude"):
        return 0.0
    share = entry.get("sparsity", entry.get("ratio"))
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise PruningError(f"config {dict(entry)}: give a sparsity from 0 to below 1, or exclude")
    return float(share)


def _entry_layers(parts: _Parts, entry: Mapping[str, Any]) -> set[str]:
    """Those that an entry speaks of: of its types and of its names, where it has both."""
    unknown = entry.keys() - {"sparsity", "ratio", "exclude", "op_types", "op_names"}
    if unknown:
        raise PruningError(f"config {dict(entry)}: {', '.join(sorted(unknown))} is not known")
    found = set(parts.layers)
    if "op_names" in entry:
        found &= set(parts.named(entry["op_names"]))
    if "op_types" in entry and "default" not in entry["op_types"]:
        found &= set(parts.of_types(entry["op_types"]))
    return found


def _outside(subject: FxSubject, shares: Mapping[str, float], interface: str) -> list[str]:
    """Layers to pin: those excluded, and what is read from outside where the interface is kept."""
    graph = subject.graph
    pinned = [name for name, share in shares.items() if share == 0]
    if interface == "keep":
        read = [layer.inputs for name, layer in graph.layers.items() if name not in shares]
        units = np.unique(np.concatenate([np.zeros(0, dtype=np.intp), *read]))
        pinned += [name for name in shares if np.isin(graph.layers[name].outputs, units).any()]
    return pinned


def _policy(shares: Mapping[str, float], scheme: str, ratio: float, layer_keep: float) -> Policy:
    if scheme == "uniform":
        return GroupShares(shares)
    threshold = GlobalThreshold(ratio, layer_keep=layer_keep)
    return lambda seen, scores: threshold(seen, {name: scores[name] for name in scores if shares.get(name)})


def _difference(result: PruningResult[FxSubject], example: Tensor) -> float:
    """Between the zeroed network and the compact one, on a random input."""
    images = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    outputs = [outputs_in_float64(each.model, images) for each in (result.compact, result.folded)]
    return relative_difference(*outputs)


def _report(subject: FxSubject, result: PruningResult[FxSubject], difference: float) -> SlimReport:
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
        not_followed=subject.not_followed,
        pins=tuple(dict.fromkeys(graph.pin_reasons.values())),
        unfolded=result.unfolded,
    )
