"""The doctor's checks that take more than one package: pruning of a cfg, its anchors on a data set."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...darknet.anchors import anchor_lines, slots
from ...darknet.edit import residual_blocks
from ...darknet.network import Network
from ...data.checks import DataCheck
from ...detection.anchors import AnchorFit, anchor_fit, suggest_anchors
from ...frontends.darknet.subject import trace
from ...pruning.scores import unit_scores


@dataclass(frozen=True)
class Anchors:
    """The anchors of a network against the objects of a split, and better ones.

    Attributes:
        sizes: the better ones in pixels, in the order of `darknet.anchors.slots`.
        lines: the same as values of `anchors=`, one text for each list of the cfg.
    """

    split: str
    objects: int
    current: AnchorFit
    suggested: AnchorFit
    sizes: tuple[tuple[float, float], ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Prunable:
    """Prunable units of a network.

    Attributes:
        units: sets of tied channels; the other counts are of these.
        scored: not pinned, with a batch norm whose gamma decides.
        coupled: tied by shortcuts; prune.py leaves them alone, slim_prune.py does not.
        reasons: why units are pinned -> how many.
        blocks: residual blocks that layer_prune.py can remove.
    """

    units: int
    scored: int
    coupled: int
    pinned: int
    reasons: Mapping[str, int]
    blocks: int


def prunable_units(network: Network) -> Prunable:
    """Count the units of a network by what pruning may do with them."""
    graph = trace(network)
    gammas = {
        name: np.zeros(len(layer.outputs), np.float32) for name, layer in graph.layers.items() if layer.norm
    }
    scored = np.isfinite(unit_scores(graph, gammas))  # a writer without gamma keeps its units
    reasons = Counter(reason.replace("layers.", "#") for reason in graph.pin_reasons.values())
    return Prunable(
        units=graph.unit_count,
        scored=int((scored & ~graph.pinned).sum()),
        coupled=int(graph.coupled.sum()),
        pinned=int(graph.pinned.sum()),
        reasons=dict(reasons),
        blocks=len(residual_blocks(network)),
    )


def check_anchors(network: Network, data: DataCheck) -> Anchors | None:
    """None where there is nothing to compare: no head, or no object."""
    for split in data.splits:
        sizes = split.object_sizes((network.height, network.width), network.letterbox)
        if len(sizes) and network.heads:
            current = np.array(slots(network))
            suggested = suggest_anchors(sizes, current)
            pairs = tuple((width, height) for width, height in suggested.tolist())
            return Anchors(
                split.name,
                len(sizes),
                anchor_fit(sizes, current),
                anchor_fit(sizes, suggested),
                pairs,
                anchor_lines(network, pairs),
            )
    return None
