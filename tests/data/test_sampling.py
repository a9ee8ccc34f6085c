"""Order, company and size of training images; images kept on disk."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.data.files import write_image
from utils.data.augment import Augment
from utils.data.cache import DiskCache
from utils.data.dataset import DetectionDataset, SampleKey
from utils.data.images import read_image
from utils.data.listing import read_data_file
from utils.data.loader import make_loader
from utils.data.sampling import EpochBatches, EpochSampler, MultiScale, Sampling, repeat_factors
from utils.errors import DatasetError


def open_split(path: Path, **options: object) -> DetectionDataset:
    data = read_data_file(path)
    return DetectionDataset.from_split(data, "train", (64, 64), augment=Augment(mosaic=0.5), **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skipped_epoch_continues_with_the_following_batches(data_file: Path, workers: int) -> None:
    sampling = Sampling(shuffle=True, multi_scale=MultiScale(32, every=1))
    loader = make_loader(open_split(data_file), 2, sampling, workers=workers)
    loader.set_epoch(3)
    whole = list(loader)
    loader.set_epoch(3, skip=2)
    rest = list(loader)
    assert len(whole) == 3
    assert len(rest) == 1
    assert torch.equal(rest[0].images, whole[2].images)
    assert torch.equal(rest[0].targets, whole[2].targets)
    loader.set_epoch(3)
    assert len(list(loader)) == 3


def test_sizes_change_every_few_batches_and_are_the_same_in_every_process() -> None:
    scale = MultiScale(32, every=2)
    parts = []
    for rank in range(2):
        keys = EpochSampler(48, True, 7, rank, 2)
        batches = list(EpochBatches(keys, 4, (416, 416), multi_scale=scale))
        assert all(len({key.size for key in batch}) == 1 for batch in batches)
        parts.append([batch[0].size for batch in batches])
    assert parts[0] == parts[1]
    assert parts[0][0::2] == parts[0][1::2]
    assert len(set(parts[0])) > 1
    assert all(288 <= side <= 608 and side % 32 == 0 for size in parts[0] for side in size)


def test_processes_share_each_batch_of_all() -> None:
    """Two processes' batches of 2 are together the batches of 4 of one process."""
    whole = [{key.number for key in batch} for batch in EpochBatches(EpochSampler(16, True, 1), 4, (32, 32))]
    halves = [
        [
            {key.number for key in batch}
            for batch in EpochBatches(EpochSampler(16, True, 1, rank, 2), 2, (32, 32))
        ]
        for rank in range(2)
    ]
    assert [one | two for one, two in zip(*halves, strict=True)] == whole


def test_batches_of_one_aspect_have_an_input_of_that_aspect() -> None:
    aspects = np.array([0.5, 2.0] * 8)
    batches = EpochBatches(EpochSampler(16, True, 0), 4, (128, 128), aspects=aspects, step=32)
    seen = []
    for batch in batches:
        assert len({aspects[key.number] for key in batch}) == 1
        height, width = batch[0].size
        assert height / width == aspects[batch[0].number]
        assert max(height, width) == 128
        seen += [key.number for key in batch]
    assert sorted(seen) == list(range(16))


def test_every_image_has_its_turn_where_the_last_batch_is_dropped() -> None:
    """The three tallest of 103 would never be seen if the end of the ranking were dropped."""
    aspects = np.array([1.0] * 100 + [3.0] * 3)
    keys = EpochSampler(103, True, 0)
    batches = EpochBatches(keys, 8, (128, 128), drop_last=True, aspects=aspects)
    epochs = [[key.number for batch in batches for key in batch] for _ in range(20)]
    assert all(len(numbers) == len(set(numbers)) == 96 for numbers in epochs)
    assert set().union(*epochs) == set(range(103))


@pytest.mark.parametrize("letterbox", [False, True])
def test_another_input_size_does_not_change_how_an_image_is_fitted(tmp_path: Path, letterbox: bool) -> None:
    """A white image twice as wide as high fills a stretched input and half of a letterboxed one."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((60, 120, 3), 255, np.uint8))
    options = Augment(flip=0, hue=0, saturation=1, exposure=1, scale=1, aspect=1, translate=0)
    dataset = DetectionDataset([path], 1, (128, 128), letterbox=letterbox, augment=options)
    for size in (None, (64, 64), (192, 192)):
        white = (dataset[SampleKey(0, size=size)].image > 200).float().mean().item()
        assert white == pytest.approx(0.5 if letterbox else 1.0, abs=0.02)
    # but an input that was made for the aspect of its batch is never stretched into
    shaped = dataset[SampleKey(0, size=(128, 128), letterbox=True)].image
    assert (shaped > 200).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_an_unreadable_image_has_some_aspect(data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data_file.parent / "images/2.png").write_bytes(b"broken")
    assert open_split(data_file).aspects()[2] == 1

    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "1")
    assert open_split(data_file).aspects().tolist() == [1] * 6


def test_a_rectangular_batch_keeps_the_aspect_of_its_images(data_file: Path) -> None:
    """The images are about 32 x 48; their pictures are not stretched into the input."""
    loader = make_loader(open_split(data_file), 3, Sampling(shuffle=True, aspects=32))
    for batch in loader:
        assert tuple(batch.images.shape[2:]) in {(64, 64), (32, 64), (64, 96), (48, 64)}


def test_images_with_a_rare_class_come_more_often() -> None:
    common, rare = np.array([[0, 0.5, 0.5, 1, 1]], np.float32), np.array([[1, 0.5, 0.5, 1, 1]], np.float32)
    labels = [common] * 990 + [rare] * 10
    factors = repeat_factors(labels, 2)
    assert factors[0] == 1
    assert factors[-1] == pytest.approx((0.1 / 0.01) ** 0.5)
    keys = EpochSampler(1000, True, 0, repeats=factors)
    drawn = [key.number for _ in range(20) for key in keys]
    share = sum(number >= 990 for number in drawn) / len(drawn)
    assert share == pytest.approx(10 * factors[-1] / (990 + 10 * factors[-1]), rel=0.2)
    keys.epoch = 0
    assert [key.number for key in keys] == drawn[:1000]


def test_images_without_objects_count_once() -> None:
    empty = np.zeros((0, 5), np.float32)
    assert repeat_factors([empty, empty], 3).tolist() == [1, 1]


def test_a_cached_image_is_the_decoded_one(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    cache = DiskCache(tmp_path / "kept")
    assert np.array_equal(cache.read(path), read_image(path))
    (kept,) = cache.folder.rglob("*.npy")
    before = kept.stat().st_mtime_ns
    assert np.array_equal(cache.read(path), read_image(path))
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_cache_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = write_image(tmp_path / "a.png")
    cache = DiskCache(tmp_path / "kept")
    cache.read(path)
    (kept,) = cache.folder.rglob("*.npy")
    kept.write_bytes(content)
    assert np.array_equal(cache.read(path), read_image(path))
    assert np.array_equal(np.load(kept), read_image(path))


def test_a_changed_image_is_read_anew(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    cache = DiskCache(tmp_path / "kept")
    cache.read(path)
    cv2.imwrite(str(path), np.full((20, 30, 3), 9, np.uint8))
    assert (cache.read(path) == 9).all()


def test_a_cached_folder_knows_its_size_and_is_the_users_alone(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "kept")
    assert cache.size() == 0
    cache.read(write_image(tmp_path / "a.png"))
    assert 40 * 60 * 3 < cache.size() < 40 * 60 * 3 + 1000
    assert os.name == "nt" or cache.folder.stat().st_mode & 0o077 == 0


def test_a_missing_image_is_told_and_nothing_is_kept_for_it(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "kept")
    with pytest.raises(DatasetError, match=r"a\.png"):
        cache.read(tmp_path / "a.png")
    assert not cache.folder.exists()


def test_training_batches_are_the_same_from_every_cache(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.data.cache.default_folder", lambda: tmp_path / "kept")
    found = [
        torch.cat(
            [
                batch.images
                for batch in make_loader(open_split(data_file, cache=cache), 2, Sampling(shuffle=True))
            ]
        )
        for cache in (None, "ram", "disk", "disk")
    ]
    assert all(torch.equal(images, found[0]) for images in found)


def test_an_image_that_is_drawn_twice_is_changed_twice(data_file: Path) -> None:
    dataset = open_split(data_file)
    first, second = (dataset[SampleKey(2, 5, 7, copy=copy)].image for copy in (0, 1))
    assert torch.equal(first, dataset[SampleKey(2, 5, 7)].image)
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    repeats = np.array([1.0, 1.0, 50.0])
    batches = EpochBatches(EpochSampler(30, True, 0, repeats=np.repeat(repeats, 10)), 5, (64, 64))
    keys = [key for batch in batches for key in batch]
    assert len({(key.number, key.copy) for key in keys}) == len(keys) > len({key.number for key in keys})
    batches.epoch, batches.skip = 0, 3
    assert [key for batch in batches for key in batch] == keys[15:]
