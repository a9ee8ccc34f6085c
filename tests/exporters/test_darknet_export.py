"""Darknet networks as ONNX files, against the C program and section by section."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sampling import some
from utils.darknet.checkpoint import load_weights
from utils.darknet.model import Darknet
from utils.exporters.job import exporting
from utils.exporters.onnx import TOLERANCE, export_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

CFGS = sorted((Path(__file__).resolve().parents[1] / "cfgs").glob("*.cfg"))


def with_moved_statistics(network: Darknet) -> Darknet:
    """Batch norms as after some training; untouched ones would hide an error in folding them."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in ((module.running_mean, -0.1, 0.1), (module.running_var, 0.8, 1.2)):
                assert values is not None
                values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return network


@pytest.mark.parametrize("path", some(CFGS), ids=lambda path: path.stem)
def test_every_section_survives_export_at_any_size(path: Path, tmp_path: Path) -> None:
    model = with_moved_statistics(Darknet.from_cfg(path))
    if not model.head_specs:
        pytest.skip("no head, nothing to export")
    size = (model.network.height, model.network.width)
    channels = model.network.channels(-1)
    fixed = any(section.kind == "connected" for section in model.network.sections)
    step = model.network.size_step
    options = {"channels": channels, "dynamic_batch": not fixed, "dynamic_size": not fixed}
    job = exporting(model, model.head_specs, size, size_step=step, **options)
    export = export_onnx(job, tmp_path / "net.onnx")
    assert [parity.shape[0] for parity in export.parities] == ([1] if fixed else [1, 3])
    assert all(parity.largest <= TOLERANCE for parity in export.parities)


@pytest.mark.parametrize(
    ("folder", "cfg", "golden", "size"),
    [
        ("yolov3-tiny", "yolov3-tiny", "darknet_yolov3-tiny", 416),
        ("yolo-fastest-1.1", "yolo-fastest-1.1", "darknet_yolo-fastest-1.1", 320),
    ],
)
def test_exported_scores_and_centres_are_the_c_programs(
    folder: str, cfg: str, golden: str, size: int, shared: Path, tmp_path: Path
) -> None:
    model = Darknet.from_cfg(shared / "weights" / folder / f"{cfg}.cfg")
    load_weights(model, shared / "weights" / folder / f"{cfg}.weights")
    path = export_onnx(exporting(model, model.head_specs, (size, size)), tmp_path / "net.onnx").paths[0]
    image = np.random.default_rng(0).uniform(size=(1, 3, size, size)).astype("f4")
    boxes, scores = onnxruntime.InferenceSession(str(path)).run(["boxes", "scores"], {"images": image})
    leaving = np.load(shared / "golden" / f"{golden}.npz")
    expected_scores, expected_centres = [], []
    for index, spec in zip(model.network.heads, model.head_specs, strict=True):
        output = leaving[f"yolo_{index}"].reshape(len(spec.anchors), spec.width, -1, size // spec.stride)
        output = np.moveaxis(output, 1, -1)  # anchor, row, column, value
        rows, columns = np.indices(output.shape[1:3])
        cells = np.stack((columns, rows), axis=-1)
        expected_centres.append(((output[..., :2] + cells) * spec.stride).reshape(-1, 2))
        expected_scores.append((output[..., 4:5] * output[..., 5:]).reshape(-1, spec.classes))
    np.testing.assert_allclose(scores[0], np.concatenate(expected_scores), atol=2e-4)
    centres = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    np.testing.assert_allclose(centres, np.concatenate(expected_centres), atol=2e-2)
