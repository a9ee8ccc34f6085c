"""How good a network is between two epochs, as evaluate.py will find it again."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..data.loader import Loader
from ..detection.decode import HeadSpec, decode_heads
from ..detection.evaluator import Evaluation, evaluate
from .processes import Processes


def validate(
    model: nn.Module,
    loader: Loader,
    specs: tuple[HeadSpec, ...],
    names: tuple[str, ...],
    processes: Processes | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Evaluate a network in Darknet style and full precision, as evaluate.py will find it again.

    Where several processes train, each sees its share of the images, and all get the whole result.
    `progress` is called after each batch with its number of images.
    """
    device = next(model.parameters()).device

    def predict(images: Tensor) -> Tensor:
        return decode_heads(model(images.to(device, memory_format=torch.channels_last)), specs)

    model.eval()
    merge = (processes or Processes()).merged
    return evaluate(predict, loader, names, style="darknet", specs=specs, progress=progress, merge=merge)
