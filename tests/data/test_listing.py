from pathlib import Path

import pytest

from tests.data.files import write_image
from utils.data.listing import read_data_file, read_image_list, read_names
from utils.errors import DatasetError


def make_data(folder: Path, text: str = "classes=1\nvalid=v.txt\nnames=n.names\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "n.names").write_text("thing\n")
    write_image(folder / "a.png")
    (folder / "v.txt").write_text("a.png\n")
    path = folder / "x.data"
    path.write_text(text)
    return path


def test_options_may_have_spaces_comments_repeats_and_windows_line_ends(tmp_path):
    text = (
        "\ufeff# a comment\r\n classes = 1 \r\n\r\n;more\r\nnames=n.names\r\nvalid = v.txt\r\nclasses=7\r\n"
    )
    make_data(tmp_path)
    (tmp_path / "x.data").write_bytes(text.encode())
    data = read_data_file(tmp_path / "x.data")
    assert (data.classes, data.names, data.valid) == (1, ("thing",), tmp_path / "v.txt")
    assert data.train is None


@pytest.mark.parametrize(
    "text, told",
    [
        ("names=n.names\n", "classes="),
        ("classes=0\nnames=n.names\n", "classes=0"),
        ("classes=two\nnames=n.names\n", "classes=two"),
        ("classes=1\n", "names="),
        ("classes=1\nnames=gone.names\n", "gone.names"),
        ("classes=2\nnames=n.names\n", "n.names: has 1 names, but "),
        ("classes=1\nnames=n.names\ntrain=gone.txt\n", "train=gone.txt"),
        ("classes=1\nwhat is this\n", "x.data:2"),
        ("classes=1\nnames=\n", "x.data:2"),
    ],
)
def test_each_fault_of_a_data_file_is_named(tmp_path, text, told):
    path = make_data(tmp_path, text)
    with pytest.raises(DatasetError, match=str(path.name)) as error:
        read_data_file(path).image_list("train")
    assert told in str(error.value)


def test_a_list_that_is_not_needed_may_be_missing(tmp_path):
    data = read_data_file(make_data(tmp_path, "classes=1\nnames=n.names\ntrain=gone.txt\nvalid=v.txt\n"))
    assert len(data.image_list("valid")) > 0


def test_a_missing_data_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.data: no such file"):
        read_data_file(tmp_path / "gone.data")


def test_a_split_without_a_list_says_which_line_is_missing(tmp_path):
    with pytest.raises(DatasetError, match="`test=` is missing"):
        read_data_file(make_data(tmp_path)).image_list("test")


def test_a_data_file_in_a_data_folder_may_be_relative_to_the_folder_above(tmp_path):
    """Darknet's own layout: data/x.data says `names = data/x.names`, run from the folder above."""
    path = make_data(tmp_path / "data", "classes=1\nvalid=data/v.txt\nnames=data/n.names\n")
    (tmp_path / "data/v.txt").write_text("data/a.png\n")
    data = read_data_file(path)
    assert [image.resolve() for image in data.image_list("valid")] == [(tmp_path / "data/a.png").resolve()]


def test_a_data_file_may_be_relative_to_the_working_folder(tmp_path, monkeypatch):
    make_data(tmp_path / "there")
    (tmp_path / "x").mkdir()
    path = tmp_path / "x/y.data"
    path.write_text("classes=1\nvalid=there/v.txt\nnames=there/n.names\n")
    monkeypatch.chdir(tmp_path)
    assert read_data_file(path).valid is not None


@pytest.mark.parametrize("name", ["with space.png", "mäuse 鼠.png", "sub\\deep\\a.png", "sub/deep/a.png"])
def test_image_names_may_be_awkward(tmp_path, name):
    image = write_image(tmp_path / name.replace("\\", "/"))
    (tmp_path / "l.txt").write_bytes(f"  {name} \r\n".encode())
    assert [path.resolve() for path in read_image_list(tmp_path / "l.txt")] == [image.resolve()]


def test_absolute_image_paths_are_taken_as_they_are(tmp_path):
    image = write_image(tmp_path / "far/a.png")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/l.txt").write_text(f"{image}\n")
    assert read_image_list(tmp_path / "near/l.txt").images == (image,)


def test_missing_images_are_left_out_and_reported_with_their_line(tmp_path, caplog):
    write_image(tmp_path / "a.png")
    path = tmp_path / "l.txt"
    path.write_text("gone.png\n\na.png\nlost.png\n")
    images = read_image_list(path)
    assert images.lines == (3,)
    assert images.problems == (
        f"{path}:1: image gone.png does not exist",
        f"{path}:4: image lost.png does not exist",
    )
    assert "lost.png" in caplog.text


@pytest.mark.parametrize(
    "text, told", [("", "is empty"), ("\n \n", "is empty"), ("x.png\n", "none of its 1")]
)
def test_a_list_without_any_image_is_an_error(tmp_path, text, told):
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(DatasetError, match=told):
        read_image_list(tmp_path / "l.txt")


def test_what_is_no_text_is_an_error_not_a_crash(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_image_list(tmp_path / "l.txt")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_image_list(tmp_path)


def test_blank_lines_of_a_names_file_are_no_classes(tmp_path):
    (tmp_path / "n").write_text("traffic light\n\n dog \n\n")
    assert read_names(tmp_path / "n") == ("traffic light", "dog")
