"""detect.py as its users meet it, and its boxes against the C program's."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect as script
from tests.detectors import mini_cfg, mini_detector
from utils.commands.detect.run import DetectionOptions, detect
from utils.commands.inputs import open_files
from utils.darknet.checkpoint import save_weights
from utils.data.images import read_image
from utils.data.shapes import make_shapes
from utils.detection.boxes import pairwise_iou, xywh_to_xyxy
from utils.errors import DatasetError, ToolkitError
from utils.runtimes.detecting import Detector, Thresholds

# Two decoders of JPEG differ by a grey value here and there, which moves boxes and scores that are nearly
# as good as one another: 7 of all 2,165 boxes above 0.2 have no partner within the tolerances.
NEAR_TIES = 0.01


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A network with random weights that finds much, and six images."""
    save_weights(mini_detector(tmp_path), tmp_path / "net.weights")
    make_shapes(tmp_path, sizes={"train": 1, "valid": 5})
    return tmp_path


def images(project: Path) -> list[Path]:
    return sorted((project / "shapes/images").glob("*.jpg"))


def run(project: Path, source: object, *more: str) -> Path:
    """Detect; the folder of the results."""
    out = project / "out"
    files = ["--cfg", str(project / "net.cfg"), "--weights", str(project / "net.weights")]
    script.main([*files, "--source", str(source), "--output", str(out), "--conf", "0.2", *more])
    return out


@pytest.mark.parametrize(
    ("folder", "cfg"),
    [
        ("yolov3-tiny", "yolov3-tiny-mask123"),
        ("yolo-fastest-1.1", "yolo-fastest-1.1"),
        ("mobilenetv2-yolov3-nano-voc", "MobileNetV2-YOLOv3-Nano-voc"),
    ],
)
def test_boxes_are_those_of_the_c_program(shared: Path, folder: str, cfg: str) -> None:
    """`detector test`: every box above 0.2 has its partner on either side, but for near ties."""
    golden = json.loads((shared / f"golden/boxes_{cfg}.json").read_text())["images"]
    place = shared / "weights" / folder
    weights = next(iter(sorted(place.glob("*.weights"))))
    model = open_files(place / f"{cfg}.cfg", weights)
    size = (model.network.height, model.network.width)
    detector = Detector(model, size, Thresholds(0.1), letterbox=False)
    alone = total = 0
    for entry in golden[:50]:
        image = read_image(shared / "data/coco_mini/images" / entry["file"])
        height, width = image.shape[:2]
        ours = torch.from_numpy(detector(image)[0]).float()
        theirs = torch.tensor(entry["boxes"], dtype=torch.float32).reshape(-1, 6)
        boxes = xywh_to_xyxy(theirs[:, 2:]) * torch.tensor([width, height, width, height])
        as_ours = torch.cat((boxes, theirs[:, 1:2], theirs[:, :1]), dim=1)
        for these, those in ((ours, as_ours), (as_ours, ours)):
            shown = these[these[:, 4] > 0.2]
            alone += int((~_has_partner(shown, those)).sum())
            total += len(shown)
    assert total > 100
    assert alone <= NEAR_TIES * total


def _has_partner(these: torch.Tensor, those: torch.Tensor) -> torch.Tensor:
    alike = pairwise_iou(these[:, :4], those[:, :4]) > 0.95
    alike &= (these[:, None, 4] - those[:, 4]).abs() < 0.02
    return (alike & (these[:, None, 5] == those[:, 5])).any(1)


def test_pictures_labels_and_json_say_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = images(project)
    out = run(project, files[0].parent, "--save-txt", "--json", "--data", str(project / "shapes.data"))
    entries = json.loads((out / "detections.json").read_text())
    shown = capsys.readouterr().out
    assert entries
    for number, path in enumerate(files, start=1):
        image = read_image(path)
        picture = read_image(out / path.name)
        assert picture.shape == image.shape
        mine = [entry for entry in entries if entry["file_name"] == path.name]
        assert {entry["image_id"] for entry in mine} <= {number}
        assert (picture != image).any() == bool(mine)
        height, width = image.shape[:2]
        lines = (out / "labels" / f"{path.stem}.txt").read_text().splitlines()
        for line, entry in zip(lines, mine, strict=True):
            kind, x, y, w, h, score = map(float, line.split())
            left, top, box_width, box_height = entry["bbox"]
            expected = [(left + box_width / 2) / width, (top + box_height / 2) / height]
            expected += [box_width / width, box_height / height, entry["score"]]
            np.testing.assert_allclose([x, y, w, h, score], expected, atol=2e-4)
            assert kind == entry["category_id"]
            assert left >= 0
            assert left + box_width <= width + 0.01
        assert f"{path.name}: " in shown
    assert f"{len(files)} images, {len(entries)} objects" in shown


def test_coco_names_give_their_ids(project: Path) -> None:
    image = cv2.imread(str(images(project)[0]))
    cv2.imwrite(str(project / "000000000139.jpg"), image)
    out = run(project, project / "000000000139.jpg", "--json", str(project / "found.json"))
    assert {entry["image_id"] for entry in json.loads((project / "found.json").read_text())} == {139}
    assert (out / "000000000139.jpg").is_file()


def test_images_of_one_name_get_names_of_their_own(project: Path) -> None:
    first, second = images(project)[:2]
    folder = project / "both/deep"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(first.read_bytes())
    (folder.parent / "a.jpg").write_bytes(second.read_bytes())
    out = run(project, f"{project}/both/**/*.jpg")
    assert sorted(path.name for path in out.iterdir()) == ["a-2.jpg", "a.jpg"]


def test_an_unreadable_image_is_left_out_among_others(project: Path, capsys) -> None:
    folder = images(project)[0].parent
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    out = run(project, folder)
    shown = capsys.readouterr().out
    assert "broken.jpg: " in shown
    assert "1 images could not be read and were left out" in shown
    assert not (out / "broken.jpg").exists()
    with pytest.raises(DatasetError, match=r"broken\.jpg"):
        run(project, folder / "broken.jpg")


def test_an_input_is_never_overwritten(project: Path) -> None:
    folder = images(project)[0].parent
    before = images(project)[0].read_bytes()
    with pytest.raises(ToolkitError, match="is an input and would be overwritten; choose another --output"):
        run(project, folder, "--output", str(folder))
    assert images(project)[0].read_bytes() == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jpg", "missing.jpg: no such file or folder; give an image, a folder"),
        ("*.nothing", "no image matches; check the pattern"),
        ("missing.mp4", "missing.mp4: no such file; check the path"),
        ("99", "99: this camera does not respond"),
    ],
)
def test_a_source_that_is_not_there_is_told(project: Path, source: str, message: str) -> None:
    with pytest.raises(DatasetError) as error:
        run(project, source)
    assert message in str(error.value)


def test_without_a_source_it_asks_for_one(project: Path) -> None:
    with pytest.raises(ToolkitError, match="--source: missing; give an image"):
        detect(DetectionOptions(cfg=project / "net.cfg", weights=project / "net.weights"))


def test_python_gets_what_the_command_writes_and_nothing_is_printed(project: Path, capsys) -> None:
    out = project / "result"
    options = DetectionOptions(
        cfg=project / "net.cfg",
        weights=project / "net.weights",
        source=str(images(project)[0].parent),
        output=out,
        conf=0.2,
        json=Path(),
    )
    result = detect(options)
    assert json.loads((out / "detections.json").read_text()) == list(result.boxes)
    assert sum(result.objects.values()) == len(result.boxes) > 0
    assert len(result.times) == len(images(project))
    assert result.written == (out, out / "detections.json")
    assert capsys.readouterr() == ("", "")


def test_names_of_another_network_are_refused(project: Path) -> None:
    (project / "two.names").write_text("one\ntwo\n")
    with pytest.raises(ToolkitError, match=r"2 class names, but the network .* has 4 classes"):
        run(project, images(project)[0], "--names", str(project / "two.names"))


def test_the_cfg_says_whether_the_aspect_is_kept(project: Path) -> None:
    """A wide image: stretched and letterboxed boxes differ, and letter_box=1 is --letterbox."""
    wide = np.random.default_rng(0).integers(0, 255, (40, 160, 3), np.uint8)
    cv2.imwrite(str(project / "wide.png"), wide)
    found = []
    for net, more in (("", []), ("", ["--letterbox"]), ("letter_box=1", [])):
        (project / "net.cfg").write_text(mini_cfg(net=net))
        run(project, project / "wide.png", "--json", str(project / "found.json"), *more)
        found.append(json.loads((project / "found.json").read_text()))
    assert found[1] == found[2] != found[0]


@pytest.fixture
def video(project: Path) -> Path:
    """Eight frames of a real encoder."""
    path = project / "street.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    rng = np.random.default_rng(0)
    for _ in range(8):
        writer.write(rng.integers(0, 255, (64, 96, 3), np.uint8))
    writer.release()
    return path


def frames_of(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_a_video_becomes_a_video(project: Path, video: Path, capsys) -> None:
    out = run(project, video, "--json", "--save-txt")
    assert frames_of(out / "street.mp4") == 8
    assert {entry["image_id"] for entry in json.loads((out / "detections.json").read_text())} <= set(
        range(1, 9)
    )
    assert len(list((out / "labels").iterdir())) == 8
    assert "8 images" in capsys.readouterr().out


def test_a_video_broken_off_can_be_played_up_to_there(project: Path, video: Path, monkeypatch) -> None:
    calls = iter(range(8))
    original = Detector.__call__

    def until_the_fourth(self: Detector, image: np.ndarray) -> object:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(Detector, "__call__", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(project, video)
    assert frames_of(project / "out/street.mp4") == 3
    assert [path.name for path in (project / "out").iterdir()] == ["street.mp4"]


def test_a_video_that_is_none_is_told_and_nothing_is_left(project: Path) -> None:
    (project / "no.mp4").write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"no\.mp4: OpenCV cannot read this video"):
        run(project, project / "no.mp4")
    assert not (project / "out").exists() or not list((project / "out").iterdir())
