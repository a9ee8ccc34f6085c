"""Training images composed of several: mosaics of four images, mixup of two.

Invariant: the box of an object encloses its pixels; a picture without objects adds no box.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .augment import Augment, move_labels, warp
from .images import GREY

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
