"""What an exported file's boxes and scores are to `evaluator.evaluate`."""

import numpy as np
import torch
from torch import Tensor

from ..detection.evaluator import Predict
from ..runtimes.detecting import predictions_of
from .parity import Infer


def predictor(infer: Infer, batch: int | None = None) -> Predict:
    """A callable from images to decoded boxes (B, N, 5 + classes), as the evaluator takes it.

    Args:
        infer: images (B, 3, H, W) -> boxes (B, N, 4) as xyxy and scores (B, N, classes).
        batch: how many images it takes at a time; None for any number.
    """

    def predict(images: Tensor) -> Tensor:
        parts = [images] if batch is None else images.split(batch)
        return torch.cat([_decoded(infer, part) for part in parts])

    return predict


def _decoded(infer: Infer, images: Tensor) -> Tensor:
    boxes, scores = (torch.from_numpy(output) for output in infer(np.ascontiguousarray(images.numpy())))
    return predictions_of(boxes, scores)
