"""Rectangular network inputs: an image at the size it needs, with just the padding that cells ask for.

Invariant: the aspect is kept and nothing is cut off; each side of the input is a multiple of the cell size
and less than one cell longer than the image's.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .images import GREY, Placement


def fit(image: NDArray[np.uint8], size: tuple[int, int], multiple: int) -> tuple[Tensor, Placement]:
    """Bring an image into `size`, long side to long side, and pad it on both ends to whole cells.

    Args:
        image: RGB (h, w, 3).
        size: largest height and width.
        multiple: pixels of a cell, in both directions.

    Returns:
        (3, H, W) uint8, and where the image lies in it.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    rows, columns = -new_height % multiple, -new_width % multiple
    top, left = rows // 2, columns // 2
    small = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    padded = cv2.copyMakeBorder(
        small, top, rows - top, left, columns - left, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY)
    )
    placement = Placement(new_width / width, new_height / height, left, top)
    return torch.from_numpy(padded).permute(2, 0, 1), placement
