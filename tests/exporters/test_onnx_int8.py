"""Where int8 goes, and that it is what its formula says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.exporters.networks import CLASSES, export_small
from utils.detection.decode import HeadSpec
from utils.errors import ExportError
from utils.exporters.job import exporting
from utils.exporters.onnx import export_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class Graph:
    """An ONNX file, to be asked who makes and who reads a tensor."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.makers = {name: node for node in graph.node for name in node.output}
        self.values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.convolutions = [node for node in graph.node if node.op_type == "Conv"]

    def maker(self, name: str) -> str:
        return self.makers[name].op_type if name in self.makers else ""

    def readers(self, name: str) -> list[str]:
        return [node.op_type for node in self.nodes if name in node.input]


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph(export_small(tmp_path, precision="int8").paths[0])


def test_convolutions_read_int8_and_add_float_biases(graph: Graph) -> None:
    assert len(graph.convolutions) == 4
    for node in graph.convolutions:
        assert [graph.maker(name) for name in node.input] == ["DequantizeLinear", "DequantizeLinear", ""]
        assert graph.values[node.input[2]].dtype == np.float32


def test_it_is_symmetric_and_weights_have_a_scale_for_each_output_channel(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = graph.values[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    for node in graph.convolutions:
        dequantise = graph.makers[node.input[1]]
        levels, scales = (graph.values[name] for name in dequantise.input[:2])
        assert scales.shape == levels.shape[:1]
        assert (np.abs(levels).max(axis=(1, 2, 3)) == 127).all()
        assert [attribute.i for attribute in dequantise.attribute] == [0]


def test_raw_heads_and_what_follows_them_stay_in_float(graph: Graph) -> None:
    heads = [node for node in graph.convolutions if "stem" not in node.name and "down" not in node.name]
    assert len(heads) == 2
    assert all("QuantizeLinear" not in graph.readers(node.output[0]) for node in heads)
    decoding = [node for node in graph.nodes if node.op_type in ("Sigmoid", "Exp")]
    assert all(graph.maker(name) != "DequantizeLinear" for node in decoding for name in node.input)


def test_an_activation_and_its_convolution_have_one_scale(graph: Graph) -> None:
    leaky = next(node for node in graph.nodes if node.op_type == "LeakyRelu")
    before = graph.makers[leaky.input[0]]
    behind = next(n for n in graph.nodes if n.op_type == "QuantizeLinear" and n.input[0] == leaky.output[0])
    assert before.op_type == "DequantizeLinear"
    assert graph.values[before.input[1]] == graph.values[behind.input[1]]


def test_float_weights_are_gone(graph: Graph) -> None:
    assert not [name for name, value in graph.values.items() if value.ndim == 4 and value.dtype == np.float32]


def test_a_skipped_section_reads_floats(tmp_path: Path) -> None:
    graph = Graph(export_small(tmp_path, precision="int8", int8_skip=(0, 2)).paths[0])
    kinds = [graph.maker(node.input[1]) for node in graph.convolutions]
    assert sorted(kinds) == ["", "", "DequantizeLinear", "DequantizeLinear"]
    assert graph.convolutions[0].input[0] == "images"


def test_an_unknown_section_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--int8-skip 9: .*choose among 0,1,2,3"):
        export_small(tmp_path, precision="int8", int8_skip=(1, 9))
    assert not list(tmp_path.iterdir())


class OneHead(nn.Module):
    """One convolution 1x1, of weights of very different size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5 + CLASSES, 1)
        with torch.no_grad():
            self.conv.weight *= torch.logspace(-2, 0, 5 + CLASSES).view(-1, 1, 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        head = self.conv(images)
        return [head[:, None].permute(0, 1, 3, 4, 2)]


def test_it_computes_rounded_values_times_rounded_weights(tmp_path: Path) -> None:
    model, images = OneHead(), np.random.default_rng(0).random((1, 3, 4, 4), dtype="f4")
    images[0, 0, 0, 0] = 1.0
    specs = [HeadSpec(((5.0, 3.0),), CLASSES, stride=1)]
    options = {"raw_heads": True, "precision": "int8", "calibration": lambda: [images]}
    exported = export_onnx(exporting(model, specs, (4, 4), **options), tmp_path / "net.onnx")
    graph = Graph(exported.paths[0])
    step = next(graph.values[n.input[1]] for n in graph.nodes if n.op_type == "QuantizeLinear")
    weight = model.conv.weight.detach().numpy().squeeze()
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    rounded = np.clip(np.rint(images[0] / step), -127, 127) * step
    bias = model.conv.bias.detach().numpy()[:, None, None]
    wanted = np.einsum("oi,ihw->ohw", np.rint(weight / scale) * scale, rounded) + bias
    assert exported.infer is not None
    found = exported.infer(images)[0][0, 0].transpose(2, 0, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


class Pooled(OneHead):
    """Three convolutions with a pooling between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2))
        self.second = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return super().forward(self.second(self.first(images)))


def test_both_sides_of_a_pooling_have_one_scale(tmp_path: Path) -> None:
    specs = [HeadSpec(((5.0, 3.0),), CLASSES, stride=2)]
    calibration = [np.random.default_rng(0).random((2, 3, 8, 8), dtype="f4")]
    job = exporting(Pooled(), specs, (8, 8), precision="int8", calibration=lambda: calibration)
    graph = Graph(export_onnx(job, tmp_path / "net.onnx").paths[0])
    pool = next(node for node in graph.nodes if node.op_type == "MaxPool")
    before = graph.makers[pool.input[0]]
    behind = next(n for n in graph.nodes if n.op_type == "QuantizeLinear" and n.input[0] == pool.output[0])
    assert before.op_type == "DequantizeLinear"
    assert graph.values[before.input[1]] == graph.values[behind.input[1]]


def test_int8_without_images_is_refused(tmp_path: Path) -> None:
    specs = [HeadSpec(((5.0, 3.0),), CLASSES, stride=1)]
    with pytest.raises(ExportError, match="no images to find the ranges on; add --data"):
        export_onnx(exporting(OneHead(), specs, (4, 4), precision="int8"), tmp_path / "net.onnx")
