"""An ONNX file that suppresses overlapping boxes itself, against this project's suppression."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exporters.networks import CLASSES, small_job
from utils.darknet.checkpoint import load_weights
from utils.darknet.model import Darknet
from utils.data.images import read_image, resize_exactly
from utils.detection.boxes import suppress
from utils.detection.decode import HeadSpec, decode_heads
from utils.errors import ExportError
from utils.exporters.job import exporting
from utils.exporters.onnx import export_onnx
from utils.exporters.onnx_suppression import expected_detections

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def detections(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["detections"]
    return session.run(None, {"images": images})[0]


def test_of_two_that_overlap_the_better_stays_in_each_class() -> None:
    """By hand: boxes 0 and 1 overlap by 0.82, box 2 lies apart."""
    boxes = np.array([[[0, 0, 10, 10], [0, 1, 10, 11], [50, 50, 60, 60]]], "f4")
    scores = np.array([[[0.9, 0.3], [0.8, 0.6], [0.1, 0.7]]], "f4")
    wanted = [
        [0, 0, 0, 10, 10, 0.9, 0],
        [0, 50, 50, 60, 60, 0.7, 1],
        [0, 0, 1, 10, 11, 0.6, 1],
    ]
    np.testing.assert_allclose(expected_detections(boxes, scores, 0.25, 0.45), wanted, rtol=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_keeps_what_suppress_keeps(dynamic: bool, tmp_path: Path) -> None:
    job = small_job(confidence=0.2, overlap=0.3, dynamic_batch=dynamic, dynamic_size=dynamic)
    images = np.random.default_rng(1).random((3 if dynamic else 1, 3, 32, 48), dtype="f4")
    plain = export_onnx(job, tmp_path / "plain.onnx").infer
    assert plain is not None
    path = export_onnx(replace(job, suppress=True), tmp_path / "net.onnx").paths[0]
    found, wanted = detections(path, images), expected_detections(*plain(images), 0.2, 0.3)
    assert len(wanted) > 3
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_real_image_has_the_same_objects(shared: Path, tmp_path: Path) -> None:
    folder = shared / "weights/yolov3-tiny"
    model = Darknet.from_cfg(folder / "yolov3-tiny.cfg").eval()
    load_weights(model, folder / "yolov3-tiny.weights")
    image = read_image(next((shared / "data/coco_mini/images").rglob("*.jpg")))
    images = resize_exactly(image, (416, 416), letterbox=False)[None] / 255
    job = exporting(model, model.head_specs, (416, 416), suppress=True, confidence=0.1)
    path = export_onnx(job, tmp_path / "net.onnx").paths[0]
    with torch.no_grad():
        wanted = suppress(decode_heads(model(images), model.head_specs)[0], 0.1, 0.45).numpy()
    found = detections(path, images.numpy())
    found = found[found[:, 5].argsort(kind="stable")[::-1], 1:]
    assert len(wanted) > 0
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-2)


def test_an_image_without_objects_gives_no_rows(tmp_path: Path) -> None:
    path = export_onnx(small_job(suppress=True, confidence=1.0), tmp_path / "net.onnx").paths[0]
    assert detections(path, np.zeros((1, 3, 32, 48), "f4")).shape == (0, 7)


def test_another_kind_of_suppression_is_said(tmp_path: Path) -> None:
    job = small_job(suppress=True)
    last = HeadSpec(((30.0, 40.0),), CLASSES, stride=16, nms_kind="diounms")
    note = export_onnx(replace(job, specs=(job.specs[0], last)), tmp_path / "net.onnx").note
    assert note == "NMS by plain IoU, not the cfg's nms_kind=diounms"


def test_raw_heads_cannot_be_suppressed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="contain no boxes to suppress; leave --raw-heads out"):
        export_onnx(small_job(suppress=True, raw_heads=True), tmp_path / "net.onnx")
