from pathlib import Path

import numpy as np
import pytest

from tests.data.files import write_label
from utils.data.labels import label_path, read_labels


@pytest.mark.parametrize(
    "image, label",
    [
        ("images/val2017/a.jpg", "labels/val2017/a.txt"),  # Darknet's replace_image_to_label
        ("VOC2007/JPEGImages/a.jpg", "VOC2007/labels/a.txt"),  # the same
        ("x/a.jpeg", "x/a.txt"),
        ("images/a.b.jpg", "images/a.b.txt"),  # Darknet looks beside the image here
        ("images/images.d/a.jpg", "images/images.d/a.txt"),
    ],
)
def test_without_any_file_darknets_place_is_named(image, label):
    assert label_path(Path("/nowhere") / image) == Path("/nowhere") / label


def test_the_place_where_a_file_is_wins(tmp_path):
    """.../images/ + .../labels/ is the layout that most tools write."""
    twin = write_label(tmp_path / "images/set/labels/deep/a.txt", "")
    assert label_path(tmp_path / "images/set/images/deep/a.jpg") == twin
    beside = write_label(tmp_path / "JPEGImages/b.txt", "")
    assert label_path(tmp_path / "JPEGImages/b.jpg") == beside


def test_where_both_exist_darknets_place_wins(tmp_path):
    for folder in ("images", "labels", "JPEGImages"):
        write_label(tmp_path / folder / "a.txt", "")
    assert label_path(tmp_path / "images/a.jpg") == tmp_path / "images/a.txt"
    assert label_path(tmp_path / "JPEGImages/a.jpg") == tmp_path / "labels/a.txt"


def test_good_lines_are_read_whatever_the_white_space(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf0 .5 .5 1 1\r\n\r\n\t2  0.1 0.2 3e-1 0.05 \r\n1.0 0 0 .5 .5")
    labels = read_labels(path, 3)
    expected = [[0, 0.5, 0.5, 1, 1], [2, 0.1, 0.2, 0.3, 0.05], [1, 0, 0, 0.5, 0.5]]
    np.testing.assert_allclose(labels.array, expected, rtol=1e-6)
    assert labels.problems == ()


@pytest.mark.parametrize(
    "line, told",
    [
        ("0 .5 .5 .5", "4 fields"),
        ("0 .5 .5 .5 .5 .9", "6 fields"),
        ("0 .5 .5 wide .5", "not five numbers"),
        ("0 .5 .5 nan .5", "not finite"),
        ("0 .5 .5 inf .5", "not finite"),
        ("3 .5 .5 .5 .5", "class 3"),
        ("-1 .5 .5 .5 .5", "class -1"),
        ("0.5 .5 .5 .5 .5", "class 0.5"),
        ("0 .5 .5 0 .5", "empty"),
        ("0 .5 .5 .5 -.1", "empty"),
        ("0 120 80 40 30", "fractions"),  # pixels instead of fractions
        ("0 -.2 .5 .1 .1", "fractions"),
        ("0,.5,.5,.5,.5", "1 fields"),
    ],
)
def test_a_malformed_line_is_left_out_and_reported_with_its_place(tmp_path, line, told):
    path = write_label(tmp_path / "a.txt", f"0 .5 .5 .5 .5\n{line}\n1 .5 .5 .5 .5\n")
    labels = read_labels(path, 3)
    assert labels.array[:, 0].tolist() == [0, 1]
    (problem,) = labels.problems
    assert problem.startswith(f"{path}:2: ")
    assert told in problem


def test_no_file_and_an_empty_file_mean_no_objects(tmp_path):
    for path in (tmp_path / "gone.txt", write_label(tmp_path / "empty.txt", "\n")):
        labels = read_labels(path, 3)
        assert labels.array.shape == (0, 5)
        assert labels.problems == ()


def test_a_binary_label_file_is_reported(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x89PNG\xff\xfe")
    assert str(path) in read_labels(path, 3).problems[0]
