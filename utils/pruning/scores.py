"""How important is each output channel of each layer?

A layer without a score takes no part: it stays out of the pool, and its vote is always to keep.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from utils.pruning.channels import ChannelGraph, UnitScores
from utils.pruning.subject import LayerScores, Subject


def gamma_scores(subject: Subject) -> LayerScores:
    """|gamma| of the batch norm behind each layer (Network Slimming, Liu et al. 2017)."""
    modules = dict(subject.model.named_modules(remove_duplicate=False))
    scores: dict[str, NDArray[np.float32]] = {}
    for name, layer in subject.graph.layers.items():
        norm = modules[layer.norm] if layer.norm is not None else None
        if isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            scores[name] = norm.weight.detach().abs().float().cpu().numpy()
    return scores


def chain_scores(graph: ChannelGraph, scores: LayerScores) -> NDArray[np.float32]:
    """(chains,) score of each serial chain: the smallest of its layers', NaN where none has one."""
    lowest = np.full(len(graph.chain_units), np.inf, dtype=np.float32)
    scored = np.zeros(len(graph.chain_units), dtype=np.bool_)
    for name, values in scores.items():
        chains = graph.layers[name].chains
        np.minimum.at(lowest, chains, values)
        scored[chains] = True
    return np.where(scored, lowest, np.float32(np.nan))


def unit_scores(graph: ChannelGraph, scores: LayerScores) -> UnitScores:
    """(units,) score of each unit: the largest of its chains', inf where a chain has none."""
    best = np.full(graph.unit_count, -np.inf)
    chains = chain_scores(graph, scores).astype(np.float64)
    np.maximum.at(best, graph.chain_units, np.where(np.isnan(chains), np.inf, chains))
    return best
