"""An OpenVINO IR computes what the network does, or it is not there."""

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.exporters.networks import SPECS, TwoHeads
from utils.darknet.model import Darknet
from utils.detection.decode import HeadSpec
from utils.errors import ExportError, ToolkitError
from utils.exporters.job import Exported, Exporting, exporting
from utils.exporters.onnx import OnnxFiles
from utils.exporters.openvino import export_openvino
from utils.exporters.tracing import BoxesAndScores

openvino = pytest.importorskip("openvino")


def make_job(folder: Path, model: nn.Module, specs: Sequence[HeadSpec] = SPECS, **options: Any) -> Exporting:
    job = exporting(model, specs, (32, 48), **options)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return replace(job, onnx=OnnxFiles(job, scratch))


def export(folder: Path, model: nn.Module, **options: Any) -> Exported:
    return export_openvino(make_job(folder, model, **options), folder / "net.xml")


def images(count: int, batch: int = 1) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.random((batch, 3, 32, 48), dtype=np.float32) for _ in range(count)]


def run(path: Path, given: np.ndarray) -> list[np.ndarray]:
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    results = openvino.Core().compile_model(path, "CPU", options)(given)
    return [results["boxes"], results["scores"]]


def test_file_alone_computes_what_the_network_does(tmp_path: Path) -> None:
    model = TwoHeads()
    exported = export(tmp_path, model)
    (given,) = images(1)
    expected = BoxesAndScores(model, SPECS).eval()(torch.from_numpy(given))
    for actual, wanted in zip(run(exported.paths[0], given), expected, strict=True):
        np.testing.assert_allclose(actual, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert [path.name for path in exported.paths] == ["net.xml", "net.bin"]


def test_texts_are_rt_info(tmp_path: Path) -> None:
    path = export(tmp_path, TwoHeads(), metadata={"names": '["a", "ü"]'}).paths[0]
    assert openvino.Core().read_model(path).get_rt_info(["names"]).value == '["a", "ü"]'


def test_open_batch_and_size_are_compared(tmp_path: Path) -> None:
    exported = export(tmp_path, TwoHeads(), dynamic_batch=True, dynamic_size=True)
    assert [parity.shape for parity in exported.parities] == [(1, 3, 32, 48), (3, 3, 16, 64)]
    assert run(exported.paths[0], np.zeros((2, 3, 80, 16), np.float32))[0].shape == (2, 45, 4)


def test_fp16_stores_halves_and_takes_and_gives_float32(tmp_path: Path) -> None:
    whole = export(tmp_path, TwoHeads()).paths[1].stat().st_size
    exported = export(tmp_path, TwoHeads(), precision="fp16")
    assert exported.paths[1].stat().st_size < 0.75 * whole
    assert {output.dtype for output in run(exported.paths[0], images(1)[0])} == {np.dtype(np.float32)}
    assert 1e-6 < exported.parities[0].largest < 5e-2


def quantised_inputs(path: Path) -> list[str]:
    """Names of the operators whose input is quantised."""
    operators = openvino.Core().read_model(path).get_ordered_ops()
    return [
        target.get_node().get_type_name()
        for operator in operators
        if operator.get_type_name() == "FakeQuantize"
        for target in operator.output(0).get_target_inputs()
    ]


def int8(folder: Path, model: nn.Module, **options: Any) -> Exported:
    pytest.importorskip("nncf")
    return export(folder, model, precision="int8", calibration=lambda: images(2, batch=2), **options)


def test_int8_quantises_convolutions_and_leaves_the_decoding_in_float(tmp_path: Path) -> None:
    exported = int8(tmp_path, TwoHeads())
    assert set(quantised_inputs(exported.paths[0])) == {"Convolution"}
    assert len(quantised_inputs(exported.paths[0])) == 4
    assert 1e-6 < exported.parities[0].largest < 0.2


@pytest.fixture
def darknet(root: Path) -> Darknet:
    torch.manual_seed(0)
    return Darknet.from_cfg(root / "tests/cfgs/residual.cfg").eval()


def test_sections_that_are_named_stay_in_float(darknet: Darknet, tmp_path: Path) -> None:
    specs = darknet.head_specs
    every = len(quantised_inputs(int8(tmp_path, darknet, specs=specs).paths[0]))
    fewer = int8(tmp_path, darknet, specs=specs, int8_skip=(0,))
    assert len(quantised_inputs(fewer.paths[0])) == every - 1


def test_a_section_without_convolution_cannot_be_named(darknet: Darknet, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="section 99 has no convolution"):
        int8(tmp_path, darknet, specs=darknet.head_specs, int8_skip=(99,))


def without(*names: str) -> Any:
    def import_without(name: str) -> Any:
        if name in names:
            raise ImportError(name)
        return builtins.__import__(name)

    return import_without


@pytest.mark.parametrize(
    ("options", "missing", "fact"),
    [
        ({"precision": "int8"}, "", "needs images"),
        ({"precision": "int8", "calibration": lambda: images(1)}, "nncf", "pip install nncf$"),
        ({}, "openvino", "pip install openvino$"),
    ],
    ids=["no images", "no nncf", "no openvino"],
)
def test_what_is_missing_is_named_and_nothing_written(
    options: dict[str, Any], missing: str, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, TwoHeads(), **options)
    monkeypatch.setattr("utils.extras.import_module", without(missing))
    with pytest.raises(ToolkitError, match=fact):
        export_openvino(job, tmp_path / "net.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["scratch"]


def test_another_networks_file_is_refused_and_the_old_one_kept(tmp_path: Path) -> None:
    for name in ("net.xml", "net.bin"):
        (tmp_path / name).write_bytes(b"the last good one")
    job = replace(make_job(tmp_path, TwoHeads(seed=1)), onnx=make_job(tmp_path, TwoHeads(seed=2)).onnx)
    with pytest.raises(ExportError, match=r"OpenVINO fp32 at batch 1, 32x48: (boxes|scores) differ"):
        export_openvino(job, tmp_path / "net.xml")
    kept = [tmp_path / name for name in ("net.bin", "net.xml")]
    assert sorted(file for file in tmp_path.iterdir() if file.is_file()) == kept
    assert {file.read_bytes() for file in kept} == {b"the last good one"}


def test_int8_of_another_network_is_refused(tmp_path: Path) -> None:
    class Larger(TwoHeads):
        def forward(self, images: Tensor) -> list[Tensor]:
            return [head + 2 for head in super().forward(images)]

    job = make_job(tmp_path, TwoHeads(), precision="int8", calibration=lambda: images(2))
    with pytest.raises(ExportError, match=r"OpenVINO int8: boxes differ from torch's by .*, more than 150%"):
        export_openvino(replace(job, onnx=make_job(tmp_path, Larger()).onnx), tmp_path / "net.xml")
