"""Parameters that do not learn, for ever or up to some step.

Invariant: a frozen parameter is bitwise the same after an optimizer step: without a gradient the optimizer
passes it over, weight decay, momentum and sparsity penalty included.
"""

import logging
from collections import Counter

from torch import nn

from ..darknet.freezing import NEVER, learns_from
from ..darknet.model import Darknet
from ..errors import ToolkitError

logger = logging.getLogger(__name__)


class Freezing:
    """The parameters of a network that wait: those that wait for ever lose `requires_grad` at once."""

    def __init__(self, model: Darknet, first: int = 0) -> None:
        """Read the network's cfg, see `darknet.freezing`.

        Args:
            model: the network.
            first: so many sections at its start never learn, as if `stopbackward=1` stood behind them.

        Raises:
            ToolkitError: nothing is left to learn.
        """
        self._waiting: list[tuple[int, nn.Parameter]] = []
        # Darknet lets statistics of sections behind stopbackward go on, so only --freeze holds them
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
            fact = "--freeze, stopbackward or the like leaves no section that learns"
            raise ToolkitError(model.network.source, fact, "leave the option out for training")
        for start, count in sorted(Counter(starts).items()):
            if start:
                until = "never learn" if start == NEVER else f"learn from step {start} on"
                logger.info("%s: %d of its %d sections %s", model.network.source, count, len(starts), until)

    def hold(self) -> None:
        """Keep the statistics of the first sections' batch norms; call it after each `model.train()`."""
        for norm in self._still:
            norm.eval()

    def drop_gradients(self, step: int) -> None:
        """Forget the gradients of all parameters that do not learn yet at `step`, counted from 0."""
        for start, parameter in self._waiting:
            if step < start:
                parameter.grad = None
