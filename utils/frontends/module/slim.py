"""Prune any network in one call and compare the result with the zeroed network: the API of `slim.py`."""

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.channels import ChannelGraph, WidthLimits
from ...pruning.policies import GlobalThreshold, GroupRatios, Policy, candidate_channels, judged_channels
from ...pruning.recalibrate import recalibrate
from ...pruning.scores import Scorer, named_scorer, random_scores, taylor_scores
from ...pruning.subject import BlockPlan, ChannelPlan, LayerScores, Subject
from ...pruning.surgery import Folding, PruningResult, prune
from .budget import LIMITS, limits_of, within_budget
from .inputs import Inputs, require_sound, unwrapped
from .proof import DifferenceError, Verify
from .result import SlimResult, report_of
from .rounds import changes_of_round, in_rounds
from .run import Norms, Rule
from .subject import ModuleSubject, Plan, prune_settled

Scheme = Literal["uniform", "global", "guarded"]
Interface = Literal["follow", "keep"]
_CHOICES = {
    "scheme": get_args(Scheme),
    "interface": get_args(Interface),
    "folding": get_args(Folding),
    "verify": get_args(Verify),
    "norms": get_args(Norms),
}
_KEYS = ("sparsity", "ratio", "exclude", "op_types", "op_names")  # of a config entry


@dataclass(frozen=True)
class SlimOptions:
    """The keywords of `slim`, checked.

    Attributes:
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
        norms: channels that layer norms and their kin compute statistics over stay ("exact"), or may go:
            then the statistics are of those that are left ("approximate"), and the report says by how much
            the outputs change for that.
        max_macs, max_params: instead of `ratio`, limits of multiply-adds (of layers) and parameters, such as
            "40%" or 1.5e6; the channels with the least score for what they cost go first.
        max_ms: limit of milliseconds, or a share as "60%", measured with one example on `runtime` ("torch",
            "onnxruntime", "openvino", "tensorrt") with `threads` threads.
        loss: of a network, over your batches, a scalar; for the score "taylor".
        recalibrate: batches of inputs; batch norms of the result take their statistics from them.
        iterative, tune: rounds of pruning, by equal factors, and what trains a network after each, in place.
        rules: operation, such as torch.ops.mylib.op, or type of modules -> a function that says what happens
            to its channels; for what is not known here.

    Raises:
        PruningError: a value is out of range or not one of those allowed.
    """

    ratio: float = 0.5
    score: str | Scorer = "l1"
    scope: str | Sequence[str] | None = None
    exclude: Iterable[str | type[nn.Module]] = ()
    align: int = 8
    scheme: Scheme = "uniform"
    config: Sequence[Mapping[str, Any]] | None = None
    interface: Interface = "follow"
    layer_keep: float = 0.1
    min_channels: int = 1
    folding: Folding = "interior"
    values: Mapping[str, Any] | None = None
    seed: int = 0
    verify: Verify = "full"
    norms: Norms = "exact"
    max_macs: str | float | None = None
    max_params: str | float | None = None
    max_ms: str | float | None = None
    runtime: str = "torch"
    threads: int = 1
    loss: Callable[[nn.Module], Tensor] | None = None
    recalibrate: Iterable[Tensor] = ()
    iterative: int = 1
    tune: Callable[[nn.Module], object] | None = None
    rules: Mapping[Any, Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                remedy = f"use {', '.join(allowed)}"
                raise PruningError(f"{name} {getattr(self, name)!r}", "invalid value", remedy)
        for name in ("align", "min_channels", "iterative", "threads"):
            count = getattr(self, name)
            if not isinstance(count, int) or count < 1:
                raise PruningError(f"{name} {count}", "invalid value", "give a whole number from 1")
        if not _is_ratio(self.ratio):
            raise PruningError(f"ratio {self.ratio!r}", "invalid value", "give a number from 0 to below 1")
        if self.iterative > 1 and self.tune is None:
            fact = "trains nothing between its rounds"
            raise PruningError(f"iterative {self.iterative}", fact, "give tune, a function of the network")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise PruningError(f"seed {self.seed!r}", "invalid value", "give a whole number from 0")
        if not 0 <= self.layer_keep <= 1:
            raise PruningError(f"layer_keep {self.layer_keep}", "invalid value", "give a number from 0 to 1")


def _is_ratio(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < 1


def slim(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | Inputs,
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
    norms: Norms = "exact",
    max_macs: str | float | None = None,
    max_params: str | float | None = None,
    max_ms: str | float | None = None,
    runtime: str = "torch",
    threads: int = 1,
    loss: Callable[[nn.Module], Tensor] | None = None,
    recalibrate: Iterable[Tensor] = (),
    iterative: int = 1,
    tune: Callable[[nn.Module], object] | None = None,
    rules: Mapping[Any, Rule] | None = None,
    least: int | None = None,
) -> SlimResult:
    """Remove channels from a copy of `model`; slim.py has a manual.

    Args:
        model: any network.
        example_inputs: (1, ...) a tensor, a sequence of the positional arguments of its `forward`, or a dict
            of keyword arguments: tensors, numbers, and lists and dicts of them.
        least: older name of `min_channels`; all others are those of `SlimOptions`.

    Raises:
        PruningError: the network cannot be traced, an option is invalid, or the result is not equal to the
            zeroed network.
    """
    options = SlimOptions(
        ratio=ratio, score=score, scope=scope, exclude=exclude, align=align, scheme=scheme, config=config,
        interface=interface, layer_keep=layer_keep, min_channels=min_channels if least is None else least,
        folding=folding, values=values, seed=seed, verify=verify, norms=norms,
        max_macs=max_macs, max_params=max_params, max_ms=max_ms, runtime=runtime, threads=threads,
        loss=loss, recalibrate=recalibrate, iterative=iterative, tune=tune, rules=rules or {},
    )  # fmt: skip
    model, inputs = unwrapped(model), Inputs.of(example_inputs, options.values)
    require_sound(model)
    if options.tune is None:
        return _slimmed(model, inputs, options)
    of_round = replace(options, **changes_of_round(options.iterative, vars(options)), iterative=1, tune=None)
    found = in_rounds(model, options.iterative, lambda each: _slimmed(each, inputs, of_round), options.tune)
    return replace(found, report=replace(found.report, asked=options.ratio))


def _slimmed(model: nn.Module, inputs: Inputs, options: SlimOptions) -> SlimResult:
    """Prune once; in evaluation mode, since in training mode spectral norms change when they are read."""
    modes, collects = [module.training for module in model.modules()], gc.isenabled()
    gc.disable()  # among torch's many objects a collection takes longer than a trace
    try:
        result = _slimmed_in_evaluation(model.eval(), inputs, options)
    finally:
        if collects:
            gc.enable()
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
    for module, mode in zip(result.model.modules(), modes, strict=True):
        module.training = mode
    return result


def _slimmed_in_evaluation(model: nn.Module, inputs: Inputs, options: SlimOptions) -> SlimResult:
    started = time.perf_counter()
    whole = ModuleSubject.of(model, inputs, norms=options.norms, rules=options.rules)
    ratios = ratios_of(Parts(model, list(whole.graph.layers)), options)
    subject = whole.pinning(pinned_layers(whole.graph, ratios, options.interface))

    scorer = _scorer(options)
    widths = WidthLimits(options.align, options.min_channels, options.layer_keep)
    given = {name: value for name in LIMITS if (value := getattr(options, name)) is not None}
    limits = limits_of(given) if given else {}
    measured: list[str] = []

    def cut(subject: ModuleSubject) -> PruningResult[ModuleSubject]:
        policy = _policy(ratios, options.scheme, options.layer_keep)
        if limits:
            inside = subject.pinning(set(subject.graph.layers) - set(ratios))
            is_local = options.loss is not None
            keep, measured[:] = within_budget(
                inside, limits, scorer, widths, is_local, options.runtime, options.threads
            )
            policy = ChannelPlan(keep).itself
        return prune(
            subject,
            [policy],
            scorer,
            folding=options.folding,
            align=options.align,
            min_channels=options.min_channels,
            may_keep_all=True,
        )

    asked = 0.0 if limits else max(ratios.values(), default=0.0)
    subject, result = prune_settled(subject, cut)
    cut_at = time.perf_counter()
    try:
        report = report_of(model, subject, result, options.verify, asked)
    except DifferenceError:
        kept = subject.with_numbers_kept()
        if (kept.graph.pinned == subject.graph.pinned).all():
            raise
        subject, result = prune_settled(kept, cut)
        report = report_of(model, subject, result, options.verify, asked)
    seconds = {"trace, plan and cut": cut_at - started, "proof": time.perf_counter() - cut_at}
    report = replace(report, seconds=seconds, limits=(*measured, *report.limits))
    if batches := list(options.recalibrate):
        recalibrate(result.compact.model, batches)
    plan = Plan.of(subject, result.keep, options.norms, result.compact.model)
    masks = {name: result.keep[layer.outputs] for name, layer in subject.graph.layers.items()}
    judged = judged_channels(subject.graph, result.scores, masks)
    score = options.score if isinstance(options.score, str) else "own score"
    return SlimResult(result.compact.model, plan, report, score, *judged)


def _scorer(options: SlimOptions) -> Scorer:
    score, loss = options.score, options.loss
    if not isinstance(score, str):
        return score
    more = {"random": random_scores(options.seed)}
    if loss is not None:
        more["taylor"] = taylor_scores([None], lambda model, _: loss(model))
    elif "taylor" in score.split("_x_"):
        raise PruningError(f"score {score}", "needs a loss", "give loss, a function of the network")
    named = named_scorer(score, more)

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


@dataclass(frozen=True)
class Parts:
    """Layers by the names or types of the modules that they are or are inside of."""

    model: nn.Module
    layers: list[str]

    def named(self, names: Iterable[str]) -> list[str]:
        """Layers of these names, or inside of modules of these names."""
        found = []
        for wanted in names:
            inside = [name for name in self.layers if name == wanted or name.startswith(f"{wanted}.")]
            if not inside:
                fact = "is not a layer and contains none"
                raise PruningError(f"{wanted!r}", fact, f"the layers are {', '.join(self.layers)}")
            found += inside
        return found

    def of_types(self, kinds: Iterable[str | type[nn.Module]]) -> list[str]:
        """Layers that are, or are inside of, modules of one of these types."""
        wanted, modules = set(kinds), dict(self.model.named_modules())

        def is_one(name: str) -> bool:
            parts = name.split(".")
            chain = (type(modules[".".join(parts[:count])]) for count in range(1, len(parts) + 1))
            return any(kind in wanted or kind.__name__ in wanted for kind in chain)

        return [name for name in self.layers if is_one(name)]


def words(names: str | Sequence[str]) -> list[str]:
    """One name or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def ratios_of(parts: Parts, options: SlimOptions) -> dict[str, float]:
    """Ratio of each layer: 0 for an excluded one; layers outside of `scope` have no entry."""
    inside = set(parts.layers if options.scope is None else parts.named(words(options.scope)))
    ratio = options.ratio if options.config is None else 0.0
    ratios = dict.fromkeys((name for name in parts.layers if name in inside), ratio)
    for entry in options.config or ():
        meant = _entry_layers(parts, entry)
        ratios |= dict.fromkeys(
            (name for name in parts.layers if name in meant & inside), _entry_ratio(entry)
        )
    exclude = options.exclude
    for wanted in [exclude] if isinstance(exclude, str | type) else exclude:
        excluded = parts.of_types([wanted]) if isinstance(wanted, type) else parts.named([wanted])
        ratios |= dict.fromkeys((name for name in excluded if name in inside), 0.0)
    return ratios


def _entry_ratio(entry: Mapping[str, Any]) -> float:
    place = f"config {dict(entry)}"
    if entry.get("exclude"):
        if {"sparsity", "ratio"} & entry.keys():
            raise PruningError(place, "has both a sparsity and exclude", "remove one of them")
        return 0.0
    ratio = entry.get("sparsity", entry.get("ratio"))
    if ratio is None or not _is_ratio(ratio):
        fact = "no sparsity" if ratio is None else "sparsity out of range"
        raise PruningError(place, fact, "give a sparsity from 0 to below 1, or exclude")
    return float(ratio)


def _entry_layers(parts: Parts, entry: Mapping[str, Any]) -> set[str]:
    """Layers that a config entry applies to; with both types and names, those that match both."""
    if not isinstance(entry, Mapping):
        raise PruningError(f"config {entry!r}", "not a dict", "give a list of dicts")
    place = f"config {dict(entry)}"
    unknown = sorted(entry.keys() - set(_KEYS))
    if unknown:
        raise PruningError(place, f"unknown key {', '.join(unknown)}", f"use {', '.join(_KEYS)}")
    if entry.keys() == {"exclude"}:
        raise PruningError(place, "excludes nothing by name", "give op_names or op_types")
    found = set(parts.layers)
    if "op_names" in entry:
        found &= set(parts.named(entry["op_names"]))
    if "op_types" in entry and "default" not in entry["op_types"]:
        found &= set(parts.of_types(entry["op_types"]))
    if not found:
        kinds = sorted({type(parts.model.get_submodule(name)).__name__ for name in parts.layers})
        remedy = f"the layers are {', '.join(parts.layers)}, of types {', '.join(kinds)}"
        raise PruningError(place, "matches no layer", remedy)
    return found


def pinned_layers(graph: ChannelGraph, ratios: Mapping[str, float], interface: Interface) -> list[str]:
    """Layers to pin: the excluded ones, and under "keep" those that layers outside of the scope read."""
    pinned = [name for name, ratio in ratios.items() if ratio == 0]
    if interface == "keep":
        read = [layer.inputs for name, layer in graph.layers.items() if name not in ratios]
        units = np.unique(np.concatenate([np.zeros(0, dtype=np.intp), *read]))
        pinned += [name for name in ratios if np.isin(graph.layers[name].outputs, units).any()]
    return pinned
