import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.files import write_label
from utils.data import labels as index
from utils.data.labels import cache_path, label_path, read_index


@pytest.fixture
def images(tmp_path, monkeypatch) -> list[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_label(tmp_path / "a.txt", "0 .5 .5 .5 .5\nbroken\n1 .1 .1 .1 .1\n")
    write_label(tmp_path / "b.txt", "")
    write_label(tmp_path / "d.txt", "1 .2 .2 .2 .2\nalso broken\n")
    return [tmp_path / f"{name}.jpg" for name in "abcd"]


def same(first: index.LabelIndex, second: index.LabelIndex) -> bool:
    arrays = zip(first.labels, second.labels, strict=True)
    counts = (first.problems, first.without_file, first.without_objects)
    return all(np.array_equal(one, other) for one, other in arrays) and counts == (
        second.problems,
        second.without_file,
        second.without_objects,
    )


def test_images_without_file_and_without_objects_are_counted(images):
    found = read_index(images, 2)
    assert [len(labels) for labels in found.labels] == [2, 0, 0, 1]
    assert (found.without_file, found.without_objects, len(found.problems)) == (1, 2, 2)


def test_the_cache_gives_what_reading_gives(images, monkeypatch):
    fresh = read_index(images, 2)
    read_index(images, 2, cached_from=1)
    monkeypatch.setattr(index, "read_labels", lambda *_: pytest.fail("was read again"))
    assert same(read_index(images, 2, cached_from=1), fresh)


def test_a_changed_a_new_and_a_removed_label_file_are_seen(images):
    read_index(images, 2, cached_from=1)
    write_label(images[0].with_suffix(".txt"), "1 .3 .3 .3 .3\n")
    write_label(images[2].with_suffix(".txt"), "0 .4 .4 .4 .4\n")
    images[3].with_suffix(".txt").unlink()
    assert same(read_index(images, 2, cached_from=1), read_index(images, 2))


def test_a_file_of_the_same_size_with_a_new_time_is_read_again(images):
    path = images[3].with_suffix(".txt")
    read_index(images, 2, cached_from=1)
    text = path.read_text().replace("1 .2", "0 .3")
    path.write_text(text)
    os.utime(path, (1, 1))
    assert read_index(images, 2, cached_from=1).labels[3][0, 0] == 0


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_an_unusable_cache_is_made_anew(images, content):
    fresh = read_index(images, 2, cached_from=1)
    path = cache_path([label_path(image) for image in images], 2)
    path.write_bytes(content)
    assert same(read_index(images, 2, cached_from=1), fresh)
    assert path.read_bytes() != content


def test_a_cache_folder_that_cannot_be_written_does_no_harm(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(read_index(images, 2, cached_from=1), read_index(images, 2))


def test_nothing_is_written_for_short_lists(images, tmp_path):
    read_index(images, 2)
    assert not (tmp_path / "cache").exists()
