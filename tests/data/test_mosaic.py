"""Mosaics and mixtures: boxes lie where their pixels lie."""

import numpy as np
import pytest

from utils.data.augment import Augment, Composer, Picture, move_labels
from utils.data.images import GREY

PLAIN = Augment(flip=0, hue=0, saturation=1, exposure=1, scale=1, aspect=1, translate=0)
COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))


def picture(number: int, seed: int = 0) -> Picture:
    """A dark picture with one rectangle in the colour of its class."""
    rng = np.random.default_rng([seed, number])
    image = np.full((120, 160, 3), 10, np.uint8)
    left, top = rng.integers(10, 90), rng.integers(10, 60)
    width, height = rng.integers(30, 60), rng.integers(30, 50)
    image[top : top + height, left : left + width] = COLOURS[number]
    box = [(left + width / 2) / 160, (top + height / 2) / 120, width / 160, height / 120]
    return Picture(image, np.array([[number, *box]], np.float32))


def drawer(seed: int = 0):
    waiting = iter([1, 2, 3, 0, 1, 2, 3])
    return lambda: picture(next(waiting), seed)


@pytest.mark.parametrize("seed", range(8))
def test_every_box_of_a_mosaic_frames_the_pixels_of_its_colour(seed: int) -> None:
    options = Augment(
        flip=0.5, hue=0, saturation=1, exposure=1, scale=1.2, aspect=1.1, translate=0.1, mosaic=1
    )
    rng = np.random.default_rng(seed)
    image, labels = Composer(options, (208, 208), False, rng, drawer(seed))(picture(0, seed))
    assert image.shape == (208, 208, 3)
    for number, *box in labels:
        colour = np.array(COLOURS[int(number)])
        rows, columns = np.nonzero((np.abs(image.astype(int) - colour) < 60).all(axis=2))
        left, top = (box[0] - box[2] / 2) * 208, (box[1] - box[3] / 2) * 208
        right, bottom = (box[0] + box[2] / 2) * 208, (box[1] + box[3] / 2) * 208
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found == pytest.approx([left, top, right, bottom], abs=2.5)


def test_a_picture_without_objects_brings_no_box() -> None:
    empty = Picture(np.zeros((50, 50, 3), np.uint8), np.zeros((0, 5), np.float32))
    options = Augment(mosaic=1)
    _, labels = Composer(options, (64, 64), False, np.random.default_rng(0), lambda: empty)(empty)
    assert labels.shape == (0, 5)


def test_a_mosaic_reads_three_more_pictures() -> None:
    read = []

    def draw() -> Picture:
        read.append(picture(1))
        return read[-1]

    Composer(Augment(mosaic=1), (64, 64), False, np.random.default_rng(0), draw)(picture(0))
    assert len(read) == 3


def test_each_tile_has_colours_of_its_own() -> None:
    """Four equal pictures of one colour: with one change for all, one colour would be left."""
    plain = Picture(np.full((64, 64, 3), 100, np.uint8), np.zeros((0, 5), np.float32))
    options = Augment(flip=0, hue=0, saturation=1, exposure=1.5, scale=1, aspect=1, translate=0, mosaic=1)
    image, _ = Composer(options, (64, 64), False, np.random.default_rng(0), lambda: plain)(plain)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 4


def test_unreadable_partners_leave_three_grey_tiles() -> None:
    """The picture is one colour and all object: its tile is the only part that is not grey."""
    options = Augment(
        flip=0, hue=0, saturation=1, exposure=1, scale=1, aspect=1, translate=0, mosaic=1, mixup=1
    )
    full = Picture(np.full((64, 64, 3), 250, np.uint8), np.array([[0, 0.5, 0.5, 1, 1]], np.float32))
    image, _ = Composer(options, (64, 64), False, np.random.default_rng(0), lambda: None)(full)
    assert set(np.unique(image)) == {GREY, 250}
    rows, columns = np.nonzero(image[..., 0] == 250)
    tile = (rows.max() + 1 - rows.min()) * (columns.max() + 1 - columns.min())
    assert len(rows) == tile  # one rectangle
    assert (rows.min() == 0) != (rows.max() == 63)
    assert (columns.min() == 0) != (columns.max() == 63)


def test_mixup_blends_and_keeps_both_labels() -> None:
    options = Augment(flip=0, hue=0, saturation=1, exposure=1, scale=1, aspect=1, translate=0, mixup=1)
    white = Picture(np.full((64, 64, 3), 200, np.uint8), np.array([[1, 0.5, 0.5, 1, 1]], np.float32))
    black = Picture(np.zeros((64, 64, 3), np.uint8), np.array([[0, 0.5, 0.5, 1, 1]], np.float32))
    image, labels = Composer(options, (64, 64), False, np.random.default_rng(0), lambda: black)(white)
    assert len(np.unique(image)) == 1
    assert 0 < image[0, 0, 0] < 200
    assert labels[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_a_rotated_box_holds_the_rotated_rectangle(seed: int) -> None:
    """Every pixel of the rectangle, taken through the map one by one, lies inside its new box."""
    options = Augment(flip=0, scale=1, aspect=1, translate=0, rotate=30, shear=10)
    rng = np.random.default_rng(seed)
    matrix = options.random_map(120, 160, (200, 200), False, rng)
    labels = np.array([[0, 0.5, 0.5, 0.3, 0.2]], np.float32)
    ((_, x, y, w, h),) = move_labels(labels, matrix, (120, 160), (200, 200))
    corners = [(80 + dx * 24, 60 + dy * 12) for dx in (-1, 1) for dy in (-1, 1)]
    moved = np.array([matrix[:, :2] @ corner + matrix[:, 2] for corner in corners])
    low, high = moved.min(0) / 200, moved.max(0) / 200
    assert [x - w / 2, y - h / 2, x + w / 2, y + h / 2] == pytest.approx([*low, *high], abs=1e-5)
    assert matrix[0, 1] != 0


def test_without_mosaic_and_mixup_it_is_the_plain_augmentation() -> None:
    one, two = np.random.default_rng(4), np.random.default_rng(4)
    image, labels = Composer(Augment(), (96, 96), False, one, lambda: None)(picture(2))
    wanted, boxes = Augment()(*picture(2), (96, 96), False, two)
    assert np.array_equal(image, wanted)
    assert np.array_equal(labels, boxes)
