"""fp16 ends at the raw heads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.exporters.networks import CLASSES, SPECS, TwoHeads, export_small
from utils.detection.decode import HeadSpec
from utils.errors import ExportError
from utils.exporters.job import BOUNDS, exporting
from utils.exporters.onnx import export_onnx
from utils.exporters.tracing import BoxesAndScores

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def tensor_types(path: Path) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("raw_heads", [False, True])
def test_the_network_is_half_and_what_goes_in_and_out_is_not(raw_heads: bool, tmp_path: Path) -> None:
    path = export_small(tmp_path, precision="fp16", raw_heads=raw_heads).paths[0]
    graph, types = onnx.load(path).graph, tensor_types(path)
    assert {types[value.name] for value in [*graph.input, *graph.output]} == {FLOAT}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    assert {types[name] for node in convolutions for name in [*node.input, *node.output]} == {HALF}


def test_decoding_is_in_float32(tmp_path: Path) -> None:
    path = export_small(tmp_path, precision="fp16").paths[0]
    graph, types = onnx.load(path).graph, tensor_types(path)
    decoding = [node for node in graph.node if node.op_type in ("Sigmoid", "Exp", "Sub", "Mul")]
    decoding = [node for node in decoding if not node.name.startswith("/model/")]
    assert decoding
    assert HALF not in {types[name] for node in decoding for name in [*node.input, *node.output]}


def test_outputs_stay_close_to_torch(tmp_path: Path) -> None:
    exported = export_small(tmp_path, precision="fp16", dynamic_batch=True, dynamic_size=True)
    images = torch.rand(2, 3, 48, 32)
    assert exported.infer is not None
    actual = exported.infer(images.numpy())
    with torch.no_grad():
        wanted = BoxesAndScores(TwoHeads(), SPECS).eval()(images)
    for found, expected in zip(actual, wanted, strict=True):
        error = np.abs(found - expected.numpy()).max()
        assert (
            0 < error < BOUNDS["fp16"].tolerance * expected.abs().max()
        )  # 0 would mean that nothing is in half


def test_positions_far_from_the_corner_are_exact(tmp_path: Path) -> None:
    """255.5 cells of 9 pixels are 2299.5, which float16 would round to 2300."""

    class Silent(nn.Module):
        def forward(self, images: Tensor) -> list[Tensor]:
            map_ = 0 * images.mean(dim=1, keepdim=True)[:, :, ::9, ::9]
            return [map_[..., None].expand(-1, -1, -1, -1, 5 + CLASSES)]

    specs = [HeadSpec(((5.0, 3.0),), CLASSES, stride=9)]
    job = exporting(Silent(), specs, (9, 9 * 256), precision="fp16")
    exported = export_onnx(job, tmp_path / "net.onnx")
    assert exported.infer is not None
    boxes, _ = exported.infer(np.zeros((1, 3, 9, 9 * 256), np.float32))
    np.testing.assert_array_equal(boxes[0, -1], [9 * 255.5 - 2.5, 3, 9 * 255.5 + 2.5, 6])


def test_a_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    model = TwoHeads()
    with torch.no_grad():
        model.coarse.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"1e\+05 is out of range, the maximum of float16 is 65504; "):
        export_small(tmp_path, model, precision="fp16")
    assert not list(tmp_path.iterdir())
