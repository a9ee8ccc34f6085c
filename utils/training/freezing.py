"""Frozen parameters: for the whole training, or up to some step.

Invariant: a frozen parameter is bitwise unchanged by an optimizer step: without a gradient the optimizer
skips it, including weight decay, momentum and sparsity penalty.
"""

import logging
from collections import Counter

from torch import nn

from ..darknet.model import Darknet
from ..darknet.network import NEVER, learns_from
from ..errors import ToolkitError

logger = logging.getLogger(__name__)


class Freezing:
    """The frozen parameters of a network; those that never learn lose `requires_grad` at once."""

    def __init__(self, model: Darknet, first: int = 0) -> None:
        """Read the network's cfg, see `darknet.freezing`.

        Args:
            model: the network.
            first: number of sections at its start to freeze, as if `stopbackward=1` followed them.

        Raises:
            ToolkitError: all parameters are frozen.
        """
        self._waiting: list[tuple[int, nn.Parameter]] = []
        # Darknet updates the statistics of sections behind stopbackward; only --freeze stops that
        self._still = [
            module
            for layer in model.layers[:first]
            for module in layer.modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        starts = tuple(
            NEVER if index < first else start for index, start in enumerate(learns_from(model.network))
        )
        for layer, start in zip(model.layers, starts, strict=True):
            for parameter in layer.parameters() if start else ():
                self._waiting.append((start, parameter))
                if start == NEVER:
                    parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            fact = "all sections are frozen by --freeze, stopbackward or the like"
            raise ToolkitError(model.network.source, fact, "leave the option out")
        for start, count in sorted(Counter(starts).items()):
            if start:
                until = "frozen" if start == NEVER else f"frozen up to step {start}"
                logger.info("%s: %d of %d sections are %s", model.network.source, count, len(starts), until)

    def hold(self) -> None:
        """Freeze the batch-norm statistics of the first sections; call it after each `model.train()`."""
        for norm in self._still:
            norm.eval()

    def drop_gradients(self, step: int) -> None:
        """Remove the gradients of all parameters that are frozen at `step`, counted from 0."""
        for start, parameter in self._waiting:
            if step < start:
                parameter.grad = None
