from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.sources import find_images, is_video
from utils.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "c d.webp", "deep/e.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes())
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def names(source: object) -> list[str]:
    return [path.name for path in find_images(str(source))]


def test_a_folder_is_its_images_in_order(folder):
    assert names(folder) == ["a.PNG", "b.jpg", "c d.webp"]


def test_a_pattern_reaches_folders_below(folder):
    assert names(f"{folder}/*.jpg") == ["b.jpg"]
    assert names(f"{folder}/**/*.jpg") == ["b.jpg", "e.jpg"]


def test_a_list_names_each_image_once(folder):
    (folder / "list.txt").write_text("b.jpg\ndeep/e.jpg\nb.jpg\n")
    assert names(folder / "list.txt") == ["b.jpg", "e.jpg"]


def test_a_file_is_taken_whatever_its_suffix(folder):
    assert names(folder / "notes.md") == ["notes.md"]


@pytest.mark.parametrize("source, expected", [("0", True), ("x.MP4", True), ("x.jpg", False), ("x0", False)])
def test_what_moves(source, expected):
    assert is_video(source) == expected


def test_a_folder_without_images_is_told(tmp_path):
    with pytest.raises(DatasetError, match=r"no image in this folder; supported suffixes are \.jpg"):
        find_images(str(tmp_path))
