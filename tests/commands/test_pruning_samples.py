"""Which boxes count as kept, lost and gained, and which pictures are shown."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.commands.evaluate.run import open_split
from utils.commands.inputs import open_files
from utils.commands.prune import page as pruning_page
from utils.commands.prune.page import compared, samples
from utils.data.dataset import DetectionDataset
from utils.data.listing import read_data_file
from utils.data.loader import make_loader
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import slim_threshold
from utils.pruning.surgery import prune

NAMES = ("cat", "dog")
NOTHING = np.zeros((0, 6))
NO_TRUTHS = np.zeros((0, 5))


def rows(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, dtype=np.float64).reshape(-1, 6)


def kinds(before, after, truths=NO_TRUTHS) -> list[tuple[str, str, float]]:
    return [(box.kind, box.label, box.score) for box in compared(before, after, truths, NAMES)]


BOX = (0.1, 0.1, 0.5, 0.5)
NEAR = (0.1, 0.1, 0.5, 0.45)  # IoU 0.875
FAR = (0.3, 0.1, 0.7, 0.5)  # IoU 1/3
TWO = rows((*BOX, 0.9, 0), (*NEAR, 0.5, 0))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (rows((*BOX, 0.9, 0)), rows((*NEAR, 0.8, 0)), [("kept", "cat", 0.9)]),
        (rows((*BOX, 0.9, 0)), NOTHING, [("lost", "cat", 0.9)]),
        (NOTHING, rows((*BOX, 0.9, 1)), [("gained", "dog", 0.9)]),
        (rows((*BOX, 0.9, 0)), rows((*BOX, 0.8, 1)), [("lost", "cat", 0.9), ("gained", "dog", 0.8)]),
        (rows((*BOX, 0.9, 0)), rows((*FAR, 0.8, 0)), [("lost", "cat", 0.9), ("gained", "cat", 0.8)]),
        (TWO, rows((*BOX, 0.7, 0)), [("kept", "cat", 0.9), ("lost", "cat", 0.5)]),
        (NOTHING, NOTHING, []),
    ],
    ids=["same", "none after", "none before", "another class", "too far", "claimed once", "nothing"],
)  # fmt: skip
def test_boxes_are_kept_lost_or_gained(before, after, expected):
    assert kinds(before, after) == expected


def test_a_box_is_right_if_it_meets_an_object_of_its_class():
    before = rows((*BOX, 0.9, 0), (*BOX, 0.8, 1), (*FAR, 0.7, 0))
    found = compared(before, NOTHING, np.array([[0, *NEAR]]), NAMES)
    assert [box.right for box in found] == [True, False, False]


def test_boxes_end_at_the_border_of_the_image():
    (box,) = compared(rows((-0.2, 0.5, 0.4, 1.3, 0.9, 0)), NOTHING, NO_TRUTHS, NAMES)
    assert box.xyxy == (0, 0.5, 0.4, 1)


@pytest.fixture
def loader(tmp_path: Path):
    """Six images of 1000 x 500 pixels, the second of which is no image."""
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((500, 1000, 3), 40 * number, np.uint8))
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    paths[1].write_text("no image")
    return make_loader(DetectionDataset(paths, 2, (64, 64)), 2)


def fake_detectors(monkeypatch, counts: dict[int, int]) -> None:
    """The first network finds nothing, the second on image n `counts[n]` boxes."""

    class Detector:
        def __init__(self, model: str, *_: object) -> None:
            self.model = model

        def __call__(self, image):
            count = counts[round(image[0, 0, 0] / 40)] if self.model == "after" else 0
            return rows(*[(100 * i, 0, 100 * i + 50, 50, 0.5, 0) for i in range(count)]), None

    monkeypatch.setattr(pruning_page, "Detector", Detector)


def test_the_pictures_that_differ_most_come_in_the_order_of_the_list(loader, monkeypatch):
    fake_detectors(monkeypatch, {0: 1, 2: 0, 3: 5, 4: 2, 5: 3})
    found = samples("before", "after", loader, NAMES, count=3)
    assert [(sample.name, len(sample.changes)) for sample in found] == [
        ("3.png", 5),
        ("4.png", 2),
        ("5.png", 3),
    ]


def test_pictures_are_small_jpegs_and_boxes_fractions(loader, monkeypatch):
    fake_detectors(monkeypatch, dict.fromkeys(range(6), 2))
    sample = samples("before", "after", loader, NAMES, count=1)[0]
    image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (320, 640, 3)
    assert sample.image.startswith(b"\xff\xd8")
    assert sample.size == (500, 1000)
    assert [box.xyxy for box in sample.boxes] == [(0, 0, 0.05, 0.1), (0.1, 0, 0.15, 0.1)]


def test_a_network_agrees_with_itself_and_not_with_a_ruin(shared, monkeypatch):
    """On real pictures: its own boxes are all kept, and all lost with a third of the channels."""
    monkeypatch.setattr(pruning_page, "LOOKED_AT", 6)
    folder = shared / "weights/yolov3-tiny"
    model = open_files(folder / "yolov3-tiny-mask123.cfg", folder / "yolov3-tiny.weights").eval()
    data = read_data_file(shared / "data/coco_mini/coco_mini.data")
    loader = open_split(data, "valid", model, (416, 416))
    same = samples(model, model, loader, data.names)
    boxes = [box for sample in same for box in sample.boxes]
    assert len(boxes) > 5
    assert {box.kind for box in boxes} == {"kept"}
    assert sum(box.right for box in boxes) > len(boxes) / 2
    ruin = prune(DarknetSubject.of(model), [slim_threshold(0.3, 0.01)]).compact.model
    assert {box.kind for sample in samples(model, ruin, loader, data.names) for box in sample.boxes} == {
        "lost"
    }
