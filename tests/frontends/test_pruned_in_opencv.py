"""Pruned files in another program: OpenCV's Darknet importer reads the new cfg and weights."""

import cv2
import numpy as np
import pytest
import torch

from tests.darknet.references import as_map, opencv_heads, random_images, randomised
from utils.darknet.checkpoint import load_weights
from utils.darknet.model import Darknet
from utils.frontends.darknet.subject import DarknetSubject
from utils.pruning.policies import WeakestBlocks, slim_threshold
from utils.pruning.surgery import prune


def pruned(model: Darknet, policies: list) -> Darknet:
    return prune(DarknetSubject.of(model.eval()), policies).compact.model


def test_real_weights_pruned_give_the_same_raw_heads(shared, tmp_path):
    folder = shared / "weights/yolov3-tiny"
    model = Darknet.from_cfg(folder / "yolov3-tiny-mask123.cfg")
    load_weights(model, folder / "yolov3-tiny.weights")
    compact = pruned(model, [slim_threshold(0.3, 0.01)])
    image = cv2.imread(str(sorted((shared / "data/coco_mini/images").glob("*.jpg"))[0]))
    image = cv2.cvtColor(cv2.resize(image, (416, 416)), cv2.COLOR_BGR2RGB)
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        ours = [as_map(head) for head in compact(images)]
    for mine, theirs in zip(ours, opencv_heads(compact, images, tmp_path), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4 * max(1, np.abs(mine).max()))


@pytest.mark.parametrize(
    ("name", "policies"),
    [
        ("yolov3-shapes", [slim_threshold(0.6, 0.05), WeakestBlocks(8)]),
        ("yolov3-shapes", [WeakestBlocks(23)]),
        ("yolov4-tiny", [slim_threshold(0.5, 0.05)]),  # routes with groups
    ],
    ids=["channels and blocks", "all blocks", "route groups"],
)
def test_structures_pruned_give_the_same_raw_heads(root, name, policies, tmp_path):
    model = randomised(Darknet.from_cfg(root / f"cfg/{name}.cfg"))
    compact = pruned(model, policies)
    images = random_images(compact)
    with torch.no_grad():
        ours = [as_map(head) for head in compact(images)]
    for mine, theirs in zip(ours, opencv_heads(compact, images, tmp_path), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-3 * np.abs(mine).max())


def test_a_pruned_depthwise_network_is_read_alike(shared, tmp_path):
    """Groups follow their channels; real weights of a network of depthwise convolutions."""
    folder = shared / "weights/yolo-fastest-1.1"
    model = Darknet.from_cfg(folder / "yolo-fastest-1.1.cfg")
    load_weights(model, folder / "yolo-fastest-1.1.weights")
    compact = pruned(model, [slim_threshold(0.2, 0.1), WeakestBlocks(2)])
    depthwise = [s for s in compact.network.sections if s.kind == "convolutional" and s.groups > 1]
    assert depthwise
    assert all(section.groups == section.filters for section in depthwise)
    images = random_images(compact)
    with torch.no_grad():
        ours = [as_map(head) for head in compact(images)]
    for mine, theirs in zip(ours, opencv_heads(compact, images, tmp_path), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-3 * np.abs(mine).max())
