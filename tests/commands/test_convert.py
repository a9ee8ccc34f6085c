"""From COCO, Pascal VOC and the Oxford hands to Darknet data sets, read again by this project."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.commands.data import convert as commands
from utils.commands.data.convert import HANDS_ARCHIVE, VOC_ARCHIVES
from utils.data.dataset import DetectionDataset
from utils.data.labels import label_path, read_labels
from utils.data.listing import read_data_file
from utils.errors import DatasetError

WIDTH, HEIGHT = 80, 40


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def convert(*words: object) -> None:
    commands.convert([str(word) for word in words])


def boxes(data: Path, split: str = "train") -> dict[str, list[list[float]]]:
    """File name -> class and left, top, right, bottom in pixels of each object, as the project reads them."""
    found = read_data_file(data)
    result = {}
    for image in found.image_list(split):
        rows = read_labels(label_path(image), found.classes).array.astype(float)
        corners = np.concatenate((rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2), axis=1)
        pixels = corners * (WIDTH, HEIGHT, WIDTH, HEIGHT)
        result[image.name] = [
            [kind, *row] for kind, row in zip(rows[:, 0].tolist(), pixels.round(3).tolist(), strict=True)
        ]
    return result


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three images, of which one does not exist; category ids with a gap, out of order."""
    for name in ("a.jpg", "deep/b.jpg"):
        picture(tmp_path / "images" / name)
    size = {"width": WIDTH, "height": HEIGHT}
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", **size},
            {"id": 3, "file_name": "deep/b.jpg", **size},
            {"id": 4, "file_name": "gone.jpg", **size},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 5, 20, 10]},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [70, -5, 30, 20]},  # over the border
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [90, 5, 10, 10]},  # beyond it
            {"id": 4, "image_id": 7, "category_id": 2, "bbox": [1, 1, 30, 30], "iscrowd": 1},
            {"id": 5, "image_id": 4, "category_id": 2, "bbox": [1, 1, 30, 30]},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return path


def from_coco(coco: Path, *more: object) -> Path:
    convert(
        "coco", "--json", coco, "--images", coco.parent / "images", "--output", coco.parent / "set", *more
    )
    return coco.parent / "set/set.data"


def test_coco_boxes_are_read_again(coco, capsys):
    data = from_coco(coco)
    assert read_data_file(data).names == ("cat", "dog")
    assert boxes(data) == {"a.jpg": [[1, 10, 5, 30, 15], [0, 70, 0, 80, 15]], "b.jpg": []}
    shown = capsys.readouterr().out
    for line in ("1 images that do not exist", "1 crowd regions", "1 objects without area inside the image"):
        assert f"{line} left out" in shown
    assert "1 images without objects" in shown
    assert len(DetectionDataset.from_split(read_data_file(data), "train", (32, 32))) == 2


def test_images_stay_where_they_are(coco):
    before = sorted(path for path in (coco.parent / "images").rglob("*"))
    data = from_coco(coco)
    assert sorted(path for path in (coco.parent / "images").rglob("*")) == before
    assert (data.parent / "JPEGImages/deep/b.jpg").resolve() == coco.parent / "images/deep/b.jpg"


def test_copies_do_not_need_the_originals(coco):
    data = from_coco(coco, "--copy")
    for path in (coco.parent / "images").rglob("*.jpg"):
        path.unlink()
    assert len(boxes(data)) == 2
    assert not (data.parent / "JPEGImages/a.jpg").is_symlink()


def test_wanted_classes_in_their_order(coco):
    data = from_coco(coco, "--classes", "dog")
    assert read_data_file(data).names == ("dog",)
    assert boxes(data)["a.jpg"] == [[0, 10, 5, 30, 15]]


def test_a_second_split_joins_the_first_and_overwrites_nothing(coco):
    data = from_coco(coco)
    from_coco(coco, "--split", "valid")
    assert boxes(data, "train") == boxes(data, "valid")
    with pytest.raises(DatasetError, match=r"train\.txt: exists already; add --force"):
        from_coco(coco)
    from_coco(coco, "--force")
    with pytest.raises(DatasetError, match="has the classes cat, dog, not dog"):
        from_coco(coco, "--split", "test", "--classes", "dog")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "has no list 'images'"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotations\[0\] bbox is not four numbers"),
        (lambda c: c["annotations"][0].update(category_id=5), "annotation 1 names an unknown category 5"),
        (lambda c: c["annotations"][0].update(image_id=5), "annotation 1 names an unknown image 5"),
        (lambda c: c["images"][0].update(file_name="../../etc/x.jpg"), "is outside the folder"),
        (lambda c: c["images"][0].update(width=0), "has no positive size"),
        (lambda c: c["images"][0].pop("width"), r"images\[0\] has no usable 'width'"),
        (lambda c: c.update(categories=[]), "names no class"),
    ],
)
def test_a_broken_coco_file_is_told(coco, change, message):
    content = json.loads(coco.read_text())
    change(content)
    coco.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        from_coco(coco)
    assert not (coco.parent / "set").exists()


def test_real_labels_survive_the_way_through_coco(shared, tmp_path):
    """Darknet -> COCO JSON -> Darknet: the boxes of 30 images stay, up to 1e-6 of the image."""
    source = read_data_file(shared / "data/bccd/bccd.data")
    images = list(source.image_list("valid"))[:30]
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 10 * k, "name": name} for k, name in enumerate(source.names)]
    for number, path in enumerate(images):
        content["images"].append({"id": number, "file_name": path.name, "width": 640, "height": 480})
        for kind, x, y, w, h in read_labels(label_path(path), source.classes).array.astype(float).tolist():
            box = [(x - w / 2) * 640, (y - h / 2) * 480, w * 640, h * 480]
            content["annotations"].append({"image_id": number, "category_id": 10 * int(kind), "bbox": box})
    (tmp_path / "x.json").write_text(json.dumps(content))
    convert("coco", "--json", tmp_path / "x.json", "--images", images[0].parent, "--output", tmp_path / "set")
    again = read_data_file(tmp_path / "set/set.data").image_list("train")
    inside = 0
    for old, new in zip(images, again, strict=True):
        before = read_labels(label_path(old), source.classes).array
        after = read_labels(label_path(new), source.classes).array
        whole = (abs(before[:, 1:3] - 0.5) + before[:, 3:] / 2 <= 0.5).all(1)  # others are cut at the border
        np.testing.assert_allclose(after[whole], before[whole], atol=1e-6)
        inside += int(whole.sum())
    assert inside > 200


def voc_xml(objects: str, size: str = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>") -> str:
    return f"<annotation><filename>x.jpg</filename>{size}{objects}</annotation>"


def voc_object(name: str, box: tuple[float, float, float, float], difficult: int = 0) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2007"
    picture(root / "JPEGImages/x.jpg")
    objects = voc_object("dog", (1, 1, 80, 40)) + voc_object("cat", (11, 6, 30, 15), 1)
    (root / "Annotations").mkdir()
    (root / "Annotations/x.xml").write_text(voc_xml(objects))
    return root


def test_voc_pixels_count_from_one_with_both_ends(voc):
    convert("voc", "--root", voc, "--output", voc.parent / "set")
    data = voc.parent / "set/set.data"
    assert len(read_data_file(data).names) == 20
    assert boxes(data) == {"x.jpg": [[11, 0, 0, 80, 40]]}


def test_difficult_objects_can_be_kept(voc):
    convert("voc", "--root", voc, "--difficult", "--classes", "cat,dog", "--output", voc.parent / "set")
    assert boxes(voc.parent / "set/set.data") == {"x.jpg": [[1, 0, 0, 80, 40], [0, 10, 5, 30, 15]]}


def test_image_sets_choose_and_a_missing_size_is_measured(voc):
    picture(voc / "JPEGImages/y.jpg")
    (voc / "Annotations/y.xml").write_text(
        voc_xml(voc_object("own", (1, 1, 8, 4)), size="").replace("x.jpg", "y.jpg")
    )
    (voc / "ImageSets/Main").mkdir(parents=True)
    (voc / "ImageSets/Main/val.txt").write_text("y\n")
    convert("voc", "--root", voc, "--set", "val", "--split", "valid", "--output", voc.parent / "set")
    assert read_data_file(voc.parent / "set/set.data").names == ("own",)
    assert boxes(voc.parent / "set/set.data", "valid") == {"y.jpg": [[0, 0, 0, 8, 4]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "is not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "is not a plain annotation"),
        (voc_xml("<object><name>dog</name></object>"), "object 'dog' has no bndbox of four numbers"),
    ],
)
def test_a_broken_annotation_is_told(voc, text, message):
    (voc / "Annotations/x.xml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        convert("voc", "--root", voc, "--output", voc.parent / "set")


def packed(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def test_voc_is_fetched_verified_and_converted(voc, tmp_path, monkeypatch):
    import hashlib

    (voc / "ImageSets/Main").mkdir(parents=True)
    for name in ("trainval", "test"):
        (voc / f"ImageSets/Main/{name}.txt").write_text("x\n")
    kit = tmp_path / "VOCdevkit"
    kit.mkdir()
    voc.rename(kit / "VOC2007")
    archives = []
    for name, _ in VOC_ARCHIVES["2007"]:
        path = packed(kit, tmp_path / "server" / name)
        archives.append((name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setitem(VOC_ARCHIVES, "2007", tuple(archives))
    url = (tmp_path / "server").as_uri()
    words = ["--url", url, "--output", str(tmp_path / "got")]
    commands.get_voc(words)
    assert boxes(tmp_path / "got/got.data", "train") == boxes(tmp_path / "got/got.data", "valid")
    monkeypatch.setitem(VOC_ARCHIVES, "2007", tuple((name, "0" * 32) for name, _ in archives))
    with pytest.raises(DatasetError, match=r"has MD5 .*, not 0000"):
        commands.get_voc(words)


def test_hands_are_turned_boxes_y_before_x(tmp_path):
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy")
    root = tmp_path / "hand_dataset"
    for folder in (
        "training_dataset/training_data",
        "validation_dataset/validation_data",
        "test_dataset/test_data",
    ):
        picture(root / folder / "images/h.jpg")
        (root / folder / "annotations").mkdir(parents=True)
        # corners (y, x) from 1, of a square that stands on its corner
        hand = {"a": [[11.0, 31.0]], "b": [[21.0, 41.0]], "c": [[31.0, 31.0]], "d": [[21.0, 21.0]]}
        cells = np.empty((1, 2), object)
        cells[0, 0], cells[0, 1] = hand, {key: [[y, x + 5]] for key, [[y, x]] in hand.items()}
        scipy_io.savemat(root / folder / "annotations/h.mat", {"boxes": cells})
    packed(root, tmp_path / "server" / HANDS_ARCHIVE)
    words = ["--url", (tmp_path / "server").as_uri(), "--output", str(tmp_path / "hands")]
    commands.get_oxford_hand(words)
    for split in ("train", "valid", "test"):
        assert boxes(tmp_path / "hands/hands.data", split) == {
            "h.jpg": [[0, 20, 10, 40, 30], [0, 25, 10, 45, 30]]
        }


def test_scripts_run_from_anywhere(coco, tmp_path, root):
    words = ["coco", "--json", coco, "--images", coco.parent / "images", "--output", "made"]
    command = [sys.executable, root / "data/convert.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "train: 2 images, 2 objects" in done.stdout
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "exists already" in again.stderr
