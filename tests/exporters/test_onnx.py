"""The exported file computes what the network does, or it is not there."""

import builtins
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.exporters.networks import CLASSES, SPECS, TwoHeads, export_small
from utils.detection.decode import HeadSpec
from utils.errors import ExportError, MissingPackageError
from utils.exporters.job import Exported, exporting, verify
from utils.exporters.onnx import export_onnx
from utils.exporters.parity import onnx_infer
from utils.exporters.tracing import BoxesAndScores

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def export(
    model: nn.Module,
    specs: Sequence[HeadSpec],
    path: Path,
    size: tuple[int, int],
    dynamic: bool = False,
    **options: Any,
) -> Exported:
    job = exporting(model, specs, size, dynamic_batch=dynamic, dynamic_size=dynamic, **options)
    return export_onnx(job, path)


def run(path: Path, images: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["boxes", "scores"], {"images": images.numpy()})


def test_outputs_are_the_formulas_of_darknet(tmp_path: Path) -> None:
    """An oracle by hand: one cell, one anchor, get_yolo_box and objectness times class."""
    raw = torch.tensor([0.3, -0.7, 0.2, 0.1, 1.5, -1.0, 2.0])

    class OneCell(nn.Module):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [raw.view(1, 1, 1, 1, 7) + 0 * images.sum()]

    spec = HeadSpec(((10.0, 14.0),), CLASSES, stride=8)
    path = export(OneCell(), [spec], tmp_path / "one.onnx", (8, 8)).paths[0]
    boxes, scores = run(path, torch.zeros(1, 3, 8, 8))

    def sigmoid(value: float) -> float:
        return 1 / (1 + np.exp(-value))

    x, y, width, height = 8 * sigmoid(0.3), 8 * sigmoid(-0.7), 10 * np.exp(0.2), 14 * np.exp(0.1)
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    assert boxes.tolist()[0][0] == pytest.approx(corners, rel=1e-5)
    assert scores.tolist()[0][0] == pytest.approx([sigmoid(1.5) * sigmoid(c) for c in (-1.0, 2.0)], rel=1e-5)


def test_one_size_is_written_into_the_file(tmp_path: Path) -> None:
    exported = export(TwoHeads(), SPECS, tmp_path / "net.onnx", (32, 48))
    graph = onnx.load(exported.paths[0]).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.output]
    }
    count = 2 * (4 * 6) + 2 * 3
    assert shapes == {"images": [1, 3, 32, 48], "boxes": [1, count, 4], "scores": [1, count, CLASSES]}
    assert [parity.shape for parity in exported.parities] == [(1, 3, 32, 48)]


def test_batch_norms_are_folded(tmp_path: Path) -> None:
    exported = export(TwoHeads(), SPECS, tmp_path / "net.onnx", (32, 48))
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(exported.paths[0]).graph.node}


def test_dynamic_file_takes_any_batch_and_size(tmp_path: Path) -> None:
    model = TwoHeads()
    exported = export(model, SPECS, tmp_path / "net.onnx", (32, 48), dynamic=True)
    assert [parity.shape for parity in exported.parities] == [(1, 3, 32, 48), (3, 3, 16, 64)]
    images = torch.rand(2, 3, 80, 16)  # neither of the two that the export compared
    expected = BoxesAndScores(model, SPECS).eval()(images)
    for actual, wanted in zip(run(exported.paths[0], images), expected, strict=True):
        np.testing.assert_allclose(actual, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = TwoHeads().double().train()
    before = copy.deepcopy(model.state_dict())
    export(model, SPECS, tmp_path / "net.onnx", (32, 32))
    assert model.training
    assert model.down[1].training
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_metadata_is_in_the_file(tmp_path: Path) -> None:
    path = export(TwoHeads(), SPECS, tmp_path / "net.onnx", (32, 32), metadata={"names": '["a", "ü"]'}).paths[
        0
    ]
    stored = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert stored["names"] == '["a", "ü"]'


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    path = export(TwoHeads(seed=1), SPECS, tmp_path / "other.onnx", (32, 32)).paths[0]
    with pytest.raises(
        ExportError, match=r"batch 1, 32x32: (boxes|scores) differ from torch by .* of the largest"
    ):
        verify(exporting(TwoHeads(seed=2), SPECS, (32, 32)), onnx_infer(path), "onnxruntime")


def test_a_small_change_of_one_weight_is_noticed(tmp_path: Path) -> None:
    """The tolerance is tight enough for 0.1 % on the width of a single anchor."""
    model = TwoHeads()
    path = export(model, SPECS, tmp_path / "net.onnx", (32, 32)).paths[0]
    with torch.no_grad():
        model.coarse.bias[2] += 1e-3
    with pytest.raises(ExportError, match="boxes differ"):
        verify(exporting(model, SPECS, (32, 32)), onnx_infer(path), "onnxruntime")


class SizeFrozen(TwoHeads):
    """Traces to a graph that holds a number computed from the traced width."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [head * (int(images.shape[3]) / 48) for head in super().forward(images)]


class Random(TwoHeads):
    """Draws numbers, so that no two runs agree."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [head + torch.rand_like(head) for head in super().forward(images)]


class Broken(TwoHeads):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [head * float("nan") for head in super().forward(images)]


class NoOperator(TwoHeads):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.special.bessel_j0(head) for head in super().forward(images)]


@pytest.mark.parametrize(
    ("model", "dynamic", "fact"),
    [
        (SizeFrozen(), True, "batch 3, 16x64: (boxes|scores) differ"),
        (Random(), False, "differ from torch"),
        (Broken(), False, "contain NaN or inf"),
        (NoOperator(), False, "opset 17: .*bessel"),
    ],
    ids=["frozen size", "random", "nan weights", "operator missing"],
)
def test_a_failed_export_says_why_and_leaves_what_was_there(
    model: nn.Module, dynamic: bool, fact: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the last good one")
    with pytest.raises(ExportError, match=fact):
        export(model, SPECS, path, (32, 48), dynamic=dynamic)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert path.read_bytes() == b"the last good one"


class Unflattening(TwoHeads):
    """torch.onnx takes a map's size behind unflatten for a constant."""

    def split(self, head: Tensor) -> Tensor:
        return head.unflatten(1, (-1, 7)).permute(0, 1, 3, 4, 2)


def test_a_graph_that_runs_at_one_size_only_is_not_dynamic(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="batch 3, 16x64: boxes have another shape"):
        export(Unflattening(), SPECS, tmp_path / "net.onnx", (32, 48), dynamic=True)
    assert not list(tmp_path.iterdir())


def test_a_network_without_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no detection head"):
        export(TwoHeads(), [], tmp_path / "net.onnx", (32, 32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxslim"])
def test_a_missing_package_is_named_with_its_pip_line(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_without(name: str) -> Any:
        if name == package:
            raise ImportError(name)
        return builtins.__import__(name)

    monkeypatch.setattr("utils.extras.import_module", import_without)
    with pytest.raises(MissingPackageError, match=f"pip install {package}$"):
        export(TwoHeads(), SPECS, tmp_path / "net.onnx", (32, 32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("batch", "size", "shapes"),
    [
        (True, False, [(1, 3, 32, 48), (3, 3, 32, 48)]),
        (False, True, [(1, 3, 32, 48), (1, 3, 16, 64)]),
    ],
    ids=["batch", "size"],
)
def test_only_what_is_asked_for_stays_open(
    batch: bool, size: bool, shapes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    job = exporting(TwoHeads(), SPECS, (32, 48), dynamic_batch=batch, dynamic_size=size)
    exported = export_onnx(job, tmp_path / "net.onnx")
    assert [parity.shape for parity in exported.parities] == shapes
    dims = onnx.load(exported.paths[0]).graph.input[0].type.tensor_type.shape.dim
    assert [bool(dim.dim_param) for dim in dims] == [batch, False, size, size]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("opset", [13, 20])
def test_the_opset_is_the_one_asked_for(precision: str, opset: int, tmp_path: Path) -> None:
    exported = export_small(tmp_path, precision=precision, opset=opset, dynamic_batch=True, dynamic_size=True)
    assert [entry.version for entry in onnx.load(exported.paths[0]).opset_import] == [opset]


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 10), ("fp16", 21), ("int8", 12)])
def test_an_opset_that_cannot_be_written_is_refused(precision: str, opset: int, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"--opset {opset}: unsupported for {precision}, .*; use 17"):
        export_small(tmp_path, precision=precision, opset=opset)
    assert not list(tmp_path.iterdir())


def test_raw_heads_are_the_models_own(tmp_path: Path) -> None:
    model = TwoHeads()
    job = exporting(model, SPECS, (32, 48), raw_heads=True, dynamic_batch=True, dynamic_size=True)
    path = export_onnx(job, tmp_path / "net.onnx").paths[0]
    images = torch.rand(2, 3, 48, 32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    heads = session.run(["head_0", "head_1"], {"images": images.numpy()})
    for actual, wanted in zip(heads, model.eval()(images), strict=True):
        np.testing.assert_allclose(actual, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_is_left_that_does_nothing(tmp_path: Path) -> None:
    """A fixed size leaves no shapes to compute, and constants lie in initializers."""
    exported = export(TwoHeads(), SPECS, tmp_path / "net.onnx", (32, 48))
    kinds = {node.op_type for node in onnx.load(exported.paths[0]).graph.node}
    assert not kinds & {"Shape", "Constant", "Identity", "Gather", "Range"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_is_left_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    model = TwoHeads().to(dtype).train()
    before = copy.deepcopy(model)
    export(model, SPECS, tmp_path / "net.onnx", (32, 32))
    assert all(module.training for module in model.modules())
    for name, tensor in before.state_dict().items():
        assert tensor.dtype == model.state_dict()[name].dtype
        assert torch.equal(tensor, model.state_dict()[name]), name
