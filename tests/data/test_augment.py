import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.augment import LEAST_SIDE, LEAST_VISIBLE, Augment
from utils.data.images import resize_exactly

OFF = Augment(flip=0, hue=0, saturation=1, exposure=1, scale=1, aspect=1, translate=0)
GREY = np.full((60, 90, 3), 128, np.uint8)


def painted(left: int, top: int, right: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """A white rectangle on black, and its label."""
    image = np.zeros((200, 300, 3), np.uint8)
    image[top:bottom, left:right] = 255
    label = [1, (left + right) / 600, (top + bottom) / 400, (right - left) / 300, (bottom - top) / 200]
    return image, np.array([label], np.float32)


def white_box(image: np.ndarray) -> np.ndarray:
    """Where the white is, as xyxy fractions; an edge pixel counts as far as it is white."""
    bright = np.clip(image[..., 0].astype(float) / 255, 0, 1)
    columns, rows = bright.max(0), bright.max(1)
    x, y = np.flatnonzero(columns > 0.55), np.flatnonzero(rows > 0.55)
    height, width = bright.shape
    return np.array([x[0] / width, y[0] / height, (x[-1] + 1) / width, (y[-1] + 1) / height])


@given(seed=st.integers(0, 10_000), letterbox=st.booleans())
def test_a_box_stays_on_its_object(seed, letterbox):
    """The oracle looks at the pixels: the white rectangle must fill the moved box, whatever the map was."""
    rng = np.random.default_rng(seed)
    left, top = rng.integers(0, 150, 2)
    width, height = rng.integers(40, 150), rng.integers(30, 50)
    image, labels = painted(left, min(top, 140), left + width, min(top, 140) + height)
    change = Augment(hue=0, saturation=1, exposure=1, scale=1.6, translate=0.25)
    changed, moved = change(image, labels, (160, 224), letterbox, rng)
    # the fill is grey, which is not white enough to be taken for the object
    if len(moved):
        x, y, w, h = moved[0, 1:]
        box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        np.testing.assert_allclose(white_box(changed), box, atol=1.01 / 160)


@given(seed=st.integers(0, 10_000))
def test_boxes_stay_inside_and_are_never_slivers(seed):
    rng = np.random.default_rng(seed)
    labels = np.column_stack((rng.integers(0, 3, 20), rng.uniform(0, 1, (20, 4)))).astype(np.float32)
    wild = Augment(scale=3, aspect=2, translate=0.9)
    _, moved = wild(GREY, labels, (128, 96), False, rng)
    low, high = moved[:, 1:3] - moved[:, 3:] / 2, moved[:, 1:3] + moved[:, 3:] / 2
    assert (low >= -1e-6).all()
    assert (high <= 1 + 1e-6).all()
    assert (moved[:, 3:] * [96, 128] >= LEAST_SIDE - 1e-3).all()


def test_everything_off_is_the_plain_resize():
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    labels = np.array([[2, 0.5, 0.4, 0.2, 0.3]], np.float32)
    same, moved = OFF(image, labels, (64, 96), False, np.random.default_rng(0))
    np.testing.assert_array_equal(same, image)
    np.testing.assert_allclose(moved, labels, rtol=1e-6)


def test_without_random_changes_letterbox_lies_where_evaluation_puts_it():
    image = np.full((50, 100, 3), 250, np.uint8)
    ours, _ = OFF(image, np.zeros((0, 5), np.float32), (96, 96), True, np.random.default_rng(0))
    theirs = resize_exactly(image, (96, 96), letterbox=True)[0].numpy()
    np.testing.assert_array_equal(ours[..., 0] > 200, theirs > 200)


def test_flip_mirrors_pixels_and_boxes():
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    labels = np.array([[2, 0.3, 0.4, 0.2, 0.3]], np.float32)
    flip = Augment(flip=1, hue=0, saturation=1, exposure=1, scale=1, aspect=1, translate=0)
    flipped, moved = flip(image, labels, (64, 96), False, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    np.testing.assert_allclose(moved, [[2, 0.7, 0.4, 0.2, 0.3]], rtol=1e-6)


@pytest.mark.parametrize("shift, kept", [(0.99 - LEAST_VISIBLE, 1), (1.01 - LEAST_VISIBLE, 0)])
def test_an_object_goes_when_too_little_of_it_is_left(shift, kept):
    # an object as large as the image, of which a share of 1 - shift stays inside
    class Moved:
        def uniform(self, low, high, size=None):
            return np.array([shift, 0.0]) if size else 0.0

        def random(self):
            return 1.0

    label = np.array([[0, 0.5, 0.5, 1, 1]], np.float32)
    _, moved = OFF(GREY, label, (100, 100), False, Moved())
    assert len(moved) == kept


def test_colours_change_as_in_the_hsv_model():
    """Pure colours, hue turned by 60 degrees: red becomes yellow, green cyan, blue magenta."""

    class Largest:
        def uniform(self, low, high):
            return high

    image = np.array([[[200, 0, 0], [0, 200, 0], [0, 0, 200], [90, 90, 90]]], np.uint8)
    changed = Augment(hue=1 / 6, saturation=1, exposure=1.2).recolour(image, Largest())
    for before, after in zip(image[0], changed[0], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
        expected = np.array(colorsys.hsv_to_rgb((hue + 1 / 6) % 1, saturation, value * 1.2)) * 255
        np.testing.assert_allclose(after, expected, atol=2)


def test_the_same_generator_state_gives_the_same_image():
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    labels = np.array([[2, 0.5, 0.4, 0.2, 0.3]], np.float32)
    runs = [Augment()(image, labels, (64, 64), False, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert (runs[0][0] != runs[2][0]).any()
