import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.darknet.checkpoint import load_weights
from utils.darknet.model import Darknet
from utils.data.dataset import DetectionDataset
from utils.data.listing import read_data_file
from utils.data.loader import Loader, make_loader
from utils.detection.boxes import pairwise_iou, xywh_to_xyxy
from utils.detection.decode import HeadSpec, decode_heads
from utils.detection.evaluator import STYLES, ImageResult, Scoring, evaluate, summarize
from utils.errors import DatasetError, ToolkitError

NAMES = ("cat", "dog", "eel")
TRUTHS = ["0 .3 .3 .2 .4\n1 .7 .6 .4 .2\n", "0 .5 .5 .9 .9\n", ""]
SIZE = (96, 64)


@pytest.fixture
def loader(tmp_path) -> Loader:
    """Three images, 40 x 80; cats in two, a dog in one, eels in none, nothing in the last."""
    return make_loader(open_images(tmp_path), 2)


def open_images(folder: Path, labels: Sequence[str] = TRUTHS, letterbox: bool = False) -> DetectionDataset:
    paths = []
    for number, text in enumerate(labels):
        paths.append(folder / f"{number}.png")
        paths[-1].write_bytes(cv2.imencode(".png", np.full((40, 80, 3), 50 * number, np.uint8))[1].tobytes())
        (folder / f"{number}.txt").write_text(text)
    return DetectionDataset(paths, 3, SIZE, letterbox=letterbox)


def perfect(dataset: DetectionDataset, wrong: int | None = None):
    """A detector that knows the labels by the order of the images; `wrong` is misplaced."""
    upcoming = iter(range(len(dataset)))

    def predict(images: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(len(images), 4, 8)
        for image in range(len(images)):
            number = next(upcoming)
            for box, label in enumerate(dataset[number].labels):
                pixels = torch.tensor(label[1:] * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
                rows[image, box, :4] = pixels + (40 if number == wrong else 0)
                rows[image, box, 4] = 0.9
                rows[image, box, 5 + int(label[0])] = 0.8
        return rows

    return predict


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("style, mean", [("darknet", 2 / 3), ("voc", 1.0), ("coco", 1.0)])
def test_a_perfect_detector_has_full_ap_but_absent_classes_0_in_darknet(tmp_path, style, mean, letterbox):
    dataset = open_images(tmp_path, letterbox=letterbox)
    result = evaluate(perfect(dataset), make_loader(dataset, 2), NAMES, Scoring(style))
    assert result.map50 == pytest.approx(mean)
    assert result.map50_95 == pytest.approx(mean)
    assert result.per_class == pytest.approx({"cat": 1, "dog": 1, "eel": 0})
    assert (result.precision, result.recall) == (1, 1)
    assert (result.images, result.without_objects, result.skipped) == (3, 1, 0)
    assert result.truths == {"cat": 2, "dog": 1, "eel": 0}


@pytest.mark.parametrize("style", STYLES)
def test_a_misplaced_box_costs_its_class(loader, style):
    result = evaluate(perfect(loader.dataset, wrong=1), loader, NAMES, Scoring(style))
    assert result.per_class["dog"] == pytest.approx(1)
    # one of two cats is found before the wrong box: the curve ends at recall 1/2 (51 of COCO's 101 points)
    assert result.per_class["cat"] == pytest.approx(51 / 101 if style == "coco" else 0.5)


def test_the_result_is_json_and_images_are_counted_for_progress(loader):
    seen = []
    result = evaluate(perfect(loader.dataset), loader, NAMES, progress=seen.append)
    assert seen == [2, 1]
    assert json.loads(json.dumps(result.to_json()))["per_class"]["dog"] == 1.0
    assert result.images_per_second > 0


@pytest.mark.parametrize("kind, recall", [("default", 0.5), ("greedynms", 1.0)])
def test_the_last_head_says_how_to_suppress(tmp_path, kind, recall):
    """Two objects with an IoU of 0.49, diagonally apart: only the distance term keeps both."""
    dataset = open_images(tmp_path, ["0 .4 .4 .4 .4\n0 .475 .475 .4 .4\n"])
    specs = [HeadSpec(((1.0, 1.0),), 3, 32), HeadSpec(((1.0, 1.0),), 3, 32, nms_kind=kind)]
    assert evaluate(perfect(dataset), make_loader(dataset, 2), NAMES, Scoring(specs=specs)).recall == recall


def test_a_detector_that_finds_nothing_has_zeros(loader):
    for style in STYLES:
        result = evaluate(lambda images: torch.zeros(len(images), 0, 8), loader, NAMES, Scoring(style))
        assert (result.map50, result.map50_95, result.precision, result.recall) == (0, 0, 0, 0)


def test_unknown_styles_and_unreadable_data_sets_are_errors(loader, tmp_path):
    with pytest.raises(ToolkitError, match="darknet, voc, coco"):
        evaluate(perfect(loader.dataset), loader, NAMES, Scoring("pascal"))
    for path in loader.dataset.images:
        path.write_bytes(b"broken")
    with pytest.raises(DatasetError, match="no image"):
        evaluate(perfect(loader.dataset), loader, NAMES)


def coco_ap50(results: list[ImageResult], kind: int) -> float:
    """COCO's matching and 101 points for one class, restated: the best *free* truth is taken."""
    ranked, truths = [], 0
    for result in results:
        own = torch.from_numpy(result.truths[result.truths[:, 0] == kind, 1:])
        truths += len(own)
        mine = result.detections[result.detections[:, 5] == kind]
        mine = mine[np.argsort(-mine[:, 4], kind="stable")][:100]
        free = set(range(len(own)))
        overlaps = pairwise_iou(torch.from_numpy(mine[:, :4]), own).numpy()
        for row, overlap in zip(mine, overlaps, strict=True):
            best = max((t for t in free if overlap[t] >= 0.5), key=lambda t: overlap[t], default=None)
            free -= {best}
            ranked.append((row[4], best is not None))
    ranked.sort(key=lambda entry: -entry[0])
    right = np.cumsum([hit for _, hit in ranked])
    precision = right / np.arange(1, len(right) + 1)
    points = np.linspace(0, 1, 101)
    return float(np.mean([max(precision[right / truths >= point], default=0.0) for point in points]))


def test_coco_style_agrees_with_its_rules_restated():
    rng = np.random.default_rng(0)
    results = []
    for _ in range(12):
        count, found = int(rng.integers(0, 6)), int(rng.integers(0, 25))
        centres = np.concatenate(
            (rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.1, 0.4, (count, 2))), axis=1
        )
        truths = xywh_to_xyxy(torch.from_numpy(centres)).numpy()
        kinds = rng.integers(0, 3, count)
        guesses = truths[rng.integers(0, count, found)] if count else rng.uniform(0, 1, (found, 4))
        guesses = guesses + rng.normal(0, 0.03, guesses.shape)
        guesses = np.concatenate((guesses[:, :2], np.maximum(guesses[:, 2:], guesses[:, :2] + 0.01)), axis=1)
        scores = rng.permutation(found) / 25 + rng.uniform(0, 0.001, found)
        detections = np.column_stack((guesses, scores, rng.integers(0, 3, found)))
        # square pixels, so that overlaps in pixels are those in fractions
        results.append(ImageResult(detections, np.column_stack((kinds, truths)), (300, 300)))
    figures = summarize(results, NAMES, "coco")
    expected = {name: coco_ap50(results, kind) for kind, name in enumerate(NAMES)}
    assert figures.per_class == pytest.approx(expected, abs=1e-9)
    assert 0.1 < figures.map50 < 0.9


def test_coco_sizes_are_areas_in_pixels_of_the_original():
    def square(side: float, image: int) -> np.ndarray:
        return np.array([0, 0, side / image, side / image])

    sides = {"small": 31, "medium": 33, "large": 97}
    results = []
    for side in sides.values():
        box = square(side, 200)
        results.append(
            ImageResult(np.array([[*box, 0.9, 0]]), np.array([[0, *box]]), (200, 200)),
        )
    assert summarize(results, ["x"], "coco").by_size == pytest.approx({"small": 1, "medium": 1, "large": 1})
    only_large = summarize(results[2:], ["x"], "coco").by_size
    assert (only_large["small"], only_large["medium"]) == (None, None)


def open_network(shared: Path, folder: str, cfg: str) -> Darknet:
    model = Darknet.from_cfg(shared / f"weights/{folder}/{cfg}.cfg")
    (weights,) = (shared / f"weights/{folder}").glob("*.weights")
    load_weights(model, weights)
    return model.eval()


@pytest.fixture(scope="module")
def heads_of_batches() -> dict[str, list[list[torch.Tensor]]]:
    """Text of a network but for its masks, which only decoding reads -> raw heads of each batch."""
    return {}


@pytest.mark.parametrize(
    "folder, cfg, expected",
    [
        ("yolo-fastest-1.1", "yolo-fastest-1.1", 0.277795),
        ("yolov3-tiny", "yolov3-tiny-mask123", 0.380528),
        ("yolov3-tiny", "yolov3-tiny", 0.239287),
    ],
)
def test_map_is_the_c_programs(shared, folder, cfg, expected, heads_of_batches):
    """`detector map` on coco_mini val, area; it decodes JPEG with another library: 0.3 points."""
    model = open_network(shared, folder, cfg)
    data = read_data_file(shared / "data/coco_mini/coco_mini.data")
    size = (model.network.height, model.network.width)
    loader = make_loader(DetectionDataset.from_split(data, "valid", size), 8)

    text = (shared / f"weights/{folder}/{cfg}.cfg").read_text()
    same = "\n".join(line for line in text.splitlines() if not line.startswith("mask"))
    found, numbers = heads_of_batches.setdefault(same, []), count()

    def predict(images: torch.Tensor) -> torch.Tensor:
        number = next(numbers)
        if number == len(found):
            found.append([head.clone() for head in model(images)])
        return decode_heads([head.clone() for head in found[number]], model.head_specs)

    result = evaluate(predict, loader, data.names, Scoring(specs=model.head_specs))
    assert result.map50 == pytest.approx(expected, abs=0.003)
