import numpy as np
import pytest
import torch

from tests.data.files import write_image, write_label
from utils.data import dataset as module
from utils.data.augment import Augment
from utils.data.dataset import DetectionDataset, SampleKey, place_labels
from utils.data.images import place, read_image, resize_exactly
from utils.data.listing import read_data_file
from utils.errors import DatasetError


def open_split(path, **options) -> DetectionDataset:
    return DetectionDataset.from_split(read_data_file(path), "valid", (64, 64), **options)


def test_an_item_is_the_stretched_image_with_its_label(data_file):
    sample = open_split(data_file)[3]
    assert sample.path.name == "3.png"
    assert sample.size == (33, 47)
    torch.testing.assert_close(sample.image, resize_exactly(read_image(sample.path), (64, 64)))
    np.testing.assert_allclose(sample.labels, [[1, 0.5, 0.5, 0.4, 0.25]], rtol=1e-6)


def test_letterbox_moves_labels_with_the_pixels():
    # a 100 x 50 image in a 100 x 100 input: centred, half as high
    placement = place(50, 100, (100, 100), letterbox=True)
    labels = np.array([[0, 0.5, 0.0, 1.0, 0.5]], np.float32)
    moved = place_labels(labels, (50, 100), (100, 100), placement)
    np.testing.assert_allclose(moved, [[0, 0.5, 0.25, 1.0, 0.25]])


def test_images_in_memory_are_the_images_on_disk(data_file):
    plain, cached = (open_split(data_file, cache=cache, augment=Augment()) for cache in (None, "ram"))
    for number in range(len(plain)):
        torch.testing.assert_close(plain[number].image, cached[number].image)


def test_what_does_not_fit_into_memory_is_read_from_disk(data_file, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 2 * 30 * 50 * 3)
    cached = open_split(data_file, cache="ram")
    assert 0 < len(cached._decoded) < len(cached)
    for number, sample in enumerate(map(open_split(data_file).__getitem__, range(6))):
        torch.testing.assert_close(cached[number].image, sample.image)


def test_epoch_and_seed_decide_the_random_changes(data_file):
    changed = open_split(data_file, augment=Augment())
    keys = [SampleKey(0, 1, 2), SampleKey(0, 1, 2), SampleKey(0, 2, 2), SampleKey(0, 1, 3)]
    first, again, later, other = (changed[key].image for key in keys)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("cache", [None, "ram"])
def test_an_unusable_image_is_told_with_its_line_in_the_list(data_file, cache):
    (data_file.parent / "images/2.png").write_bytes(b"broken")
    found = open_split(data_file, cache=cache)
    assert found[2].startswith(f"{data_file.parent / 'list.txt'}:3: ")
    assert "images/2.png" in found[2].replace("\\", "/")


def test_malformed_label_lines_are_logged_and_the_rest_is_used(data_file, caplog):
    path = write_label(data_file.parent / "labels/4.txt", "0 .5 .5 .5 .5\n9 .5 .5 .5 .5\n")
    found = open_split(data_file)
    assert len(found[4].labels) == 1
    assert f"{path}:2: class 9" in caplog.text


def test_a_split_without_label_files_is_an_error_naming_the_first_path(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "l.txt").write_text("a.png\n")
    (tmp_path / "n").write_text("x\n")
    (tmp_path / "x.data").write_text("classes=1\nnames=n\nvalid=l.txt\n")
    with pytest.raises(DatasetError, match=r"label file.*a\.txt"):
        open_split(tmp_path / "x.data")


def test_an_image_without_objects_is_a_sample_too(data_file):
    write_label(data_file.parent / "labels/0.txt", "")
    for options in ({}, {"augment": Augment()}, {"letterbox": True}):
        assert open_split(data_file, **options)[0].labels.shape == (0, 5)
