"""Read image files as RGB arrays, and resize them to the network's input.

Invariants: the resampling of `resize_exactly` is Darknet's `resize_image` (bilinear, corner pixels on corner
pixels), so that results agree with the C program to a fraction of a point. `fit` keeps the aspect and the
whole image; each side of its result is a multiple of the cell size, less than one cell longer than needed.
"""

import os
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DatasetError

Size = tuple[int, int]  # height, width

# JPEG markers: start of frame, baseline, progressive, ...; not DHT (C4), JPG (C8), DAC (CC)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # JPEG markers without a segment


def header_size(data: bytes) -> Size | None:
    """Height and width in the header of an image file; None if unknown or damaged.

    >>> header_size(b"P5 300 200 255 ...")
    (200, 300)
    """
    for start, reader in _READERS.items():
        if data.startswith(start):
            try:
                return reader(data)
            except (struct.error, IndexError, ValueError):
                return None
    return None


def _jpeg(data: bytes) -> Size | None:
    """The first frame, after any number of segments (ITU T.81, annex B)."""
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _png(data: bytes) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _bmp(data: bytes) -> Size:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # of OS/2
        width, height = struct.unpack_from("<HH", data, 18)
        return height, width
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(height), abs(width)  # a negative height: rows from top to bottom


def _gif(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _webp(data: bytes) -> Size | None:
    kind = data[8:16]
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"WEBPVP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"WEBPVP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    return None


def _tiff(data: bytes) -> Size:
    """Tags 256 and 257 of the first directory, 16 or 32 bits each."""
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    sides = {}
    for number in range(struct.unpack_from(f"{order}H", data, at)[0]):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + 2 + 12 * number)
        if tag in (256, 257):
            value = f"{order}{'H' if kind == 3 else 'I'}"
            sides[tag] = struct.unpack_from(value, data, at + 10 + 12 * number)[0]
    if len(sides) < 2:
        raise ValueError("no size")
    return sides[257], sides[256]


def _pnm(data: bytes) -> Size | None:
    match = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s", data[:4096])
    return (int(match[2]), int(match[1])) if match else None


_READERS: Mapping[bytes, Callable[[bytes], Size | None]] = MappingProxyType(
    {
        b"\xff\xd8": _jpeg,
        b"\x89PNG\r\n\x1a\n": _png,
        b"BM": _bmp,
        b"GIF8": _gif,
        b"RIFF": _webp,
        b"II*\0": _tiff,
        b"MM\0*": _tiff,
        **{f"P{kind}".encode(): _pnm for kind in range(1, 7)},
    }
)

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
