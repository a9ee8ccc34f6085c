"""Distillation on feature maps, without adapters: a pruned student's channels are a subset of its teacher's.

Invariant: the loss is 0 exactly if each of the student's maps equals the kept channels of the teacher's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..darknet.network import Network
from ..darknet.sections import Convolutional
from ..errors import ToolkitError
from ..pruning.channels import decode_mask

# The total loss is about 1 early in a training; so is this one.
FEATURE_WEIGHT = 0.5
# minimum of a channel, as a fraction of its layer's mean: a nearly constant one must not dominate
LEAST_DEVIATION = 0.05


@dataclass(frozen=True)
class ChannelPair:
    """Two modules whose feature maps are compared.

    Attributes:
        student, teacher: names of the modules in their networks.
        kept: (teacher's channels,) bool, those that the student still has, in order.
    """

    student: str
    teacher: str
    kept: NDArray[np.bool_]


class FeatureMatch:
    """Captures and compares the feature maps of paired modules of two networks."""

    def __init__(self, student: nn.Module, teacher: nn.Module, pairs: Sequence[ChannelPair]) -> None:
        self._networks = student, teacher
        self._pairs = tuple(pairs)
        self._maps: dict[tuple[int, int], Tensor] = {}

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture the maps of all forward passes inside; the hooks are removed afterwards."""
        hooks = []
        for side, network in enumerate(self._networks):
            for number, pair in enumerate(self._pairs):
                module = network.get_submodule((pair.student, pair.teacher)[side])
                hooks.append(module.register_forward_hook(self._keeper((number, side))))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self) -> Tensor:
        """Mean over the pairs of the mean squared difference in standard deviations of each channel.

        Discards the captured maps. The deviation is that of the teacher's channel over the batch and all
        cells, so that layers and channels have equal weight.
        """
        parts = []
        for number, pair in enumerate(self._pairs):
            mine, other = self._maps[number, 0].float(), self._maps[number, 1].float()
            kept = torch.from_numpy(pair.kept).to(other.device)
            other = other[:, kept]
            deviation = other.std(dim=(0, 2, 3), keepdim=True)
            deviation = torch.maximum(deviation, LEAST_DEVIATION * deviation.mean()).clamp(min=1e-6)
            parts.append(((mine - other) / deviation).square().mean())
        self._maps.clear()
        return FEATURE_WEIGHT * torch.stack(parts).mean()

    def _keeper(self, key: tuple[int, int]) -> Any:
        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            self._maps[key] = output

        return keep


def neck_layers(network: Network) -> tuple[int, ...]:
    """For each head, the convolution whose map its 1x1 output convolution reads, each once, in order."""
    found: dict[int, None] = {}
    for head in network.heads:
        index = _last_convolution(network, network.sources(head)[0])
        if index >= 0:
            found[_last_convolution(network, network.sources(index)[0])] = None
    return tuple(index for index in found if index >= 0)


def pairs_from_report(
    report: Mapping[str, Any], student: Network, teacher: Network, source: str
) -> tuple[ChannelPair, ...]:
    """Pairs of neck layers, from the JSON that a pruning run wrote beside the student's weights.

    Args:
        report: the JSON.
        student, teacher: the pruned network, and the one that it was pruned from.
        source: name of the report, for messages.

    Raises:
        ToolkitError: the report is invalid, or of other networks.
    """
    try:
        changes = [
            (entry["index"], entry["removed"], decode_mask(entry["kept"])) for entry in report["sections"]
        ]
    except (KeyError, TypeError, ValueError):
        fact = "not the report of a pruning run"
        raise ToolkitError(source, fact, "give the .json beside the pruned weights") from None
    left = [(index, mask) for index, removed, mask in changes if not removed]
    own = [i for i, section in enumerate(student.sections) if isinstance(section, Convolutional)]
    fits = len(own) == len(left) and all(
        0 <= index < len(teacher)
        and teacher.channels(index) == len(mask)
        and student.channels(mine) == int(mask.sum())
        for mine, (index, mask) in zip(own, left, strict=True)
    )
    if not fits:
        fact = "does not describe how this student was pruned from this teacher"
        raise ToolkitError(
            source,
            fact,
            (
                "give as teacher the network before pruning and as student its result; after several "
                "pruning runs, the network before the last one"
            ),
        )
    origin = dict(zip(own, left, strict=True))
    return tuple(
        ChannelPair(f"layers.{mine}", f"layers.{origin[mine][0]}", origin[mine][1])
        for mine in neck_layers(student)
    )


def _last_convolution(network: Network, index: int) -> int:
    """The convolution that produced tensor `index`, back through sections with one main source; -1: none."""
    while index >= 0 and not isinstance(network[index], Convolutional):
        index = network.sources(index)[0]
    return index
