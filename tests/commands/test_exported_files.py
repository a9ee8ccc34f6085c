"""detect.py and evaluate.py on exported files: the boxes and figures of the network they came from."""

import json
from pathlib import Path

import numpy as np
import pytest

import detect
import evaluate
import slim_prune
from tests.runtimes.exported import (
    METADATA,
    NAMES,
    WRITERS,
    tiny_detector,
    write_onnx,
)
from utils.commands.evaluate.run import evaluate_network, open_split
from utils.commands.inputs import open_files
from utils.darknet.checkpoint import save_weights
from utils.darknet.model import Darknet
from utils.data.images import read_image
from utils.data.listing import read_data_file
from utils.data.shapes import make_shapes
from utils.errors import ToolkitError
from utils.exporters.job import exporting
from utils.exporters.onnx import export_onnx
from utils.runtimes.detecting import Detector, Thresholds, of_file, readers
from utils.runtimes.onnxruntime import OnnxRuntime
from utils.runtimes.openvino import OpenVino


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The tiny detector with its weights and a few shapes."""
    save_weights(tiny_detector(tmp_path), tmp_path / "net.weights")
    make_shapes(tmp_path, sizes={"train": 1, "valid": 5})
    return tmp_path


def model_of(project: Path) -> Darknet:
    return open_files(project / "net.cfg", project / "net.weights").eval()


def detections(project: Path, *files: str) -> list[dict]:
    out = project / "found.json"
    source = str(project / "shapes/images")
    more = ["--output", str(project / "out"), "--conf", "0.05", "--json", str(out)]
    detect.main([*files, "--source", source, *more])
    return json.loads(out.read_text())


def figures(project: Path, *files: str) -> dict:
    out = project / "figures.json"
    more = ["--data", str(project / "shapes.data"), "--workers", "0", "--json", str(out)]
    evaluate.main([*files, *more])
    return json.loads(out.read_text())


def cfg_and_weights(project: Path) -> list[str]:
    return ["--cfg", str(project / "net.cfg"), "--weights", str(project / "net.weights")]


@pytest.mark.parametrize("name", WRITERS)
def test_detect_finds_the_same_boxes_in_every_format(name: str, project: Path) -> None:
    package, write = WRITERS[name]
    pytest.importorskip(package)
    pytest.importorskip(name)
    expected = detections(project, *cfg_and_weights(project))
    found = detections(project, "--weights", str(write(model_of(project), project)))
    assert len(found) == len(expected) > 20
    for one, other in zip(found, expected, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["score"] == pytest.approx(other["score"], abs=2e-5)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.02)  # written with two decimals


def test_detect_names_the_classes_as_the_file_does(project: Path, capsys) -> None:
    pytest.importorskip("onnxruntime")
    detections(project, "--weights", str(write_onnx(model_of(project), project / "net.onnx")))
    assert any(name in capsys.readouterr().out for name in NAMES)


@pytest.mark.parametrize("name", WRITERS)
def test_evaluate_finds_the_same_figures_in_every_format(name: str, project: Path, capsys) -> None:
    package, write = WRITERS[name]
    pytest.importorskip(package)
    pytest.importorskip(name)
    expected = figures(project, *cfg_and_weights(project))
    path = write(model_of(project), project)
    found = figures(project, "--weights", str(path))
    for figure in ("map50", "map50_95", "recall"):
        assert found[figure] == pytest.approx(expected[figure], abs=1e-3)
    assert found["img_size"] == [96, 64]
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == f"next: python benchmark.py --models {path} --data {project / 'shapes.data'}"


def test_openvino_reads_an_onnx_file_when_asked(project: Path) -> None:
    pytest.importorskip("openvino")
    path = write_onnx(model_of(project), project / "net.onnx")
    found = [detections(project, "--weights", str(path), "--runtime", name) for name in readers(path)[:2]]
    assert [one["category_id"] for one in found[0]] == [one["category_id"] for one in found[1]]


@pytest.mark.parametrize(
    ("metadata", "words", "message"),
    [
        (False, [], r"net\.onnx: has no metadata.*; add --cfg"),
        (
            True,
            ["--img_size", "64"],
            r"net\.onnx: accepts only images of 3x96x64 .* not 3x64x64; give that size",
        ),
        (
            True,
            ["--runtime", "ncnn"],
            r"net\.onnx: ncnn does not read this file; use onnxruntime or openvino",
        ),
    ],
)
def test_what_a_file_cannot_do_is_told(metadata: bool, words: list[str], message: str, project: Path) -> None:
    path = write_onnx(model_of(project), project / "net.onnx", metadata=metadata)
    with pytest.raises(ToolkitError, match=message):
        detections(project, "--weights", str(path), *words)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_size_that_the_strides_do_not_divide_is_told(runtime: str, project: Path) -> None:
    pytest.importorskip(runtime)
    path = write_onnx(model_of(project), project / "net.onnx", is_open=True)
    words = ["--weights", str(path), "--img_size", "100", "--runtime", runtime]
    for command in (detections, figures):
        with pytest.raises(ToolkitError, match=r"net\.onnx: .* 100x100 .*; use multiples of 16$"):
            command(project, *words)


@pytest.mark.parametrize(("name", "value"), [("image_size", 416), ("nms_kind", "zz")])
def test_a_damaged_text_is_told(name: str, value: object, project: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = write_onnx(model_of(project), project / "net.onnx")
    proto = onnx.load(path)
    metadata = METADATA | {"darknet": json.dumps(json.loads(METADATA["darknet"]) | {name: value})}
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, path)
    with pytest.raises(ToolkitError, match=rf"net\.onnx: .*darknet: {name} .* is not .*; export"):
        detections(project, "--weights", str(path))


def test_a_cfg_fills_in_what_a_file_lacks(project: Path) -> None:
    path = write_onnx(model_of(project), project / "net.onnx", metadata=False)
    expected = detections(project, *cfg_and_weights(project))
    found = detections(project, "--cfg", str(project / "net.cfg"), "--weights", str(path))
    assert [one["category_id"] for one in found] == [one["category_id"] for one in expected]


def test_opencv_finds_the_same_boxes_with_cfg_and_weights(project: Path) -> None:
    files = cfg_and_weights(project)
    for size in ([], ["--img_size", "64", "96"]):
        expected = detections(project, *files, *size)
        found = detections(project, *files, *size, "--runtime", "opencv")
        assert [one["category_id"] for one in found] == [one["category_id"] for one in expected]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-4)


def test_a_runtime_is_for_exported_files_alone(project: Path) -> None:
    with pytest.raises(
        ToolkitError, match=r"--runtime openvino: runs exported files only, not .*net\.weights"
    ):
        detections(project, *cfg_and_weights(project), "--runtime", "openvino")


def test_a_file_of_other_classes_is_refused(project: Path) -> None:
    (project / "shapes.data").write_text("classes=2\nvalid=shapes/valid.txt\nnames=shapes.names\n")
    (project / "shapes.names").write_text("one\ntwo\n")
    path = write_onnx(model_of(project), project / "net.onnx")
    with pytest.raises(ToolkitError, match=r"2 classes, the network \(.*net\.onnx\) has 4"):
        figures(project, "--weights", str(path))


def test_real_images_real_weights(shared: Path, tmp_path: Path) -> None:
    """yolo-fastest on COCO images: boxes to 1e-3 pixels on both runtimes, mAP to 0.1 point."""
    pytest.importorskip("openvino")
    folder = shared / "weights/yolo-fastest-1.1"
    model = open_files(folder / "yolo-fastest-1.1.cfg", next(iter(folder.glob("*.weights")))).eval()
    size = (model.network.height, model.network.width)
    path = tmp_path / "net.onnx"
    facts = json.loads(METADATA["darknet"]) | {"image_size": size, "nms_kind": model.head_specs[-1].nms_kind}
    export_onnx(exporting(model, model.head_specs, size, metadata={"darknet": json.dumps(facts)}), path)
    networks = [of_file(path, OnnxRuntime()), of_file(path, OpenVino())]
    data = read_data_file(next((shared / "data/coco_mini").glob("*.data")))
    loader = open_split(data, "valid", model, size, limit=12)
    expected = Detector(model, size, Thresholds(), letterbox=False)
    maps = [evaluate_network(each, loader, data.names).map50 for each in (model, *networks)]
    assert maps[0] > 0.05
    assert max(maps) - min(maps) < 1e-3
    for network in networks:
        detector = Detector(network, size, Thresholds(), letterbox=False)
        for image in map(read_image, loader.dataset.images[:4]):
            rows, others = detector(image)[0], expected(image)[0]
            assert rows.shape == others.shape
            # in pixels of the network's input, whatever the image's size
            scale = np.tile(np.divide(size[::-1], image.shape[1::-1]), 2)
            assert np.abs((rows - others)[:, :4] * scale).max(initial=0) < 1e-3
            assert np.abs((rows - others)[:, 4:]).max(initial=0) < 1e-4


@pytest.mark.parametrize("words", [[], ["--cfg", "net.cfg"]])
def test_what_is_exported_cannot_be_pruned(words: list[str], project: Path, monkeypatch) -> None:
    monkeypatch.chdir(project)
    write_onnx(model_of(project), project / "net.onnx")
    files = ["--weights", "net.onnx", "--data", "shapes.data"]
    with pytest.raises(ToolkitError, match=r"net\.onnx: is an exported file, .*; give the \.weights or \.pt"):
        slim_prune.main([*files, *words])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"--weights .*none\.onnx: not found"):
        detect.main(["--weights", str(tmp_path / "none.onnx"), "--source", str(tmp_path)])


def test_a_batch_of_a_fixed_file_is_served_whole(project: Path) -> None:
    """Several images at a time from evaluate.py, a file that takes one."""
    path = write_onnx(model_of(project), project / "net.onnx")
    one, five = (figures(project, "--weights", str(path), "--batch-size", n)["map50"] for n in ("1", "5"))
    assert one == five
