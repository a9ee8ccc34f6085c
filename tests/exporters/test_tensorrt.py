"""An engine is built for what it is asked for, or the log's reason is told. Nothing here needs a GPU."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.exporters.networks import SPECS, TwoHeads
from utils.errors import ExportError, MissingPackageError
from utils.exporters.job import Exported, Exporting, exporting
from utils.exporters.onnx import OnnxFiles
from utils.exporters.tensorrt import export_tensorrt, library, profile

onnx = pytest.importorskip("onnx")
trt = pytest.importorskip("tensorrt_rtx")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where there is one: only then is it TensorRT-RTX that builds, and for any GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def make_job(folder: Path, model: nn.Module | None = None, **options: Any) -> Exporting:
    job = exporting(model or TwoHeads(), SPECS, (32, 48), **options)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return replace(job, onnx=OnnxFiles(job, scratch))


def export(folder: Path, **options: Any) -> Exported:
    return export_tensorrt(make_job(folder, **options), folder / "net.engine")


def facts(exported: Exported) -> dict[str, Any]:
    return json.loads(exported.paths[1].read_text(encoding="utf-8"))


def test_engine_lies_beside_its_texts(tmp_path: Path) -> None:
    exported = export(tmp_path, metadata={"names": '["a", "ü"]'})
    assert [path.name for path in exported.paths] == ["net.engine", "net.engine.json"]
    assert exported.paths[0].stat().st_size > 1000
    found = facts(exported)
    assert found["names"] == '["a", "ü"]'
    assert found["tensorrt"]["package"] == "tensorrt_rtx"
    assert found["tensorrt"]["version"] == trt.__version__


def test_what_was_not_run_is_said(tmp_path: Path) -> None:
    exported = export(tmp_path)
    assert exported.parities == ()
    assert exported.infer is None
    assert "not run" in exported.note


def test_engine_for_more_gpus_is_larger(tmp_path: Path) -> None:
    one = export(tmp_path, targets=("SM86",))
    size = one.paths[0].stat().st_size
    two = export(tmp_path, targets=("SM86", "SM89"))
    assert facts(two)["tensorrt"]["targets"] == ["SM86", "SM89"]
    assert two.paths[0].stat().st_size > size


def test_open_shapes_become_a_profile(tmp_path: Path) -> None:
    exported = export(tmp_path, dynamic_batch=True, dynamic_size=True)
    shapes = facts(exported)["tensorrt"]["shapes"]
    assert shapes == {"least": [1, 3, 16, 16], "best": [1, 3, 32, 48], "most": [8, 3, 48, 80]}


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, (1, 3, 416, 320), (1, 3, 416, 320)),
        ({"dynamic_batch": True}, (1, 3, 416, 320), (8, 3, 416, 320)),
        ({"dynamic_size": True}, (1, 3, 192, 160), (1, 3, 640, 480)),
    ],
    ids=["fixed", "batch", "size"],
)
def test_profile_opens_only_what_is_dynamic(
    options: dict[str, bool], least: tuple[int, ...], most: tuple[int, ...]
) -> None:
    found = profile(exporting(TwoHeads(), SPECS, (416, 320), size_step=32, **options))
    assert found.best == (1, 3, 416, 320)
    assert all(side % 32 == 0 for shape in (found.least, found.most) for side in shape[2:])
    assert (found.least, found.most) == (least, most)


def test_smallest_size_is_one_step() -> None:
    assert profile(exporting(TwoHeads(), SPECS, (16, 16), dynamic_size=True)).least == (1, 3, 16, 16)


def save(folder: Path, nodes: list[Any], outputs: dict[str, Any], weights: list[Any] | None = None) -> Path:
    """An ONNX file with the images (1, 3, 32, 48) as input."""
    helper = onnx.helper
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 32, 48])
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    graph = helper.make_graph(nodes, "net", [images], values, weights or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "made.onnx")
    return folder / "made.onnx"


def suppressing(folder: Path) -> Path:
    """Boxes and scores of constants, suppressed in the graph, which TensorRT-RTX reads and cannot build."""
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = [
        helper.make_tensor("shape_boxes", kinds.INT64, [3], [1, 1152, 4]),
        helper.make_tensor("shape_scores", kinds.INT64, [3], [1, 4, 1152]),
        helper.make_tensor("most", kinds.INT64, [1], [5]),
        helper.make_tensor("overlap", kinds.FLOAT, [1], [0.5]),
        helper.make_tensor("least", kinds.FLOAT, [1], [0.1]),
    ]
    nodes = [
        helper.make_node("Reshape", ["images", "shape_boxes"], ["boxes"]),
        helper.make_node("Reshape", ["images", "shape_scores"], ["scores"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["scores_kept"], to=kinds.FLOAT),
    ]
    return save(folder, nodes, {"boxes": kinds.FLOAT, "scores_kept": kinds.FLOAT}, weights)


def unknown_operator(folder: Path) -> Path:
    nodes = [onnx.helper.make_node("Foo", ["images"], ["boxes"])]
    return save(folder, nodes, {"boxes": onnx.TensorProto.FLOAT})


def half_outputs(folder: Path) -> Path:
    kinds = onnx.TensorProto
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["boxes"], to=kinds.FLOAT16),
        onnx.helper.make_node("Cast", ["images"], ["scores"], to=kinds.FLOAT16),
    ]
    return save(folder, nodes, {"boxes": kinds.FLOAT16, "scores": kinds.FLOAT16})


@pytest.mark.parametrize(
    ("write", "fact"),
    [
        (unknown_operator, "cannot read the ONNX file .*Plugin not found"),
        (half_outputs, r"the ONNX file has .*HALF.*, not .*FLOAT"),
        (lambda folder: folder / "absent.onnx", "cannot read the ONNX file .*cannot be found"),
    ],
    ids=["operator", "half outputs", "no file"],
)
def test_a_failed_build_tells_the_reason_and_leaves_what_was_there(
    write: Callable[[Path], Path], fact: str, tmp_path: Path
) -> None:
    file = write(tmp_path)
    path = tmp_path / "net.engine"
    path.write_bytes(b"the last good one")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError, match=fact):
        export_tensorrt(replace(exporting(TwoHeads(), SPECS, (32, 48)), onnx=lambda _: file), path)
    assert sorted(tmp_path.iterdir()) == before
    assert path.read_bytes() == b"the last good one"


def test_what_the_log_of_a_failed_build_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.exporters.tensorrt.require_contract", lambda *_: None)
    job = replace(exporting(TwoHeads(), SPECS, (32, 48)), onnx=lambda _: suppressing(tmp_path))
    with pytest.raises(ExportError, match=r"cannot build the network: .*no runners that implement it"):
        export_tensorrt(job, tmp_path / "net.engine")


def test_an_unknown_gpu_is_refused_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--target SM1,gtx: unsupported; use some of .*SM86"):
        export(tmp_path, targets=("SM1", "SM86", "gtx"))


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_without(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("utils.extras.import_module", import_without)
    with pytest.raises(MissingPackageError, match=r"pip install tensorrt-rtx-cu13$"):
        library()


@pytest.mark.parametrize(
    ("gpu", "targets", "expected"),
    [(True, (), "tensorrt"), (True, ("SM86",), "tensorrt_rtx"), (False, (), "tensorrt_rtx")],
)
def test_classic_tensorrt_builds_for_the_gpu_of_this_machine_only(
    gpu: bool, targets: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("utils.extras.import_module", lambda name: name)
    assert library(targets) == expected


def test_engine_loads_where_there_is_a_driver(tmp_path: Path) -> None:
    plan = export(tmp_path).paths[0].read_bytes()
    try:
        loaded = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR)).deserialize_cuda_engine(plan)
    except RuntimeError:
        loaded = None
    if loaded is None:
        pytest.skip("no NVIDIA driver here")
    names = [loaded.get_tensor_name(number) for number in range(loaded.num_io_tensors)]
    assert names == ["images", "boxes", "scores"]
