"""Read image files as RGB arrays, and resize them to the network's input.

Invariants: the resampling of `resize_exactly` is Darknet's `resize_image` (bilinear, corner pixels on corner
pixels), so that results agree with the C program to a fraction of a point. `fit` keeps the aspect and the
whole image; each side of its result is a multiple of the cell size, less than one cell longer than needed.
"""

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DatasetError
from .headers import header_size

GREY = 128
# 11585 x 11585, 400 MB decoded: a larger image is a mistake or an attack. The variable is OpenCV's own.
MOST_PIXELS = 1 << 27
MOST_PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
# Darknet fills the letterbox with .5
_HALF = 127.5


class Placement(NamedTuple):
    """Position of an image in the network input: input = original * scale + offset, in pixels."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to RGB (h, w, 3): grey is repeated, 16 bits become 8, alpha is dropped.

    Of several frames the first is used. The EXIF orientation is ignored, as in Darknet's decoder: labels
    count in stored pixels.

    Raises:
        DatasetError: the file is missing, not an image, truncated, or has more than `MOST_PIXELS`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(path, f"cannot be read ({error.strerror})", "check the file") from error
    if _is_cut_off(data):
        raise DatasetError(path, "the image file is truncated", "copy it again")
    image = decode(path, data, cv2.IMREAD_COLOR)
    if image is None:
        raise DatasetError(path, "not an image that OpenCV can decode", "convert it to JPEG or PNG")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def decode(path: Path, data: bytes, flags: int) -> NDArray[np.uint8] | None:
    """Decode an image after a check of the size in its header; the EXIF orientation is ignored.

    Args:
        path: of the file, for messages.
        data: its content.
        flags: cv2.IMREAD_*.

    Returns:
        What OpenCV gives, BGR (h, w, 3) or grey (h, w); None if it is not an image.

    Raises:
        DatasetError: it has more than `MOST_PIXELS`, or is damaged.
    """
    limit = os.environ.get(MOST_PIXELS_VARIABLE, "")
    most = int(limit) if limit.isdecimal() else MOST_PIXELS
    remedy = f"make it smaller, or raise {MOST_PIXELS_VARIABLE} in the environment"
    height, width = header_size(data) or (0, 0)
    if height * width > most:
        raise DatasetError(path, f"has {width}x{height} pixels, above the limit of {most:,}", remedy)
    if not data:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if "MAX_IMAGE" in error.err:  # a format whose header is not read above
            raise DatasetError(path, f"has more pixels than the limit of {most:,}", remedy) from None
        raise DatasetError(path, f"cannot be decoded ({error.err})", "copy it again") from error
    return None if image is None else np.asarray(image, np.uint8)


def place(height: int, width: int, size: tuple[int, int], letterbox: bool) -> Placement:
    """Position of an image in an input of `size` (h, w): stretched, or centred with its aspect kept.

    >>> place(100, 200, (416, 416), letterbox=True)
    Placement(scale_x=2.08, scale_y=2.08, offset_x=0, offset_y=104)
    """
    if not letterbox:
        return Placement(size[1] / width, size[0] / height, 0, 0)
    new_height, new_width = _fitted(height, width, size)
    return Placement(
        new_width / width, new_height / height, (size[1] - new_width) // 2, (size[0] - new_height) // 2
    )


def resize_exactly(image: NDArray[np.uint8], size: tuple[int, int], letterbox: bool = False) -> Tensor:
    """Resize an image to the network's input as the C program does.

    Args:
        image: RGB (h, w, 3).
        size: height and width of the network input.
        letterbox: keep the aspect and fill the rest with grey, instead of stretching.

    Returns:
        (3, H, W) float32 in 0..255, not rounded.
    """
    planes = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    if not letterbox:
        return _interpolate(planes, size)
    height, width = image.shape[:2]
    new_height, new_width = _fitted(height, width, size)
    placement = place(height, width, size, letterbox=True)
    top, left = int(placement.offset_y), int(placement.offset_x)
    canvas = torch.full((3, *size), _HALF)
    canvas[:, top : top + new_height, left : left + new_width] = _interpolate(planes, (new_height, new_width))
    return canvas


def fit(image: NDArray[np.uint8], size: tuple[int, int], multiple: int) -> tuple[Tensor, Placement]:
    """Resize an image to fit into `size`, and pad it at both ends to whole cells: a rectangular input.

    Args:
        image: RGB (h, w, 3).
        size: largest height and width.
        multiple: pixels of a cell, in both directions.

    Returns:
        (3, H, W) uint8, and the position of the image in it.
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


def _interpolate(planes: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=True)[0]


def _fitted(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width inside `size`, aspect kept; rounded down as in letterbox_image (image.c)."""
    if size[1] * height < size[0] * width:
        return max(1, height * size[1] // width), size[1]
    return size[0], max(1, width * size[0] // height)


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG has no end mark: decoders would silently fill the rest with grey."""
    tail = data[len(data) // 2 :]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    return data.startswith(b"\x89PNG") and b"IEND" not in tail
