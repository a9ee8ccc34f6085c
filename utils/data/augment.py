"""Random changes of a training image and its boxes.

Invariant: image and boxes go through the same affine map, and the result depends only on the image, the
options and the random generator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..options import FRACTION, NON_NEGATIVE_FLOAT, POSITIVE_FLOAT, check_ranges, option
from .images import GREY, place

# a box is dropped when less of it remains inside the image, or when a side is shorter than this many pixels
LEAST_VISIBLE = 0.25
LEAST_SIDE = 2.0


@dataclass(frozen=True)
class Augment:
    """How far training images are changed; 0 (or a factor of 1) switches a change off.

    Raises:
        ToolkitError: a value is out of range.
    """

    flip: float = option(0.5, "probability of a horizontal flip", FRACTION, source="0 with [net] flip=0")
    hue: float = option(
        0.1, "largest hue shift, as a fraction of the full circle", FRACTION, source="[net] hue"
    )
    saturation: float = option(
        1.5, "largest factor on the saturation, or its inverse", POSITIVE_FLOAT, source="[net] saturation"
    )
    exposure: float = option(
        1.5, "largest factor on the brightness, or its inverse", POSITIVE_FLOAT, source="[net] exposure"
    )
    scale: float = option(
        1.4, "largest zoom factor, or its inverse", POSITIVE_FLOAT, source="1 + [yolo] jitter"
    )
    aspect: float = option(
        1.2, "largest factor on the aspect ratio, or its inverse", POSITIVE_FLOAT, source="1 + [yolo] jitter"
    )
    translate: float = option(
        0.15, "largest shift, as a fraction of the input", FRACTION, source="[yolo] jitter / 2"
    )
    rotate: float = option(
        0.0, "largest rotation", NON_NEGATIVE_FLOAT, unit="degrees", source="as in Darknet's detectors"
    )
    shear: float = option(
        0.0, "largest shear", NON_NEGATIVE_FLOAT, unit="degrees", source="as in Darknet's detectors"
    )
    mosaic: float = option(
        0.0, "probability of a mosaic of four images", FRACTION, source="0.5 with [net] mosaic=1"
    )
    mixup: float = option(
        0.0, "probability of a mixture of two images", FRACTION, source="0.5 with [net] mixup=1"
    )

    def __post_init__(self) -> None:
        check_ranges(self)

    def __call__(
        self,
        image: NDArray[np.uint8],
        labels: NDArray[np.float32],
        size: tuple[int, int],
        letterbox: bool,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Bring an image to the network's size with random changes.

        Args:
            image: RGB (h, w, 3).
            labels: (n, 5) class and xywh as fractions of the image.
            size: height and width of the network input.
            letterbox: keep the aspect, instead of stretching, before the random changes.
            rng: source of all chance.

        Returns:
            The changed image (H, W, 3), and the labels (m, 5) of what remains visible of the objects, clipped
            to the input, as fractions of it.
        """
        matrix = self.random_map(image.shape[0], image.shape[1], size, letterbox, rng)
        warped = warp(image, matrix, size)
        return self.recolour(warped, rng), move_labels(labels, matrix, image.shape[:2], size)

    def random_map(
        self, height: int, width: int, size: tuple[int, int], letterbox: bool, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """(2, 3): x' = m[0, 0] x + m[0, 1] y + m[0, 2], likewise y', from original to input pixels."""
        placement = place(height, width, size, letterbox)
        zoom, stretch = _factor(rng, self.scale), _factor(rng, self.aspect) ** 0.5
        zoom_x, zoom_y = zoom * stretch, zoom / stretch
        shift_x, shift_y = rng.uniform(-self.translate, self.translate, 2)
        scale_x, scale_y = placement.scale_x * zoom_x, placement.scale_y * zoom_y
        # zoomed about the centre of the input, then moved
        left = (placement.offset_x - size[1] / 2) * zoom_x + (0.5 + shift_x) * size[1]
        top = (placement.offset_y - size[0] / 2) * zoom_y + (0.5 + shift_y) * size[0]
        if rng.random() < self.flip:
            scale_x, left = -scale_x, size[1] - left
        matrix = np.array([[scale_x, 0.0, left], [0.0, scale_y, top]])
        return self._turned(matrix, size, rng) if self.rotate or self.shear else matrix

    def _turned(
        self, matrix: NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """The map with a random rotation and shear about the centre of the input behind it."""
        angle = np.radians(rng.uniform(-self.rotate, self.rotate))
        slant = np.tan(np.radians(rng.uniform(-self.shear, self.shear)))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.array([[1.0, slant], [0.0, 1.0]])
        centre = np.array(size[::-1]) / 2
        turned = turn @ matrix
        turned[:, 2] += centre - turn @ centre
        return turned

    def recolour(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Shift the hue, scale saturation and brightness (distort_image, image.c) by tables."""
        shift = rng.uniform(-self.hue, self.hue)
        factors = _factor(rng, self.saturation), _factor(rng, self.exposure)
        if shift == 0 and factors == (1.0, 1.0):
            return image
        levels = np.arange(256)
        table = np.empty((1, 256, 3), np.uint8)
        # OpenCV's 8-bit hue counts in steps of 2 degrees
        table[0, :, 0] = (levels + round(shift * 180)) % 180
        for channel, factor in enumerate(factors, start=1):
            table[0, :, channel] = np.clip(levels * factor, 0, 255)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        return np.asarray(cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB), np.uint8)


def move_labels(
    labels: NDArray[np.float32],
    matrix: NDArray[np.float64],
    original: tuple[int, int],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Take labels through a map from pixels of the original to pixels of the input.

    A box becomes the one around its four corners, clipped to the input; one of which too little remains is
    dropped.

    Args:
        labels: (n, 5) class and xywh as fractions of the original.
        matrix: (2, 3) as `cv2.warpAffine` takes it, but on pixel edges; a negative scale mirrors.
        original: height and width of the original.
        size: height and width of the input.

    Returns:
        (m, 5) class and xywh as fractions of the input.
    """
    if not len(labels):
        return labels
    centre = (labels[:, 1:3] * original[::-1]) @ matrix[:, :2].T + matrix[:, 2]
    half = (labels[:, 3:5] * original[::-1] / 2) @ np.abs(matrix[:, :2]).T
    extent = np.array(size[::-1])
    low, high = np.clip(centre - half, 0, extent), np.clip(centre + half, 0, extent)
    sides = high - low
    visible = sides.prod(1) >= LEAST_VISIBLE * (2 * half).prod(1)
    kept = visible & (sides.min(1) >= LEAST_SIDE)
    xywh = np.concatenate(((low + high) / 2 / extent, sides / extent), axis=1)
    return np.concatenate((labels[:, :1], xywh), axis=1)[kept].astype(np.float32)


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image (h, w, 3) through a map as in `move_labels` into a picture of `size` (H, W), grey outside."""
    centred = matrix.copy()
    # the map is one of pixel edges, OpenCV's is one of pixel centres
    centred[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    grey = (GREY, GREY, GREY)
    return np.asarray(
        cv2.warpAffine(image, centred, size[::-1], flags=cv2.INTER_LINEAR, borderValue=grey), np.uint8
    )


def _factor(rng: np.random.Generator, largest: float) -> float:
    """A factor between 1 / largest and largest, evenly spread on the logarithmic scale."""
    return float(largest ** rng.uniform(-1.0, 1.0))


# the corner where four pictures meet stays this far from the borders, as a share (mosaic_bound, data.c)
MARGIN = 0.2
# of the Beta distribution that weighs two mixed images (Zhang et al. 2019, arXiv 1902.04103)
MIXING = 1.5


class Picture(NamedTuple):
    """An RGB image (h, w, 3) and its labels (n, 5): class and xywh as fractions of it."""

    image: NDArray[np.uint8]
    labels: NDArray[np.float32]


@dataclass(frozen=True)
class Composer:
    """Composer of training images.

    Attributes:
        augment: how pictures are changed, and how often they are composed.
        size: height and width of the result.
        letterbox: keep the aspect instead of stretching, before the random changes.
        rng: source of all chance.
        draw: returns another random picture, None if it cannot be read.
    """

    augment: Augment
    size: tuple[int, int]
    letterbox: bool
    rng: np.random.Generator
    draw: Callable[[], Picture | None]

    def __call__(self, picture: Picture) -> Picture:
        """A training image made of the given picture, or of it and others."""
        result = self._one(picture)
        if not self.augment.mixup or self.rng.random() >= self.augment.mixup:
            return result
        partner = self.draw()
        if partner is None:
            return result
        other = self._one(partner)
        share = self.rng.beta(MIXING, MIXING)
        mixed = cv2.addWeighted(result.image, share, other.image, 1 - share, 0)
        return Picture(np.asarray(mixed, np.uint8), np.concatenate((result.labels, other.labels)))

    def _one(self, picture: Picture) -> Picture:
        if self.augment.mosaic and self.rng.random() < self.augment.mosaic:
            return self._mosaic(picture)
        return Picture(*self.augment(picture.image, picture.labels, self.size, self.letterbox, self.rng))

    def _mosaic(self, picture: Picture) -> Picture:
        """A mosaic: four pictures around a random point; each tile shows a random part of a changed picture.

        A tile whose picture cannot be read stays grey.
        """
        size = self.size
        row, column = (round(side * self.rng.uniform(MARGIN, 1 - MARGIN)) for side in size)
        tiles = [(0, 0, row, column), (0, column, row, size[1])]
        tiles += [(row, 0, size[0], column), (row, column, size[0], size[1])]
        image = np.full((*size, 3), GREY, np.uint8)
        labels = []
        for turn, number in enumerate(self.rng.permutation(4)):
            shown = self.draw() if turn else picture
            if shown is None:
                continue
            top, left, bottom, right = tiles[number]
            part, boxes = self._tile(shown, (bottom - top, right - left))
            image[top:bottom, left:right] = part
            boxes[:, 1:] *= np.array([right - left, bottom - top] * 2) / np.array(size[::-1] * 2)
            boxes[:, 1:3] += np.array([left, top]) / np.array(size[::-1])
            labels.append(boxes)
        return Picture(image, np.concatenate(labels).astype(np.float32))

    def _tile(self, picture: Picture, tile: tuple[int, int]) -> Picture:
        """A window of `tile` (h, w) of the changed picture; only the window is computed."""
        original = picture.image.shape[0], picture.image.shape[1]
        matrix = self.augment.random_map(*original, self.size, self.letterbox, self.rng)
        matrix[0, 2] -= self.rng.uniform(0, self.size[1] - tile[1])
        matrix[1, 2] -= self.rng.uniform(0, self.size[0] - tile[0])
        labels = move_labels(picture.labels, matrix, original, tile)
        # each picture with its own colours, as in data.c
        return Picture(self.augment.recolour(warp(picture.image, matrix, tile), self.rng), labels.copy())
