import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from utils.data import shapes
from utils.data.dataset import DetectionDataset
from utils.data.listing import read_data_file
from utils.data.shapes import draw_scene, ensure_shapes, make_shapes
from utils.errors import DatasetError

FEW = {"train": 4, "valid": 3}


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_the_seed_decides_every_byte(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_shapes(tmp_path / name, seed=seed, sizes=FEW)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_it_is_a_data_set_like_any_other_with_splits_apart(tmp_path):
    data = read_data_file(make_shapes(tmp_path / "my data", sizes=FEW))
    assert data.names == ("circle", "square", "triangle", "star")
    train, valid = (DetectionDataset.from_split(data, split, (64, 64)) for split in FEW)
    assert (len(train), len(valid)) == (4, 3)
    assert train.index.problems == valid.index.problems == ()
    assert not {path.read_bytes() for path in train.images} & {path.read_bytes() for path in valid.images}


def test_scenes_are_varied_and_their_labels_valid():
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(120)]
    labels = np.concatenate([labels for _, labels in scenes])
    assert set(labels[:, 0]) == {0, 1, 2, 3}
    assert 0 < sum(len(found) == 0 for _, found in scenes) < 30
    low, high = labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2
    assert low.min() >= -1e-6
    assert high.max() <= 1 + 1e-6
    sides = np.array([image.shape[:2] for image, _ in scenes])
    assert (sides.min(), sides.max()) >= (160, 200)
    assert sides.max() <= 320
    pixels = np.concatenate([found[:, 3:] * image.shape[1::-1] for image, found in scenes])
    assert pixels.max() <= 100.01
    assert pixels.min() >= 3  # cut by the image's edge
    assert all(image.std() > 3 for image, _ in scenes)


@pytest.mark.parametrize("kind", range(4))
def test_a_box_is_tight_round_what_is_painted(kind):
    rng = np.random.default_rng(kind)
    scene = shapes._Scene(np.zeros((120, 120, 3), np.uint8), np.zeros((120, 120), np.uint8), [])
    outline = shapes._outline(kind, 60.0, rng) + np.array([55.3, 61.8])
    assert shapes._draw(scene, outline, 1, shapes._polygon_area(outline), rng)
    rows, columns = np.nonzero(scene.owners)
    painted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # a star's tips are thinner than half a pixel
    np.testing.assert_allclose(painted, [*outline.min(0), *outline.max(0)], atol=2.5)
    assert np.ptp(outline, axis=0).max() == pytest.approx(60)


def test_no_object_is_hidden_too_far():
    for seed in range(25):
        rng = np.random.default_rng(seed)
        scene = shapes._Scene(np.full((200, 200, 3), 90, np.uint8), np.zeros((200, 200), np.uint8), [])
        for _ in range(12):
            shapes._add_object(scene, rng)
        shapes._add_bars(scene, rng)
        for number, item in enumerate(scene.placed, start=1):
            assert (scene.owners == number).sum() >= shapes._LEAST_VISIBLE * item.area


def test_ensuring_makes_it_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLIT_SIZES", FEW)
    path = ensure_shapes(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert ensure_shapes(tmp_path) == path
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_a_lost_data_file_comes_back_without_touching_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLIT_SIZES", FEW)
    path = ensure_shapes(tmp_path)
    content, images = path.read_bytes(), digest(tmp_path / "shapes")
    path.unlink()
    assert ensure_shapes(tmp_path).read_bytes() == content
    assert digest(tmp_path / "shapes") == images


def test_an_interrupted_making_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "draw_scene", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_shapes(tmp_path, sizes=FEW)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_agree(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(make_shapes, tmp_path, sizes=FEW) for _ in range(2)]
        assert {job.result() for job in jobs} == {tmp_path / "shapes.data"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shapes", "shapes.data", "shapes.names"]
    assert len(list((tmp_path / "shapes/images").iterdir())) == 7


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="shapes"):
        make_shapes(tmp_path / "file", sizes=FEW)
