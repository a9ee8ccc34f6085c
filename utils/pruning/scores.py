"""Scores: the importance of each output channel of each layer.

A scorer is a callable from a subject to `LayerScores`: one score per output channel of each layer that it can
score. A layer without a score has no candidates and always votes to keep. A gate without a score, such
as that of squeeze-and-excitation, has no vote: the layer that it scales decides alone.

Gammas and Taylor terms are comparable across layers. Norms and distances of filters depend on the size of a
layer's kernels, so they are divided by the layer's mean: 1 is an average channel.

The product of two scores is written with `_x_`, such as "gamma_x_l1".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import PruningError
from .channels import ChannelGraph, ChannelIds, UnitScores
from .layers import BATCH_NORMS, filters
from .subject import LayerScores, Merge, Subject

Scorer = Callable[[Subject], LayerScores]
Batch = TypeVar("Batch")


def gamma_scores(subject: Subject) -> LayerScores:
    """|gamma| of the batch norm after each layer (Network Slimming, Liu et al. 2017)."""
    return {name: _floats(norm.weight.detach().abs()) for name, norm in _norms(subject).items()}


def l1_scores(subject: Subject) -> LayerScores:
    """Sum of the absolute weights of each filter (Li et al. 2017), relative to the layer's mean."""
    return _relative(subject, lambda rows: rows.abs().sum(1))


def l2_scores(subject: Subject) -> LayerScores:
    """Euclidean norm of each filter, relative to the layer's mean."""
    return _relative(subject, lambda rows: rows.square().sum(1).sqrt())


def fpgm_scores(subject: Subject) -> LayerScores:
    """Sum of distances of each filter to all others of its layer, relative to the layer's mean.

    A filter near the geometric median can be replaced by the others (FPGM, He et al. 2019).
    """
    return _relative(subject, lambda filters: torch.cdist(filters, filters).sum(1))


def group_scores(subject: Subject) -> LayerScores:
    """Mean magnitude of all weights of a channel: its filters, its gammas, and its readers' weights.

    The mean of their sums of absolute values, each relative to its own layer's mean (after DepGraph, Fang et
    al. 2023, which adds absolute values). Tied channels get one score.
    """
    graph, norms = subject.graph, _norms(subject)
    totals, counts = np.zeros(graph.unit_count), np.zeros(graph.unit_count)

    def add(units: ChannelIds, weights: Tensor) -> None:
        sums = weights.detach().float().abs().sum(1).cpu().double().numpy()
        np.add.at(totals, units, sums / max(sums.mean(), np.finfo(np.float64).tiny))
        np.add.at(counts, units, 1)

    for name, layer in graph.layers.items():
        weight = filters(subject.model.get_submodule(name))
        if name in norms:
            add(layer.outputs, norms[name].weight.unsqueeze(1))
        if not weight.numel():  # a ChannelSelection
            continue
        add(layer.outputs, weight.flatten(1))
        if not layer.depthwise:
            parts = weight.reshape(layer.groups, -1, *weight.shape[1:])  # (groups, out, in, ...)
            add(layer.inputs, parts.transpose(1, 2).flatten(0, 1).flatten(1))
    means = (totals / np.maximum(counts, 1)).astype(np.float32)
    return {name: means[layer.outputs] for name, layer in graph.layers.items()}


def random_scores(seed: int) -> Scorer:
    """Uniform random scores: the baseline that every other score has to beat."""

    def score(subject: Subject) -> LayerScores:
        generator = np.random.default_rng(seed)
        layers = subject.graph.layers.items()
        return {name: generator.random(len(layer.outputs), dtype=np.float32) for name, layer in layers}

    return score


def taylor_scores(batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor]) -> Scorer:
    """First-order change of the loss when a channel becomes the constant that folding leaves.

    That is |gamma * dL/dgamma|, averaged over the batches (Molchanov et al. 2019, with the gate on gamma
    alone, as beta remains in the folded constant); |sum(w * dL/dw)| for a layer without norm.

    Args:
        batches: batches for the gradients; read once per scoring.
        loss: (network, batch) -> scalar.
    """

    def score(subject: Subject) -> LayerScores:
        gates = _gates(subject)
        totals = {name: torch.zeros(len(subject.graph.layers[name].outputs)) for name in gates}
        count = 0
        for batch in batches:
            count += 1
            terms = _taylor_terms(gates, partial(loss, subject.model, batch))
            for name, term in terms.items():
                totals[name] += term.cpu()
        if not count:
            raise PruningError("score taylor", "no batch to compute gradients on", "give a data set")
        return {name: _floats(total / count) for name, total in totals.items()}

    return score


def product(scorers: Sequence[Scorer]) -> Scorer:
    """The product of scores, channel by channel; a layer that one of them cannot score has none."""

    def score(subject: Subject) -> LayerScores:
        first, *others = [scorer(subject) for scorer in scorers]
        result = dict(first)
        for other in others:
            result = {name: values * other[name] for name, values in result.items() if name in other}
        return result

    return score


# scores that need only the weights
WEIGHT_SCORES: Mapping[str, Scorer] = MappingProxyType(
    {"gamma": gamma_scores, "l1": l1_scores, "l2": l2_scores, "fpgm": fpgm_scores, "group": group_scores}
)


def named_scorer(text: str, more: Mapping[str, Scorer] = MappingProxyType({})) -> Scorer:
    """The scorer of a name, or the product of several names joined by `_x_`.

    Args:
        text: such as "gamma" or "gamma_x_l1".
        more: scorers that need more than the weights, by name.

    Raises:
        PruningError: a name is unknown.
    """
    known = {**WEIGHT_SCORES, **more}
    names = text.split("_x_")
    for name in names:
        if name not in known:
            fact = f"unknown score {name!r}"
            raise PruningError(
                f"score {text}", fact, f"use {', '.join(known)}, or several of them joined by _x_"
            )
    return known[names[0]] if len(names) == 1 else product([known[name] for name in names])


def chain_scores(graph: ChannelGraph, scores: LayerScores) -> NDArray[np.float32]:
    """(chains,) score of each serial chain: the lowest of its layers', NaN without any."""
    lowest = np.full(len(graph.chain_units), np.inf, dtype=np.float32)
    scored = np.zeros(len(graph.chain_units), dtype=np.bool_)
    for name, values in scores.items():
        chains = graph.layers[name].chains
        np.minimum.at(lowest, chains, values)
        scored[chains] = True
    return np.where(scored, lowest, np.float32(np.nan))


def silent_chains(graph: ChannelGraph, chains: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(chains,) gates without a score, which have no vote."""
    return np.isnan(chains) & graph.gates


def merged_scores(graph: ChannelGraph, chains: NDArray[np.float32], merge: Merge) -> NDArray[np.float32]:
    """(chains,) the score that decides for each chain of a unit.

    "mean", "max" and "norm" (root of the sum of squares) give all chains of a unit the same score, NaN if one
    of them has none; under "union" and "leader" every chain keeps its own. A silent chain stays NaN.
    """
    if merge in ("union", "leader"):
        return chains
    counted, count = ~silent_chains(graph, chains), graph.unit_count
    units, values = graph.chain_units[counted], chains[counted]
    if merge == "mean":
        merged = np.bincount(units, values, count) / np.maximum(np.bincount(units, minlength=count), 1)
    elif merge == "norm":
        merged = np.sqrt(np.bincount(units, values.astype(np.float64) ** 2, count))
    else:
        merged = np.full(count, -np.inf)
        np.maximum.at(merged, units, values)
    return np.where(counted, merged[graph.chain_units], np.nan).astype(np.float32)


def unit_scores(graph: ChannelGraph, scores: LayerScores, merge: Merge = "max") -> UnitScores:
    """(units,) score of each unit, merged over its chains; inf if a chain has none.

    Silent chains count only for a unit without others: inf. "union" and "leader" count as "max".
    """
    own = chain_scores(graph, scores)
    chains, heard = merged_scores(graph, own, merge), ~silent_chains(graph, own)
    best = np.full(graph.unit_count, -np.inf)
    best[graph.chain_units] = np.inf
    best[graph.chain_units[heard]] = -np.inf
    values = np.where(np.isnan(chains), np.inf, chains).astype(np.float64)
    np.maximum.at(best, graph.chain_units[heard], values[heard])
    return best


def _norms(
    subject: Subject,
) -> dict[str, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm]:
    """Layer name -> the batch norm after it, if it has gammas (`weight`)."""
    modules = dict(subject.model.named_modules(remove_duplicate=False))
    norms = {name: modules.get(layer.norm or "") for name, layer in subject.graph.layers.items()}
    return {
        name: norm
        for name, norm in norms.items()
        if isinstance(norm, BATCH_NORMS) and norm.weight is not None
    }


def _relative(subject: Subject, measure: Callable[[Tensor], Tensor]) -> LayerScores:
    """A measure of each layer's filters (out, weights per filter), divided by its mean in the layer."""
    scores = {}
    for name in subject.graph.layers:
        weight = filters(subject.model.get_submodule(name))
        if not weight.numel():  # a ChannelSelection, which only the norm after it can score
            continue
        values = measure(weight.detach().float().flatten(1))
        scores[name] = _floats(values / values.mean().clamp(min=torch.finfo(torch.float32).tiny))
    return scores


def _gates(subject: Subject) -> dict[str, nn.Parameter]:
    """Layer name -> parameter of the Taylor term: gamma, or the weights of a layer without norm."""
    gates: dict[str, nn.Parameter] = {}
    norms = _norms(subject)
    for name in subject.graph.layers:
        weight = (norms[name] if name in norms else subject.model.get_submodule(name)).weight
        if isinstance(weight, nn.Parameter):  # a ChannelSelection has none
            gates[name] = weight
    return gates


def _taylor_terms(gates: Mapping[str, nn.Parameter], loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Layer name -> (out,) |sum(w * dL/dw)|; the .grad fields do not change."""
    unique = list({id(gate): gate for gate in gates.values()}.values())
    asked = [gate.requires_grad for gate in unique]
    try:
        for gate in unique:
            gate.requires_grad_(True)
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), unique, allow_unused=True)
    finally:
        for gate, before in zip(unique, asked, strict=True):
            gate.requires_grad_(before)
    by_gate = {id(gate): gradient for gate, gradient in zip(unique, gradients, strict=True)}
    terms = {}
    for name, gate in gates.items():
        gradient = by_gate[id(gate)]
        if gradient is not None:
            terms[name] = (gate.detach() * gradient).reshape(len(gate), -1).sum(1).abs().float()
    return terms


def _floats(values: Tensor) -> NDArray[np.float32]:
    return values.detach().float().cpu().numpy()
