"""Recalibration: batch-norm statistics re-estimated for a pruned network.

After EagleEye (Li et al. 2020): a few forward passes on training images, without gradients. With the
statistics of the unpruned network a pruned one often looks far worse than it is, which distorts rankings.

    with recalibrating(model):
        for images in calibration:
            model(images)

Invariant: afterwards mean and variance of every batch norm are the averages of the batches that ran inside;
without any, or after an exception, they are unchanged. Modes and momenta are restored.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..profiling import evaluating
from .layers import BATCH_NORMS


@contextmanager
def recalibrating(model: nn.Module) -> Iterator[nn.Module]:
    """Re-estimate statistics from the batches that run inside; only batch norms are in training mode."""
    norms = [
        module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats
    ]
    before = [
        (norm, norm.momentum, (norm.running_mean, norm.running_var, norm.num_batches_tracked))
        for norm in norms
    ]
    with evaluating(model):
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            # New tensors: the old ones may be shared with another network.
            norm.running_mean = torch.zeros_like(norm.running_mean)
            norm.running_var = torch.ones_like(norm.running_var)
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=norm.running_mean.device)
            norm.momentum = None  # a plain average over the batches
            norm.train()
        done = False
        try:
            yield model
            done = True
        finally:
            for norm, momentum, statistics in before:
                assert norm.num_batches_tracked is not None
                if not done or not int(norm.num_batches_tracked):
                    norm.running_mean, norm.running_var, norm.num_batches_tracked = statistics
                norm.momentum = momentum


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate the batch-norm statistics of `model` on batches of inputs, in place.

    Args:
        model: the network.
        batches: (B, C, H, W) each, with at least two values per channel.
    """
    with recalibrating(model), torch.no_grad():
        for images in batches:
            model(images)
