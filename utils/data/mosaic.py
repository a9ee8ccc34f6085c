"""Training images put together from several: mosaics of four, mixtures of two.

Invariant: an object's box lies where its picture's pixels lie; a picture without objects brings no box.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.data.augment import Augment, move_labels, warp
from utils.data.images import GREY

# the corner where four pictures meet stays this far from the borders, as a share (mosaic_bound, data.c)
MARGIN = 0.2
# of the Beta distribution that weighs two mixed images (Zhang et al. 2019, arXiv 1902.04103)
MIXING = 1.5


class Picture(NamedTuple):
    """An RGB image (h, w, 3) and its labels (n, 5): class and xywh as fractions of it."""

    image: NDArray[np.uint8]
    labels: NDArray[np.float32]


Draw = Callable[[], Picture | None]


def compose(
    augment: Augment,
    picture: Picture,
    draw: Draw,
    size: tuple[int, int],
    letterbox: bool,
    rng: np.random.Generator,
) -> Picture:
    """A training image made of one picture, or of it and others.

    Args:
        augment: how pictures are changed, and how often they are put together.
        picture: the one whose turn it is.
        draw: gives another one at random, None if it cannot be read.
        size: height and width of the result.
        letterbox: keep the aspect instead of stretching, before the random changes.
        rng: source of all chance.
    """
    result = _one(augment, picture, draw, size, letterbox, rng)
    if not augment.mixup or rng.random() >= augment.mixup:
        return result
    partner = draw()
    if partner is None:
        return result
    other = _one(augment, partner, draw, size, letterbox, rng)
    share = rng.beta(MIXING, MIXING)
    mixed = cv2.addWeighted(result.image, share, other.image, 1 - share, 0)
    return Picture(np.asarray(mixed, np.uint8), np.concatenate((result.labels, other.labels)))


def _one(
    augment: Augment,
    picture: Picture,
    draw: Draw,
    size: tuple[int, int],
    letterbox: bool,
    rng: np.random.Generator,
) -> Picture:
    if augment.mosaic and rng.random() < augment.mosaic:
        return _mosaic(augment, picture, draw, size, letterbox, rng)
    return Picture(*augment(picture.image, picture.labels, size, letterbox, rng))


def _mosaic(
    augment: Augment,
    picture: Picture,
    draw: Draw,
    size: tuple[int, int],
    letterbox: bool,
    rng: np.random.Generator,
) -> Picture:
    """Four pictures round a random point; each tile shows a random part of a changed picture.

    A tile whose picture cannot be read stays grey.
    """
    row, column = (round(side * rng.uniform(MARGIN, 1 - MARGIN)) for side in size)
    tiles = [(0, 0, row, column), (0, column, row, size[1])]
    tiles += [(row, 0, size[0], column), (row, column, size[0], size[1])]
    image = np.full((*size, 3), GREY, np.uint8)
    labels = []
    for turn, number in enumerate(rng.permutation(4)):
        shown = draw() if turn else picture
        if shown is None:
            continue
        top, left, bottom, right = tiles[number]
        part, boxes = _tile(augment, shown, size, (bottom - top, right - left), letterbox, rng)
        image[top:bottom, left:right] = part
        boxes[:, 1:] *= np.array([right - left, bottom - top] * 2) / np.array(size[::-1] * 2)
        boxes[:, 1:3] += np.array([left, top]) / np.array(size[::-1])
        labels.append(boxes)
    return Picture(image, np.concatenate(labels).astype(np.float32))


def _tile(
    augment: Augment,
    picture: Picture,
    size: tuple[int, int],
    tile: tuple[int, int],
    letterbox: bool,
    rng: np.random.Generator,
) -> Picture:
    """A window of `tile` (h, w) into what the picture would be at `size`; only the window is computed."""
    matrix = augment.random_map(picture.image.shape[0], picture.image.shape[1], size, letterbox, rng)
    matrix[0, 2] -= rng.uniform(0, size[1] - tile[1])
    matrix[1, 2] -= rng.uniform(0, size[0] - tile[0])
    labels = move_labels(picture.labels, matrix, picture.image.shape[:2], tile)
    # each picture in colours of its own, as in data.c
    return Picture(augment.recolour(warp(picture.image, matrix, tile), rng), labels.copy())
