import numpy as np
import pytest

from utils.detection.draw import class_colour, contact_sheet, draw_detections

NAMES = ("cat", "dög [x]")


def test_boxes_are_drawn_on_a_copy_in_the_colour_of_their_class():
    image = np.zeros((100, 120, 3), np.uint8)
    picture = draw_detections(image, np.array([[20, 40, 100, 90, 0.9, 1]]), NAMES)
    assert image.max() == 0
    assert picture.shape == image.shape
    assert tuple(picture[90, 60]) == class_colour(1)
    assert tuple(picture[65, 60]) == (0, 0, 0)  # inside, nothing is covered


@pytest.mark.parametrize("box", [[-50, -50, 500, 500], [0, 0, 3, 3], [118, 98, 119, 99], [-1e9, 0, 1e9, 5]])
def test_boxes_at_or_beyond_the_border_are_drawn_too(box):
    image = np.zeros((100, 120, 3), np.uint8)
    picture = draw_detections(image, np.array([[*box, 0.5, 0]]), NAMES)
    # the plate of the label, which is in the picture wherever the box is
    assert (picture == class_colour(0)).all(2).sum() > 200


def test_enlarging_scales_the_boxes_with_the_picture():
    image = np.zeros((50, 60, 3), np.uint8)
    picture = draw_detections(image, np.array([[10, 20, 40, 45, 0.9, 0]]), NAMES, enlarge=3)
    assert picture.shape == (150, 180, 3)
    assert tuple(picture[135, 75]) == class_colour(0)


def test_no_detections_leave_the_image_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    np.testing.assert_array_equal(draw_detections(image, np.zeros((0, 6)), NAMES), image)


def test_the_first_classes_have_colours_that_can_be_told_apart():
    colours = np.array([class_colour(number) for number in range(8)], float)
    distances = np.linalg.norm(colours[:, None] - colours, axis=2) + np.eye(8) * 1e3
    assert distances.min() > 60


def test_a_sheet_has_every_picture_in_its_cell():
    red, blue = np.full((40, 80, 3), (255, 0, 0), np.uint8), np.full((90, 30, 3), (0, 0, 255), np.uint8)
    sheet = contact_sheet([[red, blue], [blue, red]], ["before", "after"], cell=120)
    middle = sheet.shape[1] // 2
    for colour in ((255, 0, 0), (0, 0, 255)):
        found = (sheet == colour).all(2)
        assert found[:, :middle].sum() == pytest.approx(found[:, middle:].sum(), rel=0.05)
        assert found.sum() > 2 * 120 * 38
