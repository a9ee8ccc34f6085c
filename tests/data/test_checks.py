"""Each fault that is planted in a sound data set is found, and nothing else."""

import numpy as np
import pytest

from tests.data.files import write_image, write_label
from utils.data.checks import DataCheck, check_data


def found(check: DataCheck) -> list[tuple[str, str]]:
    """Severity and kind of every finding."""
    return [(finding.severity, finding.fact.split(":")[0]) for finding in check.findings]


@pytest.fixture
def sound(data_file):
    """The six images in two lists, so that no image is in both."""
    folder = data_file.parent
    lines = (folder / "list.txt").read_text().splitlines(keepends=True)
    (folder / "train.txt").write_text("".join(lines[:4]))
    (folder / "valid.txt").write_text("".join(lines[4:]))
    data_file.write_text("classes=2\ntrain=train.txt\nvalid=valid.txt\nnames=x.names\n")
    return data_file


def append(path, text):
    path.write_text(path.read_text() + text)


def test_nothing_is_said_of_a_sound_set(sound):
    check = check_data(sound)
    assert check.findings == ()
    assert [(split.name, len(split.images), split.class_counts(2)) for split in check.splits] == [
        ("train", 4, (2, 2)),
        ("valid", 2, (1, 1)),
    ]


@pytest.mark.parametrize(
    "line", ["2 .5 .5 .1 .1", "0 320 240 10 10", "0 .5 .5 0 .1", "a b", "0 .5 .5 nan .1"], ids=str
)
def test_label_lines_that_cannot_be_used(sound, line):
    append(sound.parent / "labels/1.txt", line + "\n")
    check = check_data(sound)
    assert found(check) == [("error", "label lines that cannot be used and are skipped")]
    assert "labels/1.txt:2" in check.findings[0].examples[0]


def no_label(folder):
    (folder / "labels/0.txt").unlink()


def empty_label(folder):
    (folder / "labels/0.txt").write_text("")


def label_twice(folder):
    append(folder / "labels/0.txt", (folder / "labels/0.txt").read_text())


def corner_label(folder):
    append(folder / "labels/0.txt", "0 0.1 0.1 0.5 0.1\n")


def cut_image(folder):
    path = folder / "images/0.png"
    path.write_bytes(path.read_bytes()[:-20])


def listed_twice(folder):
    append(folder / "train.txt", "images/0.png\n")


def missing_image(folder):
    append(folder / "train.txt", "images/none.png\n")


def shared_image(folder):
    append(folder / "valid.txt", "images/0.png\n")


def shared_content(folder):
    (folder / "images/4.png").write_bytes((folder / "images/0.png").read_bytes())


def same_names(folder):
    (folder / "x.names").write_text("one\none\n")


FAULTS = [
    (no_label, "warning", "images without a label file, which count as empty"),
    (empty_label, "note", "images with an empty label file"),
    (label_twice, "warning", "objects labelled twice"),
    (corner_label, "warning", "boxes that reach out of their image"),
    (cut_image, "warning", "images that cannot be read and are skipped"),
    (listed_twice, "warning", "images listed more than once"),
    (missing_image, "warning", "lines that name no image"),
    (shared_image, "warning", "images in both splits"),
    (shared_content, "warning", "images in both splits"),
    (same_names, "warning", "the class names one are not unique, so results cannot be distinguished"),
]


@pytest.mark.parametrize("plant, severity, kind", FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
def test_a_planted_fault_is_found_and_nothing_else(sound, plant, severity, kind):
    plant(sound.parent)
    assert found(check_data(sound)) == [(severity, kind)]


def test_all_faults_are_told_at_once(sound):
    for plant in (label_twice, cut_image, missing_image):
        plant(sound.parent)
    assert len(check_data(sound).findings) == 3


def test_without_any_label_there_is_nothing_to_learn(sound):
    for path in (sound.parent / "labels").iterdir():
        path.unlink()
    severities = [finding.severity for finding in check_data(sound).findings]
    assert severities == ["error", "error"]


def test_classes_that_never_occur(sound):
    for number in (1, 3, 5):
        write_label(sound.parent / f"labels/{number}.txt", "0 .5 .5 .1 .1\n")
    assert found(check_data(sound)) == [
        ("warning", "1 of 2 classes never occur in train"),
        ("note", "1 of 2 classes never occur in valid"),
    ]


def test_one_list_that_is_missing_leaves_the_other_checked(sound):
    (sound.parent / "train.txt").unlink()
    check = check_data(sound)
    assert [split.name for split in check.splits] == ["valid"]
    assert [finding.severity for finding in check.findings] == ["error"]


def test_a_data_file_that_is_missing_is_a_finding(tmp_path):
    check = check_data(tmp_path / "no.data")
    assert check.data is None
    assert [finding.severity for finding in check.findings] == ["error"]


def test_images_beyond_the_limit_are_not_read_and_that_is_said(sound):
    calls = []
    check = check_data(sound, read_images=3, on_image=lambda: calls.append(1))
    assert [len(split.files) for split in check.splits] == [3, 2]
    assert len(calls) == 5
    assert found(check) == [("note", "3 of 4 images were read")]


def test_sizes_are_in_pixels_of_the_network_input(sound):
    folder = sound.parent
    write_image(folder / "images/0.png", 100, 200)
    write_label(folder / "labels/0.txt", "0 .5 .5 .5 .5\n")
    (folder / "train.txt").write_text("images/0.png\n")
    (split, _) = check_data(sound).splits
    np.testing.assert_allclose(split.object_sizes((64, 64), letterbox=False), [[32, 32]])
    np.testing.assert_allclose(split.object_sizes((64, 64), letterbox=True), [[32, 16]])
